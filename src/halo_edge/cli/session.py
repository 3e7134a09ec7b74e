"""A model and whoever computes its FFN, opened as the options say and closed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from halo_edge.cli.console import byte_progress, notes
from halo_edge.cli.options import SessionOptions
from halo_edge.cluster.control import DEFAULT_CLUSTER, ControlOptions, open_control
from halo_edge.cluster.discovery import DISCOVERY_S, find_workers
from halo_edge.cluster.impairment import ImpairmentOptions
from halo_edge.cluster.local import CLUSTER, START_TIMEOUT_S, LocalWorkers
from halo_edge.cluster.root import Cluster, RoundsOptions
from halo_edge.engine.gather import Gather
from halo_edge.engine.load import LoadedModel, load
from halo_edge.errors import HaloError
from halo_edge.model.pull import DEMO_MODEL, resolve_model


@dataclass(frozen=True)
class ComputeSession:
    """`cluster` is None when everything is computed in this process."""

    model: LoadedModel
    gather: Gather
    cluster: Cluster | None
    local_pids: list[int]


@contextmanager
def open_session(options: SessionOptions, context: int | None) -> Iterator[ComputeSession]:
    """Raises `HaloError` for anything that keeps the model or the workers from being used."""
    rounds = RoundsOptions(
        wire=options.wire,
        transport=options.transport,
        split=_shares(options.split),
        impairment=ImpairmentOptions.parse(options.impair) if options.impair else None,
        stall_timeout_s=options.stall_timeout,
    )
    path = model_path(options.model)
    with ExitStack() as stack:
        local = None
        if options.local_workers:  # first, as they start while we load
            local = stack.enter_context(LocalWorkers(options.local_workers, options.threads_each))
        model = load(path, threads=options.threads_each, context=context)
        if not options.remote and local is None:
            if rounds.impairment is not None or rounds.split is not None:
                raise HaloError("--impair and --split need workers; give --workers 1 or more")
            yield ComputeSession(model, model.local_ffn(), None, [])
            return
        if local is not None and local.session is not None:
            session, name = local.session, CLUSTER
            expected: int | None = options.local_workers
            found = find_workers(
                session, name, expected=expected, timeout_s=START_TIMEOUT_S, check=local.check
            )
        else:
            name = options.cluster or DEFAULT_CLUSTER
            session = open_control(_control_options(options, name))
            stack.callback(session.close)
            found = find_workers(session, name, expected=options.workers, timeout_s=DISCOVERY_S)
        with byte_progress("sending shards") as progress:
            cluster = stack.enter_context(
                Cluster(session, name, found, model.gguf, model.params, rounds, _summed(progress))
            )
            gather = cluster.gather(model.runtime, model.forward.activations)
        if rounds.impairment is not None:
            notes.print(f"impaired on purpose: {options.impair}", style="yellow")
        yield ComputeSession(model, gather, cluster, local.pids if local is not None else [])


def model_path(model: str | None) -> Path:
    """The file of a model named on the command line, fetched if it is known and not here."""
    with byte_progress(f"fetching {model or DEMO_MODEL}") as progress:
        return resolve_model(model or DEMO_MODEL, progress=progress)


def _control_options(options: SessionOptions, name: str) -> ControlOptions:
    return ControlOptions(
        name,
        connect=options.connect or [],
        multicast=not options.connect,
        config_file=options.control_config,
    )


def _shares(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise HaloError(f"--split needs numbers with commas between, not {text!r}") from None


def _summed(progress: Callable[[int, int | None], None]) -> Callable[[int], None]:
    done = 0

    def add(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(done, None)

    return add
