"""`halo lab simulate`, `fuzz` and `profile`: clusters in virtual time. None of them needs root."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median
from typing import Annotated

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from typer import Argument, Exit, Option

from halo_edge.cli.console import notes, print_json
from halo_edge.cli.options import Json
from halo_edge.errors import HaloError
from halo_edge.lab.fuzz import Report, run_schedule
from halo_edge.lab.host_profile import measure_host_profile
from halo_edge.lab.model_shape import DEFAULT_SHAPE, read_shape
from halo_edge.lab.profiles import (
    HOST,
    DeviceProfile,
    load_profile,
    read_profile,
    write_profile,
)
from halo_edge.lab.sim_trace import LineTrace, SimTrace
from halo_edge.lab.simulator import Simulated, Work
from halo_edge.lab.simulator import simulate as run_simulation
from halo_edge.lab.spec import LabSpec, built_in, read_spec

Shape = Annotated[
    str, Option("--model", "-m", help="A shape that `halo synth` knows, or a GGUF file.")
]


def simulate(
    lab: Annotated[
        str, Argument(metavar="LAB", help=f"A TOML file, or one of {', '.join(built_in())}.")
    ],
    model: Shape = DEFAULT_SHAPE,
    tokens: Annotated[int, Option("--tokens", "-n", min=1, help="Tokens of decode.")] = 32,
    prompt: Annotated[int, Option("--prompt", min=1, help="Tokens of the prompt.")] = 8,
    seed: Annotated[int | None, Option("--seed", help="Default: the description's.")] = None,
    host: Annotated[
        Path | None,
        Option("--host", help="This machine's profile, of `halo lab profile`. Default: measured."),
    ] = None,
    trace_out: Annotated[
        Path | None, Option("--trace-out", help="Write a line for everything that happens.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a lab's description in virtual time: the real protocol, computed times.

    Devices with a `profile` compute like that machine; others like this one, within their quota.
    """
    spec = read_spec(lab)
    if seed is not None:
        spec = replace(spec, seed=seed)
    work = Work(read_shape(model), prompt=prompt, tokens=tokens)
    profiles = _profiles(spec, model, host)
    began = time.monotonic()
    with _trace(trace_out) as trace:
        found = run_simulation(spec, work, profiles, trace)
    took_s = time.monotonic() - began
    if json:
        print_json(_fields(spec, model, found))
    else:
        _show(spec, model, found, took_s)
    if found.ended is not None:
        notes.print(f"the generation ended: {found.ended}", style="red", soft_wrap=True)
        raise Exit(1)


def fuzz(
    seeds: Annotated[int, Option("--seeds", min=1, help="How many schedules.")] = 2000,
    first: Annotated[int, Option("--first", min=0, help="The first seed.")] = 0,
    jobs: Annotated[int, Option("--jobs", "-j", min=1, help="Processes.")] = 1,
    json: Json = False,
) -> None:
    """Run fault schedules, and check the protocol's invariants after every event.

    A schedule that breaks one prints its seed; `--first SEED --seeds 1` replays it.
    """
    began = time.monotonic()
    reports = list(
        track(
            _reports(range(first, first + seeds), jobs),
            "schedules",
            total=seeds,
            console=notes,
            transient=True,
            disable=not notes.is_terminal,
        )
    )
    broken = [report for report in reports if report.broken]
    for report in broken[:3]:
        notes.print(f"seed {report.seed}: {report.broken}; the last events:", style="red")
        for line in report.last:
            notes.print(f"  {line}", highlight=False, markup=False)
    if json:
        print_json({"seeds": seeds, "first": first, "broken": [asdict(r) for r in broken]})
    else:
        print(
            f"{seeds} schedules from seed {first}, {sum(r.rounds for r in reports):,} rounds, "
            f"{sum(r.events for r in reports):,} events, {len(broken)} broken, "
            f"in {time.monotonic() - began:.0f} s"
        )
    if broken:
        raise Exit(1)


def profile(
    out: Annotated[Path, Argument(metavar="FILE", help="Where to write it, as TOML.")],
    model: Shape = DEFAULT_SHAPE,
) -> None:
    """Measure what this machine costs the simulator. Takes some seconds on a quiet machine."""
    write_profile(measure_host_profile(model), out)


def _profiles(spec: LabSpec, model: str, host: Path | None) -> dict[str, DeviceProfile]:
    named = {device.profile for device in spec.devices}
    profiles = {name: load_profile(name) for name in named if name is not None and name != HOST}
    if None in named or HOST in named:
        profiles[HOST] = read_profile(host) if host is not None else measure_host_profile(model)
    return profiles


@contextmanager
def _trace(path: Path | None) -> Iterator[SimTrace]:
    if path is None:
        yield SimTrace()
        return
    try:
        with path.open("w") as file:
            yield LineTrace(file.write)
    except OSError as error:
        raise HaloError(f"cannot write {path}: {error.strerror}") from None


def _reports(seeds: range, jobs: int) -> Iterator[Report]:
    if jobs == 1:
        yield from map(run_schedule, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(run_schedule, seeds, chunksize=16)


def _fields(spec: LabSpec, model: str, found: Simulated) -> dict[str, object]:
    gaps_ms = [gap * 1e3 for gap in found.tokens_s]
    return {
        "lab": spec.name,
        "model": model,
        "seed": spec.seed,
        "tpot_ms": fmean(gaps_ms) if gaps_ms else None,
        "ttft_ms": found.ttft_s * 1e3,
        "gaps_ms": gaps_ms,
        "virtual_s": found.virtual_s,
        "ended": found.ended,
        "root": asdict(found.root),
        "workers": asdict(found.workers),
        "devices": [asdict(device) for device in found.devices],
    }


def _show(spec: LabSpec, model: str, found: Simulated, took_s: float) -> None:
    table = Table(title=f"{spec.name}, {model}, seed {spec.seed}: simulated")
    for column in ("device", "profile", "computing", "waiting for the network"):
        table.add_column(column, justify="left" if column in ("device", "profile") else "right")
    for device, use in zip(spec.devices, found.devices, strict=True):
        table.add_row(
            device.name,
            device.profile or f"{HOST}, {device.speed or 1:g} cores",
            f"{use.computed:.0%}",
            f"{use.waited:.0%}",
        )
    console = Console(highlight=False)
    console.print(table)
    if found.tokens_s:
        gaps_ms = np.array(found.tokens_s) * 1e3
        print(
            f"TPOT {gaps_ms.mean():.1f} ms (median {median(gaps_ms):.1f}, 99 % "
            f"{np.percentile(gaps_ms, 99):.1f}, longest {gaps_ms.max():.1f}), "
            f"first token after {found.ttft_s * 1e3:.0f} ms"
        )
    resent = found.root.chunks_resent + found.workers.chunks_resent
    print(
        f"{found.root.rounds} rounds, {resent} chunks sent again; "
        f"{found.virtual_s:.1f} s of virtual time in {took_s:.1f} s"
    )
