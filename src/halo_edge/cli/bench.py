"""`halo bench`: the experiments behind the figures in docs/."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from typer import Option, Typer

from halo_edge.bench.overhead import Row, measure
from halo_edge.cli.compute import model_path
from halo_edge.cli.console import byte_progress, notes, print_json
from halo_edge.cli.options import Json, Model
from halo_edge.compute.wire import Wire
from halo_edge.model.cache import user_cache
from halo_edge.model.synth import write_synthetic

SHAPE = "tinyllama-1.1b"

app = Typer(help="Measure. Every figure in docs/ comes from one of these.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    pass


@app.command()
def overhead(
    model: Model = None,
    repetitions: Annotated[int, Option("--repetitions", "-r", min=1)] = 7,
    wire: Annotated[Wire, Option("--wire")] = Wire.MIXED,
    json: Json = False,
) -> None:
    """Four processes on one core against one process: what the rounds cost.

    The model is random weights in TinyLlama's shape (q4_0), made when it is not there yet, unless
    --model names another.
    """
    path = model_path(model) if model else _synthetic(SHAPE)
    rows = measure(path, wire, repetitions, lambda line: notes.print(line, style="dim"))
    if json:
        print_json({"model": path.name, "wire": wire.value, "rows": [asdict(row) for row in rows]})
    else:
        Console(highlight=False).print(_table(path.name, repetitions, rows))


def _synthetic(shape: str) -> Path:
    path = user_cache() / "models" / f"synth-{shape}-q4_0.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with byte_progress(f"writing {path.name}") as progress:
            write_synthetic(shape, path, progress=progress)
    return path


def _table(model: str, repetitions: int, rows: list[Row]) -> Table:
    table = Table(title=f"{model}, one core, {repetitions} repetitions in turn")
    for column in ("case", "processes", "TPOT ms (median)", "min", "max", "against one process"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        table.add_row(
            row.name,
            str(row.devices),
            f"{row.tpot_ms:.1f}",
            f"{row.tpot_ms_min:.1f}",
            f"{row.tpot_ms_max:.1f}",
            f"{row.ratio:.2f}x",
        )
    return table
