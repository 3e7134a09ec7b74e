"""What each device of a plan holds: its neurons, its packed shards, and what it needs to make its
fill.

Nothing here asks a worker for anything.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from halo_edge.cluster.fill_fetch import packed_regression
from halo_edge.cluster.messages import FillTask, Tile
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.shard_store import ShardStore
from halo_edge.compute.ffn import LayerWeights
from halo_edge.compute.requantise import DownType
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.partition import tiles
from halo_edge.groups.profile import Profile
from halo_edge.model.cache import user_shards
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.plan import Plan
from halo_edge.sync.ids import ROOT, DeviceId


class Packing:
    """Where the shards of all plans of a session come from.

    With a `profile` neurons are in its order, the most important first.
    """

    def __init__(
        self,
        gguf: GgufFile,
        params: HyperParameters,
        profile: Profile | None,
        down: DownType,
        directory: Path | None,
    ) -> None:
        """`directory`: where packed shards are kept; None: in the user's cache.

        Raises `HaloError` for a profile of another model.
        """
        if profile is not None:
            profile.check_fits(fingerprint(gguf), params.n_layers, params.hidden, params.ffn)
        self.profile = profile
        self.down = down
        shape = ModelShape.of_file("the model", gguf)
        self.shape = replace(shape, group_size=profile.group_size) if profile else shape
        self.partition = self.shape.partition
        self.n_layers = params.n_layers
        permutations = [layer.permutation for layer in profile.layers] if profile else None
        self.source = FfnSource(gguf, permutations, down)
        cache = ShardCache(directory or user_shards())
        self.store = ShardStore(self.source, params.n_layers, params.hidden, cache)


class Shards(NamedTuple):
    """One device's, as in an `Assignment`."""

    resident: list[list[Tile]]
    streamed: list[list[Tile]]


class Holdings:
    """Of one plan."""

    def __init__(self, packing: Packing, plan: Plan) -> None:
        self._packing = packing
        self._plan = plan
        self.neurons = {
            DeviceId(i): packing.partition.neuron_range(share)
            for i, share in enumerate(plan.shares)
        }
        """Of every layer."""

    def shards(self) -> dict[DeviceId, Shards]:
        """The tiles of every layer, of each worker. Packs what is not on disk."""
        packing = self._packing
        # Without a profile the root's own shard is a part of the mapped model file.
        packed = [d for d in self.neurons if d != ROOT or packing.profile is not None]
        described = packing.store.describe([self.neurons[device] for device in packed])
        found = {}
        for device, layers in zip(packed, described, strict=True):
            stay = self._stay(device)
            streamed = [layer[stay:] for layer in layers]
            found[device] = Shards(
                [layer[:stay] for layer in layers], streamed if any(streamed) else []
            )
        return found

    def _stay(self, device: DeviceId) -> int:
        """How many of its tiles stay in its memory: those of which all neurons do."""
        resident = self._packing.partition.neuron_range(self._plan.resident_on(device))
        return sum(tile.stop <= resident.stop for tile in tiles(self.neurons[device]))

    def own(self) -> list[LayerWeights]:
        """The root's own shard of every layer, mapped if it can be."""
        packing, neurons = self._packing, self.neurons[ROOT]
        layers = range(packing.n_layers)
        if not neurons:
            return [() for _ in layers]
        if len(neurons) == self._packing.partition.neurons:  # their order makes no difference
            return [(packing.source.whole(layer),) for layer in layers]
        if packing.profile is None:
            return [(packing.source.cut(layer, neurons),) for layer in layers]
        return [packing.store.weights(layer, neurons) for layer in layers]

    def fill_task(self, device: DeviceId) -> FillTask | None:
        """None without a profile, or for a device without neurons."""
        profile, neurons = self._packing.profile, self.neurons[device]
        if profile is None or not neurons:
            return None
        regression = packed_regression(profile.layers, neurons)
        return FillTask(profile.rank + 1, self._packing.store.add_blob(regression))
