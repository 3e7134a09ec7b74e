"""docs/RESULTS.md from the results of `halo bench --out`: tables, plots, and how each was measured.

The page is prose with blocks in it, each of which is replaced as a whole:

    <!-- loss -->
    ...
    <!-- end -->

stands for the experiment's `loss.json` (and `loss.svg`) in the directory of results, and
`<!-- recorded: NAME -->` for a table of `recorded.json`, which a person wrote down because another
program, or hours, are needed to measure it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from halo_edge.bench import markdown
from halo_edge.bench.experiments import usual_experiments
from halo_edge.bench.machine import Machine
from halo_edge.bench.markdown import Column
from halo_edge.bench.plot import to_svg
from halo_edge.bench.result import Document, read_bounded, read_document, rows_of
from halo_edge.errors import HaloError

_BLOCK: Final = re.compile(
    r"(<!-- (?P<kind>recorded: )?(?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.S
)


@dataclass(frozen=True)
class Recorded:
    """A table that was measured by hand. `how`: so that another can repeat it."""

    date: str
    machine: str
    how: str
    columns: list[str]
    rows: list[list[str]]


def render(page: str, directory: Path, link: str) -> str:
    """`page` with all its blocks made anew. `link`: the way from the page to `directory`.

    Raises `HaloError` for a block of which there are no results.
    """

    def replaced(block: re.Match[str]) -> str:
        name = block["name"]
        text = _recorded(directory, name) if block["kind"] else _measured(directory, name, link)
        return f"{block[1]}{text}\n{block[4]}"

    return _BLOCK.sub(replaced, page)


def write_plots(directory: Path) -> None:
    """An SVG beside each result that has a plot. Raises `HaloError`."""
    for name, experiment in usual_experiments().items():
        path = directory / f"{name}.json"
        if experiment.plot is not None and path.exists():
            figure = experiment.plot(rows_of(read_document(path), experiment))
            path.with_suffix(".svg").write_text(to_svg(figure))


def _measured(directory: Path, name: str, link: str) -> str:
    experiment = usual_experiments().get(name)
    if experiment is None:
        raise HaloError(f"the page wants results of {name!r}, which is no experiment")
    document = read_document(directory / f"{name}.json")
    parts = [experiment.table(rows_of(document, experiment))]
    if experiment.plot is not None:
        parts.append(f"![{name}]({link}/{name}.svg)")
    return "\n\n".join([*parts, _provenance(document)])


def _provenance(document: Document) -> str:
    commit = document.commit
    source = "no repository" if commit is None else f"commit {commit.sha1[:10]}"
    if commit is not None and commit.changed:
        source += " with changes"
    lines = [
        f"`{document.command}` on {document.model}, {document.repetitions} repetition(s) in turn; "
        f"{document.date[:10]}, {source}; {_machine(document.machine)}."
    ]
    lines += [f"Warning: {warning}." for warning in document.warnings]
    return "\n".join(lines)


def _machine(machine: Machine) -> str:
    return (
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes / (1 << 30):.0f} GiB, "
        f"{machine.kernel}, Python {machine.python}, ggml-python {machine.ggml_python}"
    )


def _recorded(directory: Path, name: str) -> str:
    path = directory / "recorded.json"
    try:
        tables = msgspec.json.decode(read_bounded(path), type=dict[str, Recorded])
    except msgspec.DecodeError as error:
        raise HaloError(f"{path}: {error}") from None
    if name not in tables:
        raise HaloError(f"{path} has no table {name!r}")
    found = tables[name]
    columns = [
        Column[list[str]](heading, lambda row, i=i: row[i], left=i == 0)  # type: ignore[misc]
        for i, heading in enumerate(found.columns)
    ]
    table = markdown.table(columns, found.rows)
    return f"{table}\n\nRecorded by hand, {found.date}, {found.machine}: {found.how}"
