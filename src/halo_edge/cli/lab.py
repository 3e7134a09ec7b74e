"""`halo lab`: the virtual cluster with real packets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

from rich.console import Console
from rich.table import Table
from typer import Argument, Exit, Option, Typer

from halo_edge.cli import simulate
from halo_edge.cli.console import notes, print_json
from halo_edge.cli.options import Json
from halo_edge.lab import running
from halo_edge.lab.capacity import measure_capacity
from halo_edge.lab.impairment import parse_impairment
from halo_edge.lab.lab import Lab, check_possible
from halo_edge.lab.spec import built_in, read_spec

LabName = Annotated[
    str,
    Argument(metavar="LAB", help=f"A TOML file (docs/lab.md), or one of {', '.join(built_in())}."),
]
Device = Annotated[str, Argument(metavar="DEVICE", help="A device's name, e.g. n1.")]
Command = Annotated[list[str], Argument(metavar="-- COMMAND...")]
NoWorkers = Annotated[
    bool, Option("--no-workers", help="Start no workers; e.g. to run another engine.")
]

app = Typer(
    help="A cluster in a box: bad links and slow devices on this machine (Linux, root).",
    no_args_is_help=True,
)


@app.command()
def run(lab: LabName, command: Command, no_workers: NoWorkers = False) -> None:
    """Build the lab, run a command on its root, and take the lab down.

    Workers run on the other devices, and `halo` commands find them by themselves. The lab's events
    happen while the command runs. Exit status: the command's.
    """
    with _open(lab, workers=not no_workers) as opened:
        status = opened.run(command)
        _report(opened)
    raise Exit(status)


@app.command(name="exec")
def execute(lab: LabName, device: Device, command: Command) -> None:
    """Run a command on a device: of the lab that is up, or of one built for it alone."""
    check_possible()
    spec = read_spec(lab)
    spec.device(device)
    if running.is_up(spec.name):
        entered = running.entry(spec, device).command(command)
        os.execv(entered[0], entered)
    with Lab(spec, _tell) as opened:
        status = opened.run(command, device)
    raise Exit(status)


@app.command()
def up(lab: LabName, no_workers: NoWorkers = False) -> None:
    """Build the lab and keep it until Ctrl-C. Its events happen from the start."""
    with _open(lab, workers=not no_workers) as opened:
        notes.print(f"up; `halo lab exec {lab} DEVICE -- COMMAND` looks around, Ctrl-C ends it")
        try:
            opened.stay()
        except KeyboardInterrupt:
            _report(opened)


@app.command(name="set")
def change(
    lab: LabName,
    device: Device,
    link: Annotated[
        str | None,
        Option("--link", metavar="loss=P,delay_ms=D,...", help="New settings, each way."),
    ] = None,
    cut: Annotated[bool | None, Option("--cut/--join", help="Cut the link, or join it.")] = None,
    speed: Annotated[float | None, Option("--speed", min=0.01, help="CPU quota, cores.")] = None,
) -> None:
    """Change a device of a lab that is up."""
    check_possible()
    settings = None if link is None else parse_impairment(link)[0]
    running.change(read_spec(lab), device, settings=settings, cut=cut, speed=speed)


@app.command()
def down(
    lab: Annotated[str | None, Argument(metavar="[LAB]", help="Default: every lab.")] = None,
) -> None:
    """End a lab and take away everything it made, also after it was killed."""
    check_possible()
    names = [read_spec(lab).name] if lab is not None else running.labs()
    for name in names:
        running.take_down(name)
        notes.print(f"lab {name} is down")
    if not names:
        notes.print("no lab is up, and nothing of one is left")


@app.command()
def capacity(json: Json = False) -> None:
    """How many packets a second the forwarder of a lab carries on this machine."""
    found = measure_capacity(_tell)
    if json:
        print_json(asdict(found))
        return
    bound = "at least " if found.at_least else ""
    print(
        f"{bound}{found.packets_per_s:,.0f} packets/s of 1400 bytes, with {found.busy:.0%} of a "
        f"core; a packet that travels alone takes "
        f"{found.latency_median_s * 1e6:.0f} us (median), {found.latency_p99_s * 1e6:.0f} us (99 %)"
    )


@app.command(name="list")
def show() -> None:
    """The labs of this machine, and the descriptions that come with the package."""
    table = Table(box=None, pad_edge=False)
    for column in ("lab", "state"):
        table.add_column(column)
    for name in running.labs():
        table.add_row(name, "up" if running.is_up(name) else "killed; `halo lab down` cleans up")
    for name in built_in():
        table.add_row(name, "description in the package")
    Console(highlight=False).print(table)


@contextmanager
def _open(lab: str, *, workers: bool) -> Iterator[Lab]:
    spec = read_spec(lab)
    with Lab(spec, _tell) as opened:
        if workers and spec.workers:
            opened.start_workers()
            _tell(f"workers on {', '.join(device.name for device in spec.workers)} are ready")
        yield opened


def _report(lab: Lab) -> None:
    table = Table(box=None, pad_edge=False, style="dim")
    for column in ("link", "packets", "lost", "asked", "queue overflow", "while cut"):
        table.add_column(column, justify="left" if column == "link" else "right")
    counted, links = lab.counters(), lab.links
    for device in lab.spec.machines:
        up, down = counted[device.name].up, counted[device.name].down
        varied = links[device.name] != (device.up, device.down)
        for way, counters, asked in (("up", up, device.up), ("down", down, device.down)):
            if counters.offered:
                table.add_row(
                    f"{device.name} {way}",
                    f"{counters.offered:,}",
                    f"{counters.realised_loss:.2%}",
                    "varied" if varied else f"{asked.mean_loss:.2%}",
                    str(counters.overflowed),
                    str(counters.cut),
                )
    notes.print(table)
    for line in lab.warnings():
        notes.print(f"warning: {line}", style="yellow", soft_wrap=True)


def _tell(line: str) -> None:
    notes.print(line, style="dim", soft_wrap=True)


app.command()(simulate.simulate)
app.command()(simulate.fuzz)
app.command()(simulate.profile)
