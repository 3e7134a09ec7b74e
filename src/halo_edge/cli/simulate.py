"""`halo lab simulate`, `fuzz` and `profile`: clusters in virtual time."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from typer import Option

from halo_edge.cli.console import notes, print_json
from halo_edge.cli.lab_options import HostProfile, LabName, ModelName, lab_profiles
from halo_edge.cli.options import Json
from halo_edge.compute.wire import Wire
from halo_edge.errors import HaloError
from halo_edge.lab.fuzz import Report
from halo_edge.lab.fuzz_many import run_schedules
from halo_edge.lab.host_profile import measure_host_profile
from halo_edge.lab.profiles import write_profile
from halo_edge.lab.resize import resized
from halo_edge.lab.shapes import DEFAULT_SHAPE, read_shape
from halo_edge.lab.sim_result import Simulated
from halo_edge.lab.sim_trace import LineTrace, SimTrace
from halo_edge.lab.simulator import Work
from halo_edge.lab.simulator import simulate as run_simulation
from halo_edge.lab.spec import MAX_DEVICES, LabSpec, read_spec
from halo_edge.plan.device_profile import NUMBERS, Machine

MAX_TOKENS: Final = 1_000_000


def simulate(
    lab: LabName,
    model: ModelName = DEFAULT_SHAPE,
    tokens: Annotated[
        int, Option("--tokens", "-n", min=1, max=MAX_TOKENS, help="Tokens to decode.")
    ] = 32,
    prompt: Annotated[
        int, Option("--prompt", min=1, max=MAX_TOKENS, help="Tokens of the prompt.")
    ] = 8,
    wire: Annotated[Wire, Option("--wire", help="Number format of vectors on the wire.")] = (
        Wire.MIXED
    ),
    devices: Annotated[
        int | None,
        Option(
            "--devices",
            min=1,
            max=MAX_DEVICES,
            help="So many devices instead: the lab's first ones, then its workers over again.",
        ),
    ] = None,
    seed: Annotated[int | None, Option("--seed", help="Default: the lab's own.")] = None,
    host: HostProfile = None,
    trace_out: Annotated[
        Path | None,
        Option("--trace-out", dir_okay=False, help="Write a line for every event into this file."),
    ] = None,
    json: Json = False,
) -> None:
    """A generation in a lab in virtual time: no privileges, any number of devices, from a seed."""
    spec = read_spec(lab)
    if devices is not None:
        spec = resized(spec, devices)
    if seed is not None:
        spec = replace(spec, seed=seed)
    work = Work(read_shape(model), wire, prompt, tokens)
    profiles = lab_profiles(spec, model, host)
    began = time.perf_counter()
    with ExitStack() as stack:
        trace = SimTrace()
        if trace_out is not None:
            try:
                file = stack.enter_context(trace_out.open("w"))
            except OSError as error:
                raise HaloError(f"cannot write {trace_out}: {error.strerror}") from None
            trace = LineTrace(file.write)
        found = run_simulation(spec, work, profiles, trace)
    took_s = time.perf_counter() - began
    if json:
        print_json(_document(spec, work, found))
    else:
        Console(highlight=False).print(_summary(spec, work, found), _device_table(found))
        notes.print(
            f"{found.virtual_s:.1f} s of virtual time in {took_s:.1f} s, "
            f"{found.root.rounds / took_s:,.0f} rounds/s",
            style="dim",
        )
    if found.ended is not None:
        raise HaloError(f"after {len(found.tokens_s)} tokens: {found.ended}")


def fuzz(
    seeds: Annotated[int, Option("--seeds", min=1, help="How many schedules to run.")] = 2000,
    first: Annotated[int, Option("--first", min=0, help="The first seed.")] = 0,
    jobs: Annotated[
        int | None, Option("--jobs", "-j", min=1, max=256, help="Processes. Default: one a core.")
    ] = None,
    json: Json = False,
) -> None:
    """Fault schedules: clusters under loss, cuts, restarts and worse, checked after every event.

    A schedule is a seed. One that fails ends the run, is told with its last events, and fails
    again with `--first SEED --seeds 1`.
    """
    began = time.perf_counter()
    reports: deque[Report] = deque(maxlen=1)
    rounds = events = epochs = 0
    with Progress(console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task = progress.add_task("fault schedules", total=seeds)
        for report in run_schedules(first, seeds, jobs or min(os.cpu_count() or 1, seeds)):
            reports.append(report)
            rounds, events = rounds + report.rounds, events + report.events
            epochs += report.epochs
            progress.advance(task)
            if report.broken is not None:
                break
    last, took_s = reports[-1], time.perf_counter() - began
    if json:
        numbers = {"rounds": rounds, "epochs": epochs, "events": events}
        print_json({"first": first, "seeds": seeds, **numbers, "broken": _broken(last)})
    if last.broken is not None:
        for line in last.last:
            notes.print(line, style="dim", markup=False)
        raise HaloError(
            f"seed {last.seed}: {last.broken}; again with "
            f"`halo lab fuzz --first {last.seed} --seeds 1`"
        )
    notes.print(
        f"{seeds:,} schedules hold: {rounds:,} rounds in {epochs:,} sessions, checked after each "
        f"of {events:,} events, in {took_s:.0f} s",
        soft_wrap=True,
    )


def profile(
    model: ModelName = DEFAULT_SHAPE,
    out: Annotated[
        Path | None, Option("--out", "-o", dir_okay=False, help="Write it into this file.")
    ] = None,
) -> None:
    """Measure what this machine's devices cost, for `halo lab simulate --host`. Some seconds."""
    measured = measure_host_profile(model)
    if out is not None:
        write_profile(measured, out)
    table = Table(box=None, pad_edge=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for name in NUMBERS:
        table.add_row(name, _in_words(name, getattr(measured, name)))
    assert measured.machine is not None
    for field in fields(Machine):
        table.add_row(
            f"machine: {field.name}", _in_words(field.name, getattr(measured.machine, field.name))
        )
    Console(highlight=False).print(table)


def _document(spec: LabSpec, work: Work, found: Simulated) -> dict[str, Any]:
    return {
        "lab": spec.name,
        "seed": spec.seed,
        "model": work.shape.name,
        "wire": work.wire.value,
        "prompt": work.prompt,
        "tokens": len(found.tokens_s),
        "tpot_ms": _tpot_ms(found),
        "token_ms": [seconds * 1e3 for seconds in found.tokens_s],
        "ttft_ms": found.ttft_s * 1e3,
        "virtual_s": found.virtual_s,
        "devices": [asdict(device) for device in found.devices],
        "root": asdict(found.root),
        "workers": asdict(found.workers),
        "ended": found.ended,
    }


def _tpot_ms(found: Simulated) -> dict[str, float] | None:
    if found.tpot is None:
        return None
    return {name: seconds * 1e3 for name, seconds in asdict(found.tpot).items()}


def _summary(spec: LabSpec, work: Work, found: Simulated) -> Table:
    table = Table(
        title=f"{spec.name}: {work.shape.name}, {len(spec.devices)} devices, seed {spec.seed}",
        box=None,
        show_header=False,
        title_justify="left",
    )
    if (tpot := _tpot_ms(found)) is not None:
        words = "   ".join(f"{name} {value:.1f}" for name, value in tpot.items())
        table.add_row(f"TPOT, ms ({len(found.tokens_s)} tokens)", words)
    table.add_row("TTFT, ms", f"{found.ttft_s * 1e3:.0f} ({work.prompt} tokens of prompt)")
    root, workers = found.root, found.workers
    sent = root.datagrams_sent + workers.datagrams_sent
    again = root.chunks_resent + workers.chunks_resent
    wants = root.wants_sent + workers.wants_sent
    table.add_row("datagrams", f"{sent:,}, of them {again:,} chunks sent again, {wants:,} WANTs")
    table.add_row("rounds", f"{root.rounds:,}")
    return table


def _device_table(found: Simulated) -> Table:
    table = Table(box=None, pad_edge=True)
    for column in ("device", "computes", "waits for the network", "waits for its CPU"):
        table.add_column(column, justify="left" if column == "device" else "right")
    for use in found.devices:
        rest = max(0.0, 1 - use.computed - use.waited)
        shares = (use.computed, use.waited, rest)
        table.add_row(use.device, *(f"{share:.0%}" for share in shares))
    return table


def _broken(report: Report) -> dict[str, Any] | None:
    return asdict(report) if report.broken is not None else None


def _in_words(name: str, value: float) -> str:
    if name.endswith("_per_s"):
        return f"{value / 1e9:.2f} G/s"
    return f"{value * 1e6:.2f} us" if name.endswith(("_s", "_byte")) else f"{value:g}"
