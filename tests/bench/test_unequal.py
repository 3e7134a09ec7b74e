"""What is made of measurements of clusters with unequal devices."""

from __future__ import annotations

import pytest

from halo_edge.bench.decoding import Decoding
from halo_edge.bench.lab_cluster import LabSample
from halo_edge.bench.unequal import KINDS, Case, _rows, _table
from halo_edge.cluster.scheduling import Outlook


def sample(gap_ms: float, outlook: Outlook | None = None) -> LabSample:
    return LabSample(Decoding((gap_ms,) * 10), shares=(44, 44), outlook=outlook)


def test_rows() -> None:
    equal, scheduled = Case(KINDS[0], scheduled=False), Case(KINDS[0], scheduled=True)
    outlooks = [Outlook(0.09, 0.06), Outlook(0.11, 0.08), None]
    rows = _rows(
        {
            equal: [sample(200.0)] * 3,
            scheduled: [sample(100.0, outlook) for outlook in outlooks],
        }
    )
    assert [row.tpot_ms for row in rows] == pytest.approx([200.0, 100.0])
    assert [row.factor for row in rows] == pytest.approx([1.0, 2.0])
    assert rows[0].predicted_ms is None
    assert rows[1].predicted_ms == pytest.approx(100.0)
    assert rows[1].bound_ms == pytest.approx(70.0)
    assert "2.00x" in _table(rows)
    assert "+0%" in _table(rows)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_clusters_are_as_they_are_called(kind: object) -> None:
    spec = kind.spec()  # type: ignore[attr-defined]
    assert [device.speed for device in spec.devices] == list(kind.speeds)  # type: ignore[attr-defined]
    lossy = [device.name for device in spec.workers if device.up.loss]
    assert lossy == [f"n{place}" for place, _ in kind.losses]  # type: ignore[attr-defined]
