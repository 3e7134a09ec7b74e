"""Text scored through a session that nobody else uses, and compared with what it said before.

Both the strict run and those compared with it go through the same processes and shards, so that
their difference is what going on without chunks costs, and nothing else.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from halo_edge.bench.nudged import NudgedFfn
from halo_edge.bench.probe_messages import Base, Score, Scored
from halo_edge.bench.result import read_bounded
from halo_edge.cluster.root import Cluster
from halo_edge.cluster.session import Session
from halo_edge.engine.gather import Gather
from halo_edge.engine.kl import KlMeter, Origin, open_base, save_base
from halo_edge.engine.windows import Judge, Scope, cut, score
from halo_edge.errors import HaloError


def read_text(path: Path) -> str:
    """Raises `HaloError` for a file that is no text, or too long."""
    try:
        return read_bounded(path).decode()
    except UnicodeDecodeError:
        raise HaloError(f"{path} is not text in UTF-8") from None


class Scorer:
    """`directory`: for the bases."""

    def __init__(self, session: Session, directory: Path) -> None:
        self._session = session
        self._directory = directory

    def score(self, cluster: Cluster, request: Score) -> Scored:
        """Raises `HaloError` for a text that is too short, a base that was not kept, and as
        `Forward.step` does."""
        model = self._session.model
        text = read_text(Path(request.text))
        scope = Scope(request.context, request.first, request.windows, request.step_tokens)
        windows = cut(model.tokenizer, text, scope)
        if len(windows) < request.windows:
            raise HaloError(
                f"{request.text} has fewer than {request.first + request.windows} windows of "
                f"{request.context} tokens; give a longer text"
            )
        origin = Origin.of(model, text, scope, len(windows))
        base = self._directory / f"{origin.text}-{origin.first}-{request.step_tokens}.logits"
        losses, steps_ms = [], []
        with ExitStack() as stack:
            judges: list[Judge] = []
            meter: KlMeter | None = None
            if request.base is Base.KEEP:
                judges.append(stack.enter_context(save_base(base, origin)))
            elif request.base is Base.COMPARE:
                meter = stack.enter_context(open_base(base, origin))
                judges.append(meter)
            before, begun_s = cluster.spent, time.monotonic()
            scored = score(
                model.forward,
                self._gather(request),
                windows,
                step_tokens=request.step_tokens,
                judges=judges,
            )
            for window in scored:
                losses += window.losses.tolist()
                steps_ms += [step_s * 1e3 for step_s in window.steps_s]
        return Scored(
            begun_s,
            losses,
            [] if meter is None else meter.kls.tolist(),
            0 if meter is None else meter.same_top,
            steps_ms,
            tokens=len(windows) * request.context,
            spent=cluster.spent.since(before),
        )

    def _gather(self, request: Score) -> Gather:
        if not request.nudged:
            return self._session.gather
        model = self._session.model
        return NudgedFfn(
            self._session.gather,
            model.forward.activations.ffn,
            model.params.n_layers // 2,
            request.context,
            request.step_tokens,
        )
