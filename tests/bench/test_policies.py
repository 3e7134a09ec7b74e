"""Which cases there are, and that their rows can be shown, kept and read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from halo_edge.bench.ablation import ablation
from halo_edge.bench.compared import Sample
from halo_edge.bench.experiment import Experiment, Settings, Size, measure
from halo_edge.bench.experiments import usual_experiments
from halo_edge.bench.off_domain import off_domain
from halo_edge.bench.outage import Outage
from halo_edge.bench.policies import BALANCED, BARE, FAST, STRICT, TCP, policies
from halo_edge.bench.probe_messages import Relax, Request, Scored
from halo_edge.bench.relaxed import BURSTS, CUTS, PERIOD_S, relaxed
from halo_edge.cluster.relaxation import RelaxOptions, Spent
from halo_edge.errors import HaloError
from halo_edge.groups.placement import Placement
from halo_edge.lab.spec import Action

FULL = Settings(Path("model"), Size(1, 1, 1.0), profile=Path("profile"))
TEXT = Path("text")


def test_policies_that_relax_need_a_profile() -> None:
    assert policies(FULL) == [BARE, STRICT, BALANCED, FAST, TCP]
    assert policies(replace(FULL, profile=None)) == [BARE, STRICT, TCP]
    assert policies(replace(FULL, quick=True)) == [STRICT, BALANCED, TCP]
    assert not STRICT.relax.relaxes and BALANCED.relax.relaxes
    assert (BARE.relax.max_copies, BARE.relax.take_over) == (1, False)


@pytest.mark.parametrize("experiment", [relaxed(TEXT), ablation(TEXT)])
def test_nothing_is_relaxed_without_a_profile(experiment: Experiment[Any, Any, Any]) -> None:
    with pytest.raises(HaloError, match="model has no profile"):
        measure(experiment, replace(FULL, profile=None), lambda _: None)


@pytest.mark.parametrize("name", ["loss", "burst", "outage"])
@pytest.mark.parametrize("quick", [False, True])
def test_cases_differ(name: str, quick: bool) -> None:
    experiment = usual_experiments()[name]
    cases = experiment.cases(replace(FULL, quick=quick))
    assert len({case.name for case in cases}) == len(set(cases)) == len(cases)
    assert {case.policy for case in cases} == set(policies(replace(FULL, quick=quick)))


def test_every_outage_that_ends_is_ended() -> None:
    actions = {outage: [event.action for event in outage.events] for outage in Outage}
    assert actions == {
        Outage.CUT: [Action.CUT, Action.JOIN],
        Outage.FOR_GOOD: [Action.CUT],
        Outage.STOP: [Action.STOP, Action.CONTINUE],
    }


def test_periodic_events_are_in_order() -> None:
    events = CUTS.links().events
    assert [event.at_s for event in events[:4]] == [1.5, 3.5, 1.5 + PERIOD_S, 3.5 + PERIOD_S]
    assert BURSTS.links().events == ()
    assert BURSTS.links().settings.mean_loss == pytest.approx(0.05)


def test_one_part_at_a_time() -> None:
    """Every case of the ablation differs from the base in one thing, but for the last."""
    base, *others, product = ablation(TEXT).cases(FULL)
    assert product.relax == BALANCED.relax
    named = {"max_copies": "redundancy", "take_over": "take-over"}
    for case in others:
        changed = [
            named.get(name, name)
            for name in RelaxOptions.__dataclass_fields__
            if getattr(case.relax, name) != getattr(base.relax, name)
        ]
        if case.placement is not base.placement:
            changed.append("placement")
        assert changed == [case.part], case.name
    parts = [case.part for case in others]
    assert {part: parts.count(part) for part in parts} == {
        "placement": 2,
        "waiting": 5,
        "fill": 2,
        "learning": 1,
        "recovery": 1,
        "redundancy": 1,
        "take-over": 1,
    }
    assert base.placement is Placement.CRITICAL


def test_requests_survive_the_pipe() -> None:
    for case in ablation(TEXT).cases(FULL):
        request = Relax(case.relax)
        assert msgspec.json.decode(msgspec.json.encode(request), type=Request) == request


def score(kl: float, nats: float) -> Sample:
    spent = Spent(chunks_filled=5, nats=nats * 20, filled_by_device={1: 5}, nats_by_layer={3: 0.1})
    base = Scored(0.0, [2.0] * 10, [], 0, [10.0] * 20, 20, Spent())
    return Sample(base, Scored(0.0, [2.1, 2.0] * 5, [kl, kl / 2] * 5, 9, [12.0] * 20, 20, spent))


@pytest.mark.parametrize("experiment", [relaxed(TEXT), ablation(TEXT), off_domain(TEXT)])
def test_rows(experiment: Experiment[Any, Any, Any]) -> None:
    """Through JSON, as a table and as a plot."""
    cases = experiment.cases(FULL)
    taken = {case: [score(0.01 * i, 0.008 * i), score(0.02, 0.01)] for i, case in enumerate(cases)}
    made = experiment.rows(taken)
    rows: Any = msgspec.convert(msgspec.to_builtins(made), list[experiment.row])  # type: ignore[name-defined]
    assert rows == made
    assert experiment.table(rows).count("\n") == len(cases) + 1
    if experiment.plot is not None:
        pytest.importorskip("matplotlib")
        experiment.plot(rows)


def test_what_a_fill_repairs() -> None:
    experiment = off_domain(TEXT)
    zero, sketch, learning = experiment.cases(FULL)
    rows = experiment.rows(
        {zero: [score(0.3, 0)], sketch: [score(0.3, 0)], learning: [score(0.1, 0)]}
    )
    assert [row.repaired for row in rows] == pytest.approx([0, 0, 2 / 3])
