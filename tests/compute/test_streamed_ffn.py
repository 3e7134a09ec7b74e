"""Streamed tiles against the same weights in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.compute.activations import Activations
from halo_edge.compute.direct_read import whole_blocks
from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.streamed_ffn import StreamedFfn, StreamedTile
from halo_edge.compute.wire import WireCodec, WireFormat
from halo_edge.errors import HaloError
from halo_edge.groups.shard import pack, spec_of
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters

ROWS = 6
TILE_NEURONS = 128


class Model:
    """The tiny model's layers: whole, and cut into tiles that lie in `directory`."""

    def __init__(self, path: Path, directory: Path) -> None:
        gguf = GgufFile.open(path)
        params = HyperParameters.from_gguf(gguf)
        self.whole = [FfnWeights.from_gguf(gguf, layer) for layer in range(params.n_layers)]
        self.acts = Activations(ROWS, params.hidden)
        self.acts.x[:] = np.random.default_rng(1).standard_normal(self.acts.x.shape)
        self.directory = directory
        self.tile_bytes = whole_blocks(spec_of(_part(self.whole[0], 0, TILE_NEURONS)).nbytes)

    def tile(self, layer: int, start: int, neurons: int = TILE_NEURONS) -> StreamedTile:
        weights = _part(self.whole[layer], start, start + neurons)
        path = self.directory / f"{layer}-{start}"
        path.write_bytes(pack(weights).tobytes())
        return StreamedTile(path, spec_of(weights))

    def expected(self, layer: int, tokens: int) -> NDArray[np.float32]:
        """f32[tokens, H]: of the whole layer, from memory."""
        whole = [(weights,) for weights in self.whole]
        graphs = FfnGraphs(Runtime(1), whole, Rows.f32(self.acts.x), Rows.f32(self.acts.ffn))
        graphs.run(layer, tokens)
        return self.acts.ffn[:tokens].copy()


def _part(weights: FfnWeights, start: int, stop: int) -> FfnWeights:
    down = weights.down.column_range(start, stop)
    assert down is not None
    return FfnWeights(
        weights.gate.row_range(start, stop), weights.up.row_range(start, stop), down.contiguous()
    )


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Model:
    return Model(tiny_model, tmp_path)


@contextmanager
def streamed(
    model: Model,
    resident: Sequence[FfnWeights | None],
    tiles: Sequence[Sequence[StreamedTile]],
    *,
    buffers: int = 3,
    out: Rows | None = None,
) -> Iterator[StreamedFfn]:
    out = out or Rows.f32(model.acts.ffn)
    kept = [() if weights is None else (weights,) for weights in resident]
    ffn = StreamedFfn(
        Runtime(1), kept, tiles, buffers * model.tile_bytes, Rows.f32(model.acts.x), out
    )
    with closing(ffn):
        yield ffn


def mixed(model: Model) -> tuple[list[FfnWeights | None], list[list[StreamedTile]]]:
    """Layer 0: half stays; layer 1: all is streamed, one tile smaller; layer 2: all stays."""
    neurons = model.whole[0].gate.rows
    half, last = neurons // 2, neurons - 64
    return (
        [_part(model.whole[0], 0, half), None, model.whole[2]],
        [
            [model.tile(0, start) for start in range(half, neurons, TILE_NEURONS)],
            [
                *(model.tile(1, start) for start in range(0, neurons - 128, TILE_NEURONS)),
                model.tile(1, neurons - 128, 64),
                model.tile(1, last, 64),
            ],
            [],
        ],
    )


# f16's rounding is 5e-4; the activation's scale to 8 bits is by blocks, which tiles do not cut.
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("buffers", [2, 3, 7, 16])
def test_as_if_all_were_in_memory(model: Model, tokens: int, buffers: int) -> None:
    """Round and round, with fewer buffers than a layer has tiles, and with more than there are
    tiles."""
    with streamed(model, *mixed(model), buffers=buffers) as ffn:
        ffn.prepare()
        for layer in [0, 1, 2] * 3:
            expected = model.expected(layer, tokens)
            model.acts.ffn[:] = 7
            assert ffn.run(layer, tokens)
            np.testing.assert_allclose(
                model.acts.ffn[:tokens], expected, atol=5e-4 * np.abs(expected).max()
            )
            assert (model.acts.ffn[tokens:] == 7).all()


