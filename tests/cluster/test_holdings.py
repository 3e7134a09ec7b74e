"""Who is told what is packed."""

from __future__ import annotations

from pathlib import Path

from halo_edge.cluster.holdings import Holdings, Packing
from halo_edge.cluster.messages import Tile
from halo_edge.compute.requantise import DownType
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.plan.plan import split
from halo_edge.sync.ids import DeviceId


def test_each_worker_is_told_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    """Layer by layer, and nobody of what was packed before."""
    gguf = GgufFile.open(tiny_model)
    packing = Packing(gguf, HyperParameters.from_gguf(gguf), None, DownType.SAME, tmp_path)
    told: dict[DeviceId, list[list[Tile]]] = {DeviceId(1): [], DeviceId(2): []}

    def coming(device: DeviceId, tiles: list[Tile]) -> None:
        told[device].append(tiles)

    first = Holdings(packing, split(8, [4, 2, 2]))
    shards = first.shards(coming)
    assert told == {device: shards[device].resident for device in told}
    before = {device: len(layers) for device, layers in told.items()}
    second = Holdings(packing, split(8, [4, 4, 0]), first)
    second.shards(coming)
    assert {device: len(layers) for device, layers in told.items()} == before
