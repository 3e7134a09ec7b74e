"""A model and whoever computes its FFN, opened together and closed together.

This process alone, worker processes on this machine, or the workers of a cluster: the engine
cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from halo_edge.cluster.ahead import one_by_one, read, repack_attention, repack_ffn
from halo_edge.cluster.control import ControlOptions, open_control
from halo_edge.cluster.discovery import (
    DISCOVERY_S,
    EXPECTED_S,
    LET_IN_S,
    SETTLE_S,
    find_workers,
)
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.root_memory import RootMemory
from halo_edge.cluster.rounds_options import RoundsOptions
from halo_edge.compute.ffn import FfnWeights
from halo_edge.engine.gather import Gather
from halo_edge.engine.load import LoadedModel, load
from halo_edge.engine.trace import Tracer
from halo_edge.errors import HaloError

if TYPE_CHECKING:
    from halo_edge.cluster.local import LocalWorkers
    from halo_edge.cluster.root import Cluster
    from halo_edge.cluster.trace_fetch import Timeline


@dataclass(frozen=True)
class SessionOptions:
    """`workers`: with `control`, how many to wait for (None: all found); without, how many to start
    on this machine (0: none). `threads`: of every process on this machine. `kv_bytes`: for the KV
    cache, where several sequences are to share it. `tracer`: a `Recorder`, also has the workers
    record."""

    model: Path
    threads: int = 1
    context: int | None = None
    workers: int | None = 0
    control: ControlOptions | None = None
    rounds: RoundsOptions = field(default_factory=RoundsOptions)
    tracer: Tracer = field(default_factory=Tracer)
    kv_bytes: int = 0


@dataclass(frozen=True)
class Session:
    """`cluster` is None when everything is computed in this process."""

    model: LoadedModel
    gather: Gather
    cluster: Cluster | None = None
    local_pids: tuple[int, ...] = ()

    def timeline(self) -> Timeline:
        """Where the time went on each device, if the session was opened with a `Recorder`.

        Raises `HaloError` for a worker that does not answer.
        """
        from halo_edge.cluster.trace_fetch import Timeline, root_trace

        workers = self.cluster.traces() if self.cluster is not None else []
        return Timeline((root_trace(self.model.forward.tracer), *workers))


@contextmanager
def open_session(
    options: SessionOptions,
    progress: Callable[[int], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Session]:
    """`progress` is told the bytes of each shard sent to a worker, `tell` a line for the user when
    there is a new plan.

    Raises `HaloError` for anything that keeps the model or the workers from being used.
    """
    rounds = options.rounds
    memory = RootMemory(rounds.memory_bytes)
    if options.control is None and not options.workers:
        if rounds.wrap_link is not None or rounds.split is not None:
            raise HaloError("--impair and --split need workers; give --workers 1 or more")
        with one_by_one() as reading, one_by_one() as repacking:
            read(reading, options.model, memory)
            model = _load(options)
            repack_attention(repacking, model)
            layers = range(model.params.n_layers)
            ffn = (FfnWeights.from_gguf(model.gguf, layer) for layer in layers)
            repack_ffn(repacking, model.runtime.weights, ffn)
            yield Session(model, model.local_ffn())
        return
    with ExitStack() as stack:
        local = stack.enter_context(_local(options)) if options.control is None else None
        reading, loading = (stack.enter_context(one_by_one()) for _ in range(2))
        may_come_later = rounds.split is None and rounds.transport is Transport.UDP
        if local is None and may_come_later:  # then the root begins alone, and needs all of it
            read(reading, options.model, memory)
        opening = loading.submit(_opened, options, loading)  # while workers start, or are found

        def check() -> None:
            if local is not None:
                local.check()
            if opening.done():
                opening.result()  # raises what opening the model raised

        if local is not None:
            control, name, timeout_s = local.session, local.cluster, local.start_timeout_s
            # They share the cores with the root, which alone would be faster.
            rounds = replace(rounds, scheduled=False)
        else:
            assert options.control is not None
            control, name = open_control(options.control), options.control.cluster
            timeout_s = DISCOVERY_S if options.workers is None else EXPECTED_S
            stack.callback(control.close)
        # Meanwhile: importing it takes as long as opening a model.
        from halo_edge.cluster.root import Cluster

        found = find_workers(
            control,
            name,
            expected=options.workers,
            timeout_s=timeout_s,
            settle_s=LET_IN_S if may_come_later else SETTLE_S,
            check=check,
        )
        model = opening.result()
        cluster = stack.enter_context(
            Cluster(control, name, found, model.gguf, model.params, rounds, progress, tell)
        )
        forward = model.forward
        gather = cluster.gather(model.runtime, forward.activations, forward.inputs, options.tracer)
        yield Session(model, gather, cluster, local.pids if local is not None else ())


def _opened(options: SessionOptions, loading: ThreadPoolExecutor) -> LoadedModel:
    """In the thread of `loading`, which goes on with what the root computes under every plan."""
    model = _load(options)
    repack_attention(loading, model)
    return model


def _load(options: SessionOptions) -> LoadedModel:
    return load(
        options.model,
        threads=options.threads,
        context=options.context,
        kv_bytes=options.kv_bytes,
        tracer=options.tracer,
    )


def _local(options: SessionOptions) -> LocalWorkers:
    # With all that a worker's process needs, which a root has no other use for.
    from halo_edge.cluster.local import LocalWorkers

    assert options.workers
    return LocalWorkers(options.workers, options.threads)
