"""`halo plan`: who would compute what on a cluster that is only described, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from rich.console import Console
from typer import Option

from halo_edge.cli.console import print_json
from halo_edge.cli.lab_options import HostProfile, LabName, ModelName, lab_profiles
from halo_edge.cli.options import Json
from halo_edge.cli.plan_report import device_table, sentences
from halo_edge.cli.profile_option import NONE, chosen_profile
from halo_edge.cli.relax_options import parse_budget
from halo_edge.cluster.relaxation import BALANCED, STRICT
from halo_edge.compute.wire import Wire
from halo_edge.errors import HaloError
from halo_edge.groups.profile import Profile
from halo_edge.groups.surrogate import Fill
from halo_edge.lab.planned import planned
from halo_edge.lab.shapes import DEFAULT_SHAPE, read_shape
from halo_edge.lab.spec import read_spec
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile
from halo_edge.plan.criticality import Criticality
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.schedule import Objective, Schedule, schedule
from halo_edge.plan.what_if import WhatIf, what_if
from halo_edge.plan.workload import Workload

MAX_TOKENS: Final = 1_000_000


def plan(
    cluster: LabName,
    model: ModelName = DEFAULT_SHAPE,
    objective: Annotated[
        Objective,
        Option(
            "--objective",
            help="What is to be least: the time per token (tpot), that to the first (ttft), or "
            "that of prompt and answer together (mix).",
        ),
    ] = Objective.TPOT,
    kl_budget: Annotated[
        str | None,
        Option(
            "--kl-budget",
            metavar="NATS",
            help="As of `halo run`. Default: balanced where the model has a calibration, else "
            "strict.",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        Option(
            "--profile",
            metavar="FILE",
            help="The model's calibration, or 'none'. Default: the one that is found for it.",
        ),
    ] = None,
    prompt: Annotated[
        int, Option("--prompt", min=1, max=MAX_TOKENS, help="Tokens of the prompt.")
    ] = 128,
    tokens: Annotated[
        int, Option("--tokens", "-n", min=1, max=MAX_TOKENS, help="Tokens of the answer.")
    ] = 128,
    wire: Annotated[
        Wire, Option("--wire", help="Number format of vectors on the wire.")
    ] = Wire.MIXED,
    host: HostProfile = None,
    json: Json = False,
) -> None:
    """Who would compute what, and how fast: from a cluster's description, with no device there."""
    spec = read_spec(cluster)
    shape = read_shape(model)
    calibration = _calibration(profile, model)
    budget = BALANCED if calibration is not None else STRICT
    if kl_budget is not None:
        budget = parse_budget(kl_budget)
    if budget > 0 and calibration is None:
        raise HaloError("--kl-budget takes a model with a calibration; see `halo calibrate`")
    criticality = _criticality(calibration, shape, model) if calibration is not None else None
    rank = calibration.rank if calibration is not None else 0
    workload = Workload(shape, wire, prompt, tokens, budget, criticality, rank=rank)
    devices = planned(spec, lab_profiles(spec, model, host))
    found = schedule(devices, workload, objective)
    changed = what_if(devices, workload, objective)
    if json:
        about = {"lab": spec.name, "model": shape.name, "objective": objective.value}
        print_json(about | _document(found, changed))
        return
    console = Console(highlight=False)
    console.print(device_table(found, f"{spec.name}: {shape.name}", budget > 0))
    for sentence in sentences(found, changed, workload):
        console.print(sentence, markup=False, soft_wrap=True)


def _calibration(option: str | None, model: str) -> Profile | None:
    """Of a model that is a file; shapes have none."""
    if option == NONE or (option is None and not Path(model).is_file()):
        return None
    return chosen_profile(option, Path(model))


def _criticality(calibration: Profile, shape: ModelShape, model: str) -> Criticality:
    if Path(model).is_file():
        found = fingerprint(GgufFile.open(Path(model)))
        calibration.check_fits(found, shape.n_layers, shape.hidden, shape.ffn)
    criticality = Criticality.of(calibration, Fill.SKETCH)
    if (criticality.n_layers, criticality.n_groups) != (shape.n_layers, shape.partition.n_groups):
        raise HaloError(f"the calibration's neuron groups are not those of {shape.name}")
    return criticality


def _document(found: Schedule, changed: WhatIf) -> dict[str, Any]:
    prediction, plan_ = found.prediction, found.plan
    devices = []
    for d, device in enumerate(prediction.devices):
        copies = plan_.copies_on(d)
        devices.append(
            {
                "name": device.name,
                "share": device.share,
                "groups": _ends(plan_.shares[d]),
                "resident": _ends(plan_.resident_on(d)),
                "replicas": [_ends(groups) for groups in plan_.replicas_on(d)],
                "copies_to": copies.x,
                "copies_from": copies.partial,
                "compute_ms": device.compute_s * 1e3,
                "link_ms": device.link_s * 1e3,
                "load_ms": device.load_s * 1e3,
                "wait_ms": device.wait_s * 1e3,
                "damage_nats": device.damage_nats,
            }
        )
    return {
        "tpot_ms": prediction.tpot_s * 1e3,
        "ttft_ms": prediction.ttft_s * 1e3,
        "parts_ms": {part.value: seconds * 1e3 for part, seconds in prediction.parts.items()},
        "bottleneck": prediction.bottleneck.value,
        "waited_for": prediction.waited_for,
        "damage_nats": prediction.damage_nats,
        "devices": devices,
        "left_out": [{"name": out.name, "tpot_ms": _ms(out.tpot_s)} for out in found.left_out],
        "what_if": {
            "one_more_like": changed.like,
            "one_more_tpot_ms": _tpot_ms(changed.one_more),
            "twice_the_rate_tpot_ms": _tpot_ms(changed.twice_the_rate),
        },
    }


def _ends(groups: range) -> list[int]:
    return [groups.start, groups.stop]


def _tpot_ms(found: Schedule | None) -> float | None:
    return None if found is None else _ms(found.prediction.tpot_s)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
