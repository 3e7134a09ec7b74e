"""The root's packed shards: packed once, on disk where there is one, and distrusted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from halo_edge.cluster.messages import Tile
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.shard_index import MAX_BYTES, ShardIndex
from halo_edge.cluster.shard_store import ShardStore
from halo_edge.compute.ffn import FfnWeights
from halo_edge.errors import HaloError
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.partition import tiles
from halo_edge.groups.profile import Profile
from halo_edge.groups.shard import content_hash, pack
from halo_edge.model.gguf_file import GgufFile

PARTS = [range(0, 128), range(0), range(128, 512)]
LAYERS = 3


class Counting(FfnSource):
    """Counts what is cut."""

    cuts_made = 0

    def cuts(self, layer: int, parts: object) -> list[FfnWeights]:
        self.cuts_made += 1
        return super().cuts(layer, parts)  # type: ignore[arg-type]


@pytest.fixture
def source(tiny_model: Path, random_profile: Callable[..., Profile]) -> Counting:
    layers = random_profile(tiny_model).layers
    return Counting(GgufFile.open(tiny_model), [layer.permutation for layer in layers])


def store_of(source: FfnSource, directory: Path, limit_bytes: int = 1 << 30) -> ShardStore:
    return ShardStore(source, LAYERS, 128, ShardCache(directory, limit_bytes))


def check(store: ShardStore, source: FfnSource, described: list[list[list[Tile]]]) -> None:
    """Every tile is served, and given as weights, as it is cut."""
    for part, shards in zip(PARTS, described, strict=True):
        for layer, shard in enumerate(shards):
            found = store.weights(layer, part)
            for tile, neurons, weights in zip(shard, tiles(part), found, strict=True):
                packed = pack(source.cut(layer, neurons))
                assert tile.sha256 == content_hash(packed)
                assert tile.neurons == len(neurons)
                np.testing.assert_array_equal(store.packed(tile.sha256), packed)
                np.testing.assert_array_equal(pack(weights), packed)


def test_a_second_start_packs_nothing(source: Counting, tmp_path: Path) -> None:
    store = store_of(source, tmp_path)
    described = store.describe(PARTS)
    assert source.cuts_made == LAYERS
    check(store, source, described)

    source.cuts_made = 0
    again = store_of(source, tmp_path)
    assert again.describe(PARTS) == described
    again.weights(1, PARTS[0])
    again.packed(described[2][0][0].sha256)
    assert source.cuts_made == 0
    check(again, source, described)
    more = again.describe([range(0, 192), range(192, 512)])
    assert more[1][0][1:] == described[2][0][1:]  # the tile that both have
    assert again.describe(PARTS) == described


def test_what_is_packed_is_told_layer_by_layer(source: Counting, tmp_path: Path) -> None:
    """When it can be fetched already; not again, and not what was there."""
    store, told = store_of(source, tmp_path), list[set[str]]()

    def packed(layer: Mapping[range, Tile]) -> None:
        assert source.cuts_made == len(told) + 1
        assert set(layer) == {tile for part in parts for tile in tiles(part)}
        assert all(store.packed(tile.sha256).size for tile in layer.values())
        told.append({tile.sha256 for tile in layer.values()})

    parts = PARTS[:2]
    store.describe(parts, packed)
    assert len(told) == LAYERS
    store.describe(parts, packed)
    assert len(told) == LAYERS
    source.cuts_made, parts = LAYERS, PARTS[2:]
    described = store.describe(PARTS, packed)
    assert [{tile.sha256 for tile in layer} for layer in described[2]] == told[LAYERS:]


def test_between_layers_others_have_their_turn(source: Counting, tmp_path: Path) -> None:
    store, turns = store_of(source, tmp_path), list[int]()
    store.describe(PARTS, between=lambda: turns.append(source.cuts_made))
    assert turns[:LAYERS] == list(range(1, LAYERS + 1))


def test_where_nothing_is_new_the_disk_is_not_searched(
    source: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = store_of(source, tmp_path).describe(PARTS)
    again = store_of(source, tmp_path)

    def searched(*_: object) -> None:
        raise AssertionError("there are many files")

    monkeypatch.setattr(ShardCache, "prune", searched)
    assert again.describe(PARTS) == described
    with pytest.raises(AssertionError, match="many files"):
        again.describe([range(0, 64)])


def test_nothing_is_told_without_a_disk(source: Counting, tmp_path: Path) -> None:
    """Each tile would have to be cut again."""
    (tmp_path / "file").write_text("")
    told: list[Mapping[range, Tile]] = []
    store_of(source, tmp_path / "file" / "shards").describe(PARTS, told.append)
    assert not told


def test_weights_are_mapped(source: Counting, tmp_path: Path) -> None:
    store = store_of(source, tmp_path)
    store.describe(PARTS)
    assert not any(tile.gate.data.flags.writeable for tile in store.weights(0, PARTS[2]))
    assert len(store.mapped(0, PARTS[2])) == 2
    assert store.mapped(0, range(64)) == []


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_damaged_shards_are_cut_again(
    source: Counting, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    described = store_of(source, tmp_path).describe(PARTS)
    for shards in described:
        for tile in (tile for shard in shards for tile in shard):
            path = tmp_path / tile.sha256
            path.write_bytes(damage(path.read_bytes()))
    store = store_of(source, tmp_path)
    assert store.describe(PARTS) == described
    assert source.cuts_made >= LAYERS
    packed = pack(source.cut(1, range(256, 512)))
    np.testing.assert_array_equal(pack(store.weights(1, PARTS[2])[1]), packed)
    check(store, source, described)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: b"\xff" * 100,
        lambda text: text.replace(b'"gate_type":2', b'"gate_type":99'),
        lambda text: text.replace(b'"neurons":128', b'"neurons":96'),
        lambda text: text.replace(b'"checksum":', b'"checksum":1'),
        lambda text: b" " * (MAX_BYTES + 1) + text,
    ],
)
def test_a_damaged_index_costs_packing(
    source: Counting, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    described = store_of(source, tmp_path).describe(PARTS)
    index = tmp_path / f"{source.name}.index"
    index.write_bytes(damage(index.read_bytes()))
    store = store_of(source, tmp_path)
    assert store.describe(PARTS) == described
    check(store, source, described)


def test_without_a_disk(source: Counting, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = store_of(source, tmp_path / "file" / "shards")
    described = store.describe(PARTS)
    check(store, source, described)
    assert store.mapped(0, PARTS[0]) == []
    blob = np.arange(1000, dtype=np.uint8)
    np.testing.assert_array_equal(store.packed(store.add_blob(blob)), blob)


def test_pruned_by_another_process(source: Counting, tmp_path: Path) -> None:
    store = store_of(source, tmp_path)
    described = store.describe(PARTS)
    for path in tmp_path.iterdir():
        path.unlink()
    check(store, source, described)
    again = store_of(source, tmp_path)
    check(again, source, again.describe(PARTS))


def test_bounded_but_never_what_is_in_use(source: Counting, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(bytes(1000))
    os.utime(old, (1, 1))
    described = store_of(source, tmp_path, limit_bytes=1).describe(PARTS)
    assert not old.exists()
    names = {tile.sha256 for shards in described for shard in shards for tile in shard}
    assert {path.name for path in tmp_path.iterdir()} == names | {f"{source.name}.index"}


def test_the_index_forgets_what_is_gone(source: Counting, tmp_path: Path) -> None:
    store_of(source, tmp_path).describe([range(0, 64)])
    for path in tmp_path.glob("[0-9a-f]" * 64):
        path.unlink()
    store_of(source, tmp_path).describe(PARTS)
    assert ShardIndex(tmp_path, source.name).get(0, range(0, 64)) is None
    assert ShardIndex(tmp_path, source.name).get(0, PARTS[0]) is not None


def test_blobs(source: Counting, tmp_path: Path) -> None:
    store, blob = store_of(source, tmp_path), np.arange(1000, dtype=np.uint8)
    name = store.add_blob(blob)
    assert store.add_blob(blob) == name
    np.testing.assert_array_equal(store.packed(name), blob)
    with pytest.raises(HaloError, match="no such tile"):
        store.packed("0" * 64)
