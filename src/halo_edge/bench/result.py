"""What an experiment gave, as a JSON document: the rows, and all that one must know to trust them.

{"experiment": "loss", "command": "halo bench loss --quick", "version": ..., "commit": ...,
 "date": ..., "machine": {...}, "model": ..., "rows": [{"transport": "udp", ...}, ...]}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from halo_edge import __version__
from halo_edge.bench.experiment import Experiment, Measured, Settings
from halo_edge.bench.machine import Commit, Machine
from halo_edge.errors import HaloError

MAX_FILE_BYTES: Final = 64 << 20

RowT = TypeVar("RowT")


@dataclass(frozen=True)
class Document:
    """`command` measures the same again; `date` is UTC; `model` is the file's name. `commit` is
    None where the source was not part of a repository."""

    experiment: str
    command: str
    version: str
    commit: Commit | None
    date: str
    machine: Machine
    model: str
    quick: bool
    repetitions: int
    warnings: list[str]
    rows: list[dict[str, Any]]


def document(
    experiment: Experiment[Any, Any, RowT], settings: Settings, measured: Measured[RowT]
) -> Document:
    """Of what was measured here and now."""
    return Document(
        experiment=experiment.name,
        command=command_line(experiment, settings),
        version=__version__,
        commit=Commit.here(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=Machine.here(),
        model=settings.model.name,
        quick=settings.quick,
        repetitions=settings.size.repetitions,
        warnings=measured.warnings,
        rows=msgspec.to_builtins(measured.rows),
    )


def command_line(experiment: Experiment[Any, Any, Any], settings: Settings) -> str:
    """The command that measures the same, but for the model's path, which is nobody's business."""
    words = ["halo bench", experiment.name]
    usual, size = experiment.quick if settings.quick else experiment.full, settings.size
    if settings.quick:
        words.append("--quick")
    if size.repetitions != usual.repetitions:
        words.append(f"--repetitions {size.repetitions}")
    if size.tokens != usual.tokens:
        words.append(f"--tokens {size.tokens}")
    words += [f"--{name} {value}" for name, value in experiment.options.items()]
    return " ".join(words)


def rows_of(document: Document, experiment: Experiment[Any, Any, RowT]) -> Sequence[RowT]:
    """Raises `HaloError` for rows of another version of the experiment."""
    try:
        return msgspec.convert(document.rows, list[experiment.row])  # type: ignore[name-defined]
    except msgspec.ValidationError as error:
        raise HaloError(
            f"{experiment.name}.json has other rows than this version writes ({error}); "
            f"measure again with `{document.command}`"
        ) from None


def to_json(value: object) -> str:
    """For people too: indented, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n"


def read_document(path: Path) -> Document:
    """Raises `HaloError` for a file that cannot be read or is no such document."""
    try:
        return msgspec.json.decode(read_bounded(path), type=Document)
    except msgspec.DecodeError as error:
        raise HaloError(f"{path} is no result of `halo bench` ({error})") from None


def read_bounded(path: Path) -> bytes:
    """The whole of a small file. Raises `HaloError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise HaloError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise HaloError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MB; it is no result")
    return data
