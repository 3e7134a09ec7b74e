"""A round goes on without what it may: decided, filled, charged, counted, and learned from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.cluster.relaxation import RelaxOptions, Waiting
from halo_edge.cluster.relaxing import CAUTION, Filled, Relaxable, Relaxing
from halo_edge.compute.activations import StepInputs
from halo_edge.compute.wire import WireCodec, WireFormat
from halo_edge.groups.profile import LayerProfile, Profile, SpecialPosition
from halo_edge.groups.sketch import Sketch
from halo_edge.groups.surrogate import Fill
from halo_edge.sync.budget import Budget, SequenceKey
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.root import Overdue, RootRounds
from halo_edge.sync.timing import Recovery

HIDDEN, RANK, LAYERS, TOKENS = 96, 4, 3, 4
WORKERS = [DeviceId(1), DeviceId(2)]
# Device 1 holds energy 0.2 of 1 in each layer, device 2 0.1; half of it is left after the fill.
ENERGY = np.array([0.7, 0.2, 0.1], np.float32)
SENSITIVITY = 0.04
NATS = {1: CAUTION * SENSITIVITY * 0.1, 2: CAUTION * SENSITIVITY * 0.05}
CODEC = WireCodec(WireFormat.F16, HIDDEN)
LAYOUT = RoundLayout(
    n_layers=LAYERS,
    max_tokens=TOKENS,
    x_row_bytes=HIDDEN,
    x_block_bytes=1,
    partial_row_bytes=CODEC.row_bytes,
    partial_block_bytes=2,
    max_payload=100,  # a row is two chunks
    window=16,
)


def profile(special: tuple[SpecialPosition, ...] = ()) -> Profile:
    rng = np.random.default_rng(0)
    predictor = np.zeros((3, RANK + 1), np.float32)
    predictor[:, -1] = np.log(ENERGY)
    layer = LayerProfile(
        permutation=np.arange(12, dtype=np.int32),
        basis=rng.standard_normal((RANK, HIDDEN)).astype(np.float32),
        mean=np.zeros(RANK, np.float32),
        regression=np.zeros((12, RANK + 1), np.float32),
        predictor=predictor,
        energy=ENERGY,
        residual=ENERGY / 2,
        total=1.0,
        sensitivity=SENSITIVITY,
    )
    return Profile("m", 4, (layer,) * LAYERS, special, {})


class Round:
    """One round of real `RootRounds` in which nothing has come, and what relaxes it."""

    def __init__(
        self,
        options: RelaxOptions,
        sequences: list[int],
        positions: list[int] | None = None,
        special: tuple[SpecialPosition, ...] = (),
        without: frozenset[DeviceId] = frozenset(),
    ) -> None:
        rng = np.random.default_rng(1)
        self.tokens = len(sequences)
        inputs = StepInputs(TOKENS, 8)
        inputs.sequences[: self.tokens] = sequences
        inputs.positions[: self.tokens] = positions or range(5, 5 + self.tokens)
        self.sketch = Sketch(profile(), TOKENS)
        for layer in range(LAYERS):
            self.sketch.of(layer, TOKENS)[:] = rng.standard_normal((TOKENS, RANK))
        self.weights: dict[DeviceId, NDArray[np.float16]] = {
            device: rng.standard_normal((LAYERS, HIDDEN, RANK + 1)).astype(np.float16)
            for device in WORKERS
            if device not in without
        }
        shares = [range(0, 1), range(1, 2), range(2, 3)]
        relaxable = Relaxable(
            profile(special), shares, self.weights, without, self.sketch, inputs, CODEC
        )
        self.filled = Filled()
        self.relaxing: Relaxing = relaxable.relaxing(
            options, Budget(options.kl_budget), self.filled
        )
        self.rounds = RootRounds(
            bytes(32), LAYOUT, WORKERS, epoch=0, recovery=Recovery(), stall_timeout_s=10.0
        )
        self.step = -1

    def begin(self, layer: int = 1) -> None:
        """From layer 0 to this one, in a new step."""
        self.step += 1
        for at in range(layer + 1):
            x = bytes(self.tokens * HIDDEN)
            self.rounds.begin(RoundId(self.step, at), self.tokens, x, float(self.step))
            self.relaxing.begin_round(at, self.tokens)

    def fill(self, *devices: int, wait_s: float = 0.05) -> None:
        late = [Overdue(DeviceId(d), self.rounds.missing(DeviceId(d)), wait_s) for d in devices]
        self.relaxing.fill(self.rounds, late, lambda _: math.inf)

    def partial(self, device: int) -> NDArray[np.float32]:
        return CODEC.decode(self.rounds.partial(DeviceId(device)), self.tokens)


def test_a_fill_stands_for_a_partial_and_is_paid_for() -> None:
    round_ = Round(RelaxOptions(kl_budget=0.05), [7])
    round_.begin()
    round_.fill(1, 2)
    assert round_.rounds.complete
    z = np.append(round_.sketch.of(1, 1)[0], np.float32(1))
    for device in WORKERS:
        expected = round_.weights[device][1].astype(np.float32) @ z
        np.testing.assert_allclose(round_.partial(device)[0], expected, rtol=2e-3, atol=2e-3)
    nats = NATS[1] + NATS[2]
    assert round_.filled.nats == pytest.approx(nats, rel=1e-3)
    assert round_.relaxing.budget.account(SequenceKey(7)).spent == pytest.approx(nats, rel=1e-3)
    assert round_.filled.chunks == 4
    assert round_.filled.by_device == {1: 2, 2: 2}
    assert round_.filled.by_layer == {1: 4}
    assert round_.filled.nats_by_layer[1] == pytest.approx(nats, rel=1e-3)


def test_without_its_fill_a_device_is_waited_for() -> None:
    """And the others with it, as that saves nothing."""
    round_ = Round(RelaxOptions(kl_budget=0.05), [7], without=frozenset({DeviceId(1)}))
    round_.begin()
    round_.fill(1, 2)
    assert round_.filled.chunks == 0
    round_.fill(2)
    assert round_.filled.by_device == {2: 2}


def test_what_the_budget_does_not_cover_is_waited_for() -> None:
    round_ = Round(RelaxOptions(kl_budget=1e-4), [7])
    round_.begin()
    round_.fill(1, 2)
    assert not round_.rounds.complete
    assert round_.filled == Filled()


def test_a_chunk_of_a_partial_costs_its_part() -> None:
    round_ = Round(RelaxOptions(kl_budget=0.05), [7])
    round_.begin()
    start, stop = round_.rounds.partial_spans[0]
    round_.rounds.supply(DeviceId(1), 0, bytes(stop - start))
    round_.fill(1)
    assert round_.rounds.missing(DeviceId(1)) == 0
    share = 1 - (stop - start) / CODEC.row_bytes
    assert round_.filled.nats == pytest.approx(NATS[1] * share, rel=1e-3)


def test_each_sequence_pays_for_its_own_rows() -> None:
    round_ = Round(RelaxOptions(kl_budget=0.05), [7, 9, 9])
    round_.begin()
    round_.fill(1)
    spent = [round_.relaxing.budget.account(SequenceKey(s)).spent for s in (7, 9)]
    assert spent == pytest.approx([NATS[1], 2 * NATS[1]], rel=1e-3)


def test_a_special_position_is_waited_for() -> None:
    special = (SpecialPosition(0, 3.0),)
    for waiting in (Waiting.BUDGET, Waiting.NONE):
        round_ = Round(RelaxOptions(kl_budget=0.05, waiting=waiting), [7], [0], special)
        round_.begin()
        round_.fill(1)
        assert round_.filled == Filled()


def test_zero_and_mean_fills() -> None:
    for fill in (Fill.ZERO, Fill.MEAN):
        round_ = Round(RelaxOptions(kl_budget=0.05, fill=fill), [7])
        round_.begin()
        round_.fill(2)
        expected = round_.weights[WORKERS[1]][1][:, -1] if fill is Fill.MEAN else 0.0
        np.testing.assert_allclose(round_.partial(2)[0], expected, rtol=2e-3, atol=2e-3)
        assert round_.filled.nats == pytest.approx(2 * NATS[2], rel=1e-3)  # nothing is repaired


def test_it_learns_from_what_came_and_not_from_its_own_fills() -> None:
    round_ = Round(RelaxOptions(kl_budget=0.05), [7])
    truth = np.random.default_rng(3).standard_normal((HIDDEN, RANK + 1)).astype(np.float32)

    def error() -> float:
        """Of the fill of device 1, whose true partials `truth` makes."""
        round_.begin()
        round_.fill(1, wait_s=100.0)
        z = np.append(round_.sketch.of(1, 1)[0], np.float32(1))
        assert round_.rounds.missing(DeviceId(1)) == 0
        return float(np.abs(round_.partial(1)[0] - truth @ z).mean())

    first = error()
    rng = np.random.default_rng(4)
    for step in range(1200):
        round_.step += 1
        for layer in range(LAYERS):
            round_.sketch.of(layer, 1)[:] = rng.standard_normal((1, RANK))
            round_.rounds.begin(RoundId(round_.step, layer), 1, bytes(HIDDEN), float(step))
            round_.relaxing.begin_round(layer, 1)
            z = np.append(round_.sketch.of(layer, 1)[0], np.float32(1))
            values = {1: (truth @ z)[None], 2: np.zeros((1, HIDDEN), np.float32)}
            for device in WORKERS:
                encoded = bytes(CODEC.encoder(values[device].astype(np.float32)).encode(1))
                for chunk, (start, stop) in enumerate(round_.rounds.partial_spans):
                    round_.rounds.supply(device, chunk, encoded[start:stop])
            assert round_.rounds.complete
            round_.relaxing.learn(round_.rounds)
    assert error() < first / 2


def test_without_learning_nothing_is_learned() -> None:
    round_ = Round(RelaxOptions(kl_budget=0.05, learning=False), [7])
    round_.begin(LAYERS - 1)
    assert not round_.relaxing.learn(round_.rounds)
