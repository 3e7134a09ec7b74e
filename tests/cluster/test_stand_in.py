"""The root's stand-in computes what a worker would have answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.cluster.root_memory import RootMemory
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.shard_store import ShardStore
from halo_edge.cluster.stand_in import Desk, StandIn
from halo_edge.compute.context import aligned
from halo_edge.compute.ffn import FfnGraphs
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import Wire, WireCodec
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.partition import tiles
from halo_edge.groups.profile import Profile
from halo_edge.model.gguf_file import GgufFile
from halo_edge.sync.ids import DeviceId

LAYERS, WIDTH, MAX_TOKENS = 3, 128, 8
ONE, TWO, NOTHING = DeviceId(1), DeviceId(2), DeviceId(3)
NEURONS = {ONE: range(128, 256), TWO: range(256, 512), NOTHING: range(512, 512)}


class Root:
    """What a root has of one round: x, encoded, and the stand-in that reads it."""

    def __init__(self, source: FfnSource, directory: Path, wire: Wire = Wire.MIXED) -> None:
        self.source = source
        self.store = ShardStore(source, LAYERS, WIDTH, ShardCache(directory))
        self.store.describe(list(NEURONS.values()))
        self.x_codec = WireCodec(wire.x, WIDTH)
        self.partial_codec = WireCodec(wire.partial, WIDTH)
        self.x: NDArray[np.float32] = aligned((MAX_TOKENS, WIDTH), np.float32)
        self.encoder = self.x_codec.encoder(self.x)
        self.desk = Desk(
            self.store,
            LAYERS,
            Runtime(1),
            self.encoder,
            self.x_codec,
            self.partial_codec,
            MAX_TOKENS,
            RootMemory(),
        )
        self.stand_in = self.next(NEURONS)

    def next(self, neurons: Mapping[DeviceId, range]) -> StandIn:
        """The next epoch's."""
        return StandIn({d: tiles(n) for d, n in neurons.items()}, self.desk)

    def encode(self, tokens: int, seed: int = 0) -> memoryview:
        self.x[:] = np.random.default_rng(seed).standard_normal(self.x.shape)
        return self.encoder.encode(tokens)

    def worker(self, device: DeviceId, layer: int, x: memoryview, *, repack: bool) -> bytes:
        """The answer of a worker that received `x`."""
        tokens = len(x) // self.x_codec.row_bytes
        out = memoryview(bytearray(tokens * self.partial_codec.row_bytes))
        graphs = FfnGraphs(
            Runtime(1, repack=repack, joins=not repack),
            [self.store.weights(layer, NEURONS[device])],
            self.x_codec.rows(memoryview(bytearray(x))),
            self.partial_codec.rows(out),
        )
        assert graphs.run(0, tokens)
        return bytes(out)


@pytest.fixture(params=["q4_0", "q8_0", "f32"])
def source(
    request: pytest.FixtureRequest,
    make_model: Callable[..., Path],
    random_profile: Callable[..., Profile],
) -> FfnSource:
    path = make_model(quantization=request.param)
    permutations = [layer.permutation for layer in random_profile(path).layers]
    return FfnSource(GgufFile.open(path), permutations)


@pytest.mark.parametrize("wire", Wire)
@pytest.mark.parametrize("tokens", [1, 5])
def test_the_worker_s_answer(source: FfnSource, tmp_path: Path, wire: Wire, tokens: int) -> None:
    """To the last bit with the same kernels; with repacked weights, as close as kernels are."""
    root = Root(source, tmp_path, wire)
    x = root.encode(tokens)
    for layer in range(LAYERS):
        for device in (ONE, TWO):
            found = bytes(root.stand_in.compute(device, layer, tokens))
            assert found == root.worker(device, layer, x, repack=False)
            repacked = root.worker(device, layer, x, repack=True)
            decode = root.partial_codec.decode
            expected = decode(memoryview(repacked), tokens)
            difference = np.abs(decode(memoryview(found), tokens) - expected).max()
            assert difference < 0.02 * np.abs(expected).max()


def test_it_reads_the_x_that_was_encoded_last(source: FfnSource, tmp_path: Path) -> None:
    root = Root(source, tmp_path)
    answers = set()
    for seed in range(3):
        x = root.encode(2, seed)
        answers.add(bytes(root.stand_in.compute(ONE, 0, 2)))
        assert root.worker(ONE, 0, x, repack=False) in answers
        root.x[:] = 0  # as the next layer's norm may: what counts is what was sent
    assert len(answers) == 3


def test_a_device_without_neurons(source: FfnSource, tmp_path: Path) -> None:
    root = Root(source, tmp_path)
    root.encode(2)
    root.stand_in.compute(ONE, 0, 2)
    assert not any(root.stand_in.compute(NOTHING, 0, 2))
    root.stand_in.prefetch(NOTHING)
    assert root.stand_in.cost_s(NOTHING, 1) >= 0


@pytest.mark.parametrize("disk", ["there", "pruned", "none"])
def test_with_and_without_a_disk(source: FfnSource, tmp_path: Path, disk: str) -> None:
    (tmp_path / "file").write_text("")
    root = Root(source, tmp_path / ("file" if disk == "none" else "shards"))
    if disk == "pruned":
        for path in (tmp_path / "shards").iterdir():
            path.unlink()
    x = root.encode(3)
    root.stand_in.prefetch(ONE)
    before_s = root.stand_in.cost_s(ONE, 3)
    assert 0 < before_s < 10
    found = bytes(root.stand_in.compute(ONE, 1, 3))
    assert found == root.worker(ONE, 1, x, repack=False)


