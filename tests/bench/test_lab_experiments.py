"""The lab's experiments, small: a tiny model, few tokens, two losses. Figures are not judged."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halo_edge.bench.burst import BURSTS
from halo_edge.bench.experiment import Experiment, Settings, Size, measure
from halo_edge.bench.loading import LOADING
from halo_edge.bench.loading import Case as LoadingCase
from halo_edge.bench.loss import LOSS, Case
from halo_edge.bench.outage import CUT_S, OUTAGE, STOP_S, Outage
from halo_edge.bench.outage import Case as OutageCase
from halo_edge.bench.policies import BARE, STRICT
from halo_edge.bench.relaxed import CLEAN, LOSSES, Network, relaxed
from halo_edge.bench.relaxed import Case as RelaxedCase
from halo_edge.bench.replanning import QUICK_KILLS, REPLANNING, TEXT, Trouble
from halo_edge.bench.replanning import Case as ReplanningCase
from halo_edge.bench.result import document, rows_of
from halo_edge.bench.scaling import CASES, SCALING, amdahl
from halo_edge.bench.serving import SERVING
from halo_edge.bench.serving import Case as ServingCase
from halo_edge.bench.start import START
from halo_edge.bench.start import Case as StartCase
from halo_edge.bench.unequal import KINDS, UNEQUAL
from halo_edge.bench.unequal import Case as UnequalCase
from halo_edge.errors import HaloError
from halo_edge.lab.cgroups import Hierarchies
from halo_edge.lab.disks import disk_under
from halo_edge.lab.spec import Action, Event


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux" or os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("needs Linux, root and /dev/net/tun")
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))


class Undisturbed:
    """What the host does is nothing to a test, which is not to be made three times for it."""

    share = 0.0


def rows_measured(
    experiment: Experiment[Any, Any, Any],
    cases: list[Any],
    model: Path,
    size: Size,
    quick: bool = False,
) -> list[Any]:
    """As the command line has them: through JSON, shown as a table and a plot."""
    small = replace(experiment, cases=lambda _: cases)
    settings = Settings(model, size, quick)
    undisturbed: Any = Undisturbed
    measured = measure(small, settings, lambda _: None, undisturbed)
    rows = rows_of(document(small, settings, measured), small)
    assert small.table(rows).count("\n") >= len(rows) + 1
    if small.plot is not None:
        pytest.importorskip("matplotlib")
        small.plot(rows)
    return list(rows)


def test_loss(tiny_model: Path) -> None:
    cases = [Case(BARE, 0.0), Case(BARE, 0.3)]
    rows = rows_measured(LOSS, cases, tiny_model, Size(2, 30, 30.0))
    clean, lossy = rows
    assert (clean.transport, clean.policy, clean.loss) == ("udp", "bare", 0.0)
    assert clean.realised_loss == 0
    assert lossy.realised_loss == pytest.approx(0.3, abs=0.08)
    assert lossy.tpot_ms > 0
    assert lossy.cost.recovered > 0 == lossy.cost.filled
    assert clean.ratio == 1


def test_a_measurement_that_takes_too_long_is_cut_short_and_the_next_is_not(
    tiny_model: Path,
) -> None:
    """At 95 % loss nothing comes; then the links are good again."""
    cases = [Case(BARE, 0.95), Case(BARE, 0.0)]
    hopeless, clean = rows_measured(LOSS, cases, tiny_model, Size(1, 200, 1.0))
    assert hopeless.tpot_ms is None
    assert hopeless.at_least_ms > 5
    assert clean.loss == 0.0


def test_burst(tiny_model: Path) -> None:
    cases = [case for case in BURSTS.cases(Settings(tiny_model, BURSTS.quick))
             if case.policy is STRICT]  # fmt: skip
    clean, bursts = rows_measured(BURSTS, cases, tiny_model, Size(1, 60, 30.0))
    assert clean.realised_loss == 0 < bursts.realised_loss
    assert bursts.max_gap_ms >= bursts.p99_gap_ms >= bursts.median_gap_ms > 0


def test_outage(tiny_model: Path) -> None:
    """Where nobody takes over, the outage is in the gaps: some token took as long."""
    cases = [OutageCase(BARE, outage) for outage in (Outage.CUT, Outage.STOP)]
    cut, stop = rows_measured(OUTAGE, cases, tiny_model, Size(1, 450, 60.0))
    assert cut.max_gap_ms > CUT_S * 900
    assert cut.median_gap_ms < 500
    assert len(cut.token_s) == len(cut.gaps_ms) == 450
    assert stop.max_gap_ms > STOP_S * 900


def test_text_scored_over_bad_links(tiny_model: Path, tmp_path: Path) -> None:
    """Strict, so it says the same as over clean links, whatever is lost."""
    text = tmp_path / "text"
    text.write_text(" ".join(f"the number {i} is followed by {i + 1}." for i in range(200)))
    cut = Network("cut", events=(Event(0.2, Action.CUT, "n1"), Event(0.5, Action.JOIN, "n1")))
    cases = [
        RelaxedCase(CLEAN, STRICT, nudged=True),
        RelaxedCase(LOSSES[2], STRICT),
        RelaxedCase(cut, STRICT),
    ]
    for row in rows_measured(relaxed(text), cases, tiny_model, Size(1, 2, 30.0), quick=True):
        assert row.compared.divergence.kl < 1e-6
        assert row.compared.divergence.positions == 2 * 63
        assert row.compared.ppl_change == pytest.approx(0, abs=1e-4)
        assert row.compared.honest


def test_scaling(tiny_model: Path) -> None:
    one, two = rows_measured(SCALING, list(CASES[:2]), tiny_model, Size(1, 10, 30.0))
    assert one.factor == 1
    assert two.factor > 0
    assert two.bound < 2
    assert one.spent.worker is None
    assert two.spent.worker.compute_ms > 0


def test_amdahl() -> None:
    assert amdahl(0.25, 1) == 1
    assert amdahl(0.25, 4) == pytest.approx(1 / (0.25 + 0.75 / 4))
    assert amdahl(0, 8) == 8


def test_unequal(tiny_model: Path) -> None:
    kind = KINDS[2]
    cases = [UnequalCase(kind, scheduled) for scheduled in (False, True)]
    equal, scheduled = rows_measured(UNEQUAL, cases, tiny_model, Size(1, 10, 60.0))
    assert equal.shares == [4, 4]
    assert equal.factor == 1
    assert equal.predicted_ms is None
    assert sum(scheduled.shares) == 8
    assert scheduled.factor > 0


def test_loading(tiny_model: Path) -> None:
    """A tiny model needs no limits; what is read and used is counted all the same."""
    try:
        disk_under(tiny_model.parent)
    except HaloError as error:
        pytest.skip(str(error))
    if Hierarchies.find().io is None:
        pytest.skip("this kernel does not count what is read")
    (free,) = rows_measured(LOADING, [LoadingCase(None)], tiny_model, Size(1, 10, 60.0))
    assert free.alone_ms == free.tpot_ms > 0
    assert free.peak_mb > 10
    assert free.limit_mb is None


def test_start(tiny_model: Path) -> None:
    case = StartCase((1,) * 4)
    (row,) = rows_measured(START, [case], tiny_model, Size(1, 4, 60.0))
    assert row.cold_s > 0 < row.warm_s
    assert row.must_move_mb > 0


def test_serving(demo_model: Path) -> None:
    """Of a model with words: a random one ends its answers when it likes."""
    cases = [ServingCase(2, 3, prompt_tokens=40), ServingCase(1, 2)]
    many, alone = rows_measured(SERVING, cases, demo_model, Size(1, 8, 60.0))
    assert (many.streams, many.devices, alone.devices) == (3, 2, 1)
    assert many.factor is None is alone.added_ms
    assert many.ttft_s > 0
    assert many.unevenness >= 1


def test_replanning(tiny_model: Path) -> None:
    """Few kills, and perhaps a plan that has no use for workers: each token is compared."""
    cases = [ReplanningCase(Trouble.KILLED)]
    (killed,) = rows_measured(REPLANNING, cases, tiny_model, Size(1, 60, 20.0), quick=True)
    assert killed.texts.runs == QUICK_KILLS
    assert killed.texts.tokens == QUICK_KILLS * TEXT