def test_the_same_sum_every_time(model: Model) -> None:
    sums: dict[int, NDArray[Any]] = {}
    with streamed(model, *mixed(model), buffers=2) as ffn:
        for layer in [0, 1, 2, 1, 1, 0, 2, 1]:
            assert ffn.run(layer, 1)
            found = model.acts.ffn[:1].copy()
            np.testing.assert_array_equal(found, sums.setdefault(layer, found))


@pytest.mark.parametrize("wire", list(WireFormat))
def test_the_partial_is_encoded_once(model: Model, wire: WireFormat) -> None:
    codec = WireCodec(wire, model.acts.width)
    encoded = memoryview(bytearray(ROWS * codec.row_bytes))
    expected = model.expected(1, 2)
    with streamed(model, *mixed(model), out=codec.rows(encoded)) as ffn:
        assert ffn.run(1, 2)
    tolerance = 0.01 if wire is WireFormat.Q8_0 else 1e-3
    found = codec.decode(encoded, 2)
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_every_layer_may_be_next(model: Model) -> None:
    with streamed(model, *mixed(model)) as ffn:
        for layer in np.random.default_rng(3).integers(0, 3, 40):
            expected = model.expected(int(layer), 1)
            assert ffn.run(int(layer), 1)
            np.testing.assert_allclose(
                model.acts.ffn[:1], expected, atol=5e-4 * np.abs(expected).max()
            )


def test_a_layer_without_neuron_groups(model: Model) -> None:
    resident, tiles = mixed(model)
    with streamed(model, [None, *resident[1:]], [[], *tiles[1:]]) as ffn:
        model.acts.ffn[:] = 7
        assert not ffn.run(0, 2)
        assert (model.acts.ffn == 7).all()
        assert ffn.run(1, 2)
        assert (model.acts.ffn[:2] != 7).all()


def test_weights_that_cannot_be_read(model: Model) -> None:
    """Each round of their layer is told so; the other layers go on, and so does this one when the
    disk is back."""
    resident, tiles = mixed(model)
    path = tiles[1][3].path
    content = path.read_bytes()
    with streamed(model, resident, tiles, buffers=2) as ffn:
        expected = model.expected(1, 1)
        for damage, message in [
            (lambda: path.write_bytes(content[:100]), f"{path} ends after 100 of {len(content)}"),
            (path.unlink, f"cannot read weights from {path}: No such file"),
        ]:
            assert ffn.run(0, 1)  # the buffers are full of layers 0 and 1 now, without that tile
            damage()
            model.acts.ffn[:] = 7
            for _ in range(2):
                with pytest.raises(HaloError, match=message):
                    ffn.run(1, 1)
            assert (model.acts.ffn == 7).all()
            assert ffn.run(0, 1)
            path.write_bytes(content)
            assert ffn.run(1, 1)
            np.testing.assert_allclose(
                model.acts.ffn[:1], expected, atol=5e-4 * np.abs(expected).max()
            )


def test_what_was_loaded_is_counted(model: Model) -> None:
    resident, tiles = mixed(model)
    with streamed(model, resident, tiles, buffers=2) as ffn:
        for layer in (0, 1):
            ffn.run(layer, 1)
        loading = ffn.loading
    of_a_circle = [tile for layer in tiles for tile in layer]
    assert loading.tiles_read >= len(of_a_circle)
    assert loading.bytes_read >= sum(tile.layout.nbytes for tile in of_a_circle)
    assert loading.waited_s > 0


def test_a_pool_too_small(model: Model) -> None:
    with pytest.raises(HaloError, match="two tiles of"), streamed(model, *mixed(model), buffers=1):
        pass