def _mappings(directory: Path) -> list[str]:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("there is no /proc to see mappings in")
    return [line for line in maps.read_text().splitlines() if str(directory) in line]


def test_the_cost_follows_measurements(
    source: FfnSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of this test stands still but when a shard is computed."""
    root = Root(source, tmp_path)
    root.encode(MAX_TOKENS)
    stand_in, now, took = root.stand_in, 100.0, 0.0
    assert stand_in.cost_s(ONE, 8) > stand_in.cost_s(ONE, 1) > 0

    def clock() -> float:
        nonlocal now
        now += took
        return now

    monkeypatch.setattr("halo_edge.cluster.stand_in.time", SimpleNamespace(monotonic=clock))
    took = 0.25
    stand_in.compute(ONE, 0, 1)
    assert stand_in.cost_s(ONE, 1) == 0.25
    took = 0.05
    for _ in range(30):
        stand_in.compute(ONE, 0, 1)
    assert stand_in.cost_s(ONE, 1) == pytest.approx(0.05, abs=0.001)
    assert stand_in.cost_s(ONE, 8) < 0.04  # nothing is known of other sizes and devices
    assert stand_in.cost_s(TWO, 1) < 0.04


def test_got_ready_it_is_the_worker_to_the_last_bit(
    source: FfnSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose weights are repacked; and for that it looks at no tile any more."""
    monkeypatch.setattr("halo_edge.cluster.root_memory.available_bytes", lambda: (1 << 30, 1 << 30))
    root, other = Root(source, tmp_path / "a"), Root(source, tmp_path / "b")
    n_tiles = sum(len(tiles(neurons)) for neurons in NEURONS.values())
    steps = sum(1 for _ in root.stand_in.get_ready())
    assert steps == LAYERS * (n_tiles + 2)  # nobody stands in for who has nothing
    forbid_looking(root, monkeypatch)
    for device in (ONE, TWO):
        for layer in range(LAYERS):
            for tokens in (1, 3):
                x = root.encode(tokens, seed=layer)
                found = bytes(root.stand_in.compute(device, layer, tokens))
                assert found == other.worker(device, layer, x, repack=True)


def forbid_looking(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise AssertionError("it was to be ready")

    monkeypatch.setattr(root.store, "weights", none_left)


def test_got_ready_in_part_it_has_use_of_that(
    source: FfnSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_edge.cluster.root_memory.available_bytes", lambda: (1 << 30, 1 << 30))
    root = Root(source, tmp_path)
    steps = root.stand_in.get_ready()
    for _ in range(len(tiles(NEURONS[ONE])) + 1):  # its first layer
        next(steps)
    root.encode(1)
    with monkeypatch.context() as patch:
        forbid_looking(root, patch)
        root.stand_in.compute(ONE, 0, 1)
        with pytest.raises(AssertionError, match="was to be ready"):
            root.stand_in.compute(ONE, 1, 1)
    root.stand_in.compute(ONE, 1, 1)


def test_the_next_epoch_has_what_is_ready(
    source: FfnSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes on with the same neurons is ready at once; of others the tiles are; and what two
    epochs running had no use for is let go."""
    monkeypatch.setattr("halo_edge.cluster.root_memory.available_bytes", lambda: (1 << 30, 1 << 30))
    root = Root(source, tmp_path)
    assert list(root.stand_in.get_ready())
    forbid_looking(root, monkeypatch)
    moved = root.next({ONE: NEURONS[TWO], TWO: NEURONS[ONE]})
    assert not list(moved.get_ready())
    together = root.next({ONE: range(128, 512)})
    assert list(together.get_ready())
    root.encode(1)
    assert any(together.compute(ONE, 0, 1))
    assert any(root.stand_in.compute(ONE, 0, 1))  # of an epoch that may still be in use
    for _ in range(2):
        root.next({})
    gone = root.next({ONE: NEURONS[ONE]})
    with pytest.raises(AssertionError, match="was to be ready"):
        list(gone.get_ready())


@pytest.mark.parametrize("tokens", [1, 5])
def test_out_of_the_model_s_file(
    make_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
) -> None:
    """Where it has the neurons in order and is in memory, no tile is looked at."""
    root = Root(FfnSource(GgufFile.open(make_model(quantization="q4_0"))), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("halo_edge.cluster.stand_in.resident_share", lambda _: 0.5)
        from_tiles = root.next(NEURONS)
    x = root.encode(tokens)
    expected = root.worker(TWO, 1, x, repack=False)
    assert bytes(from_tiles.compute(TWO, 1, tokens)) == expected
    expected_partial = root.partial_codec.decode(memoryview(expected), tokens)
    forbid_looking(root, monkeypatch)
    found = root.partial_codec.decode(root.next(NEURONS).compute(TWO, 1, tokens), tokens)
    np.testing.assert_allclose(
        found, expected_partial, atol=0.01 * float(np.abs(expected_partial).max())
    )


def test_what_is_too_large_for_the_memory_is_not_got_ready(
    source: FfnSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(source, tmp_path)
    monkeypatch.setattr("halo_edge.cluster.root_memory.available_bytes", lambda: (1000, 1 << 30))
    assert not list(root.stand_in.get_ready())
    root.encode(1)
    assert root.stand_in.compute(ONE, 0, 1)


def test_a_control_group_has_no_room_for_what_may_not_be_needed(
    source: FfnSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_edge.cluster.root_memory.available_bytes", lambda: (1 << 40, 1 << 50))
    assert not list(Root(source, tmp_path).stand_in.get_ready())
