"""From the options of a command to an open session, with its progress shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from halo_edge.cli.compute_options import ComputeOptions
from halo_edge.cli.console import byte_progress, notes
from halo_edge.cli.profile_option import chosen_profile, hint
from halo_edge.cluster.session import Session, open_session
from halo_edge.errors import HaloError
from halo_edge.model.pull import DEMO_MODEL, resolve_model

if TYPE_CHECKING:
    from halo_edge.cluster.trace_fetch import Timeline


def note(line: str) -> None:
    """In the middle of an answer."""
    notes.print(f"\n{line}", style="dim", markup=False, soft_wrap=True)


@contextmanager
def compute_session(
    options: ComputeOptions,
    context: int | None,
    *,
    tell: Callable[[str], None] = note,
    kv_bytes: int = 0,
) -> Iterator[Session]:
    """`tell` is given a line for the user when there is a new plan, in any thread. `kv_bytes`: for
    the KV cache, where several sequences share it.

    Raises `HaloError` for anything that keeps the model or the workers from being used.

    What was to be traced is written when the body has ended without an exception.
    """
    with ExitStack() as stack:
        trace = stack.enter_context(_opened(options.trace)) if options.trace else None
        model, profile = model_path(options.model), None
        if options.several_devices:
            profile = chosen_profile(options.profile, model)
        session_options = replace(options.session(model, context, profile), kv_bytes=kv_bytes)
        with byte_progress("sending shards") as progress:
            session = stack.enter_context(open_session(session_options, _summed(progress), tell))
        if options.several_devices and profile is None and options.profile is None:
            hint(model)
        if options.impair:
            notes.print(f"impaired on purpose: {options.impair}", style="yellow")
        yield session
        if trace is not None:
            _write(session.timeline(), trace)


def model_path(model: str | None) -> Path:
    """The file of a model named on the command line, fetched if it is known and not here."""
    with byte_progress(f"fetching {model or DEMO_MODEL}") as progress:
        return resolve_model(model or DEMO_MODEL, progress=progress)


def _opened(path: Path) -> TextIO:
    """A file for the trace, as it would be a pity to learn at the end that there can be none."""
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise HaloError(f"--trace: {path} cannot be written ({error.strerror})") from None


def _write(timeline: Timeline, file: TextIO) -> None:
    from halo_edge.cluster.trace_file import write_trace

    try:
        with file:  # closing writes, and may fail
            write_trace(timeline, file)
    except OSError as error:
        raise HaloError(f"--trace: {file.name} cannot be written ({error.strerror})") from None
    line = f"trace: {file.name}, for https://ui.perfetto.dev"
    notes.print(line, style="dim", markup=False, soft_wrap=True)
    for device in timeline.devices:
        if device.dropped:
            notes.print(
                f"trace: {device.name} was cut off after {len(device.spans)} spans, "
                f"{device.dropped} are missing",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )


def _summed(progress: Callable[[int, int | None], None]) -> Callable[[int], None]:
    total = 0

    def add(nbytes: int) -> None:
        nonlocal total
        total += nbytes
        progress(total, None)

    return add
