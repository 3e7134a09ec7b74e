"""From the options of a command to an open session, with its progress shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from halo_edge.cli.console import byte_progress, notes
from halo_edge.cli.options import ComputeOptions
from halo_edge.cluster.session import Session, open_session
from halo_edge.model.pull import DEMO_MODEL, resolve_model


@contextmanager
def compute_session(options: ComputeOptions, context: int | None) -> Iterator[Session]:
    """Raises `HaloError` for anything that keeps the model or the workers from being used."""
    session_options = options.session(model_path(options.model), context)
    with ExitStack() as stack:
        with byte_progress("sending shards") as progress:
            session = stack.enter_context(open_session(session_options, _summed(progress)))
        if options.impair:
            notes.print(f"impaired on purpose: {options.impair}", style="yellow")
        yield session


def model_path(model: str | None) -> Path:
    """The file of a model named on the command line, fetched if it is known and not here."""
    with byte_progress(f"fetching {model or DEMO_MODEL}") as progress:
        return resolve_model(model or DEMO_MODEL, progress=progress)


def _summed(progress: Callable[[int, int | None], None]) -> Callable[[int], None]:
    total = 0

    def add(nbytes: int) -> None:
        nonlocal total
        total += nbytes
        progress(total, None)

    return add
