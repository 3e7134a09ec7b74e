"""Timelines of real processes: what each recorded fits together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from halo_edge.cluster.links import RootLink
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.cluster.trace_summary import token_times
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.trace import Activity, Recorder, Tracer
from halo_edge.sync.ids import DeviceId

A = Activity
# Every worker takes part in every round: nobody computes for one that is late.
ALONE = RelaxOptions(take_over=False, max_copies=1)
PROMPT = [(7 * i) % 250 for i in range(130)]
STEPS = 6  # a prefill step of 128 tokens, four of one, and one of the last two
N_LAYERS = 3


class Dropping:
    """Loses every fifth datagram that the root sends."""

    def __init__(self, link: RootLink) -> None:
        self._link = link
        self._sent = 0

    def send(self, destinations: Sequence[DeviceId], datagram: bytes | memoryview) -> None:
        self._sent += 1
        if self._sent % 5:
            self._link.send(destinations, datagram)

    def receive(self) -> memoryview | None:
        return self._link.receive()

    def wait(self, timeout_s: float) -> None:
        self._link.wait(timeout_s)

    def close(self) -> None:
        self._link.close()


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HALO_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def run(session: Session) -> None:
    forward = session.model.forward
    for start, n in ((0, 128), (128, 1), (129, 1), (130, 1), (131, 1), (132, 2)):
        forward.step(
            [Rows(SequenceId(0), (PROMPT * 2)[start : start + n], start, 1)], session.gather
        )
    forward.cells.release(SequenceId(0))


@pytest.mark.parametrize(
    ("workers", "rounds"),
    [
        pytest.param(0, RoundsOptions(), id="alone"),
        pytest.param(2, RoundsOptions(relax=ALONE), id="udp"),
        pytest.param(2, RoundsOptions(wrap_link=Dropping, relax=ALONE), id="udp with loss"),
        pytest.param(1, RoundsOptions(transport=Transport.TCP, relax=ALONE), id="tcp"),
        pytest.param(2, RoundsOptions(split=[1, 0, 1], relax=ALONE), id="a worker without a share"),
    ],
)
def test_what_devices_recorded_fits_together(
    tiny_model: Path, workers: int, rounds: RoundsOptions
) -> None:
    options = SessionOptions(tiny_model, 1, 512, workers, None, rounds, Recorder())
    with open_session(options) as session:
        run(session)
        timeline = session.timeline()
        cluster = session.cluster
    root, *others = timeline.devices
    shares = rounds.split or [1] * (workers + 1)
    assert [device.name for device in timeline.devices] == [
        "root", *(f"worker-{i}" for i in range(1, workers + 1) if shares[i])
    ]  # fmt: skip
    assert all(device.dropped == 0 for device in timeline.devices)

    steps = root.spans[root.spans["activity"] == A.STEP]
    assert steps[["step", "tokens"]].tolist() == [(0, 128), *((i, 1) for i in range(1, 5)), (5, 2)]
    times = token_times(timeline)
    assert [time.step for time in times] == [1, 2, 3, 4]
    laps = root.spans[(root.spans["activity"] != A.STEP) & (root.spans["activity"] != A.ROUND)]
    for step in steps:
        inside = laps[laps["step"] == step["step"]]
        assert inside["begin"][0] == step["begin"]
        assert inside["end"][-1] == step["end"]
        assert (inside["begin"][1:] == inside["end"][:-1]).all()  # nothing unexplained

    expected = [(step, layer) for step in range(STEPS) for layer in range(N_LAYERS)]
    round_ = root.spans[root.spans["activity"] == A.ROUND]
    assert round_[["step", "layer"]].tolist() == (expected if workers else [])
    if cluster is not None:
        counted = cluster.statistics
        assert round_["wants"].sum() == counted.wants_sent
        assert round_["retransmissions"].sum() == counted.retransmissions
        assert round_["bytes"].sum() == counted.bytes_sent + counted.bytes_received
        if rounds.wrap_link is not None:  # a busy machine may ask in vain on a clean link, too
            assert counted.retransmissions > 0
    for worker in others:
        # Processes of one machine share the clock.
        assert abs(worker.clock.offset_ns) <= worker.clock.uncertainty_ns
        for activity in (A.RECEIVE_X, A.FFN, A.SEND_PARTIAL):
            spans = worker.spans[worker.spans["activity"] == activity]
            assert spans[["step", "layer"]].tolist() == expected
            if activity is A.SEND_PARTIAL:
                continue  # the root may have it all before the worker's last call returns
            slack = worker.clock.uncertainty_ns
            assert (spans["begin"] >= round_["begin"] - slack).all()
            assert (spans["end"] <= round_["end"] + slack).all()
        order = np.argsort(worker.spans["begin"], kind="stable")
        ordered = worker.spans[order][worker.spans["activity"][order] != A.ROUND]
        assert (ordered["begin"][1:] >= ordered["end"][:-1]).all()


def test_nothing_is_recorded_unasked(tiny_model: Path) -> None:
    with open_session(SessionOptions(tiny_model, 1, 512, 1, tracer=Tracer())) as session:
        run(session)
        timeline = session.timeline()
    assert [len(device.spans) for device in timeline.devices] == [0, 0]
