"""What each device of a cluster holds: its neurons, its packed shards, and what it needs to make
its fill.

Nothing here asks a worker for anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from halo_edge.cluster.fill_fetch import packed_regression
from halo_edge.cluster.messages import FillTask, LayerShard
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.shard_store import ShardStore
from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.requantise import DownType
from halo_edge.errors import HaloError
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.partition import GROUP_SIZE, Partition
from halo_edge.groups.profile import Profile
from halo_edge.model.cache import user_shards
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.plan.plan import Plan, split
from halo_edge.sync.ids import ROOT, DeviceId


class Holdings:
    """With a `profile` neurons are in its order, the most important first, and the devices share
    them in theirs: so the root, which is the first, holds the most important."""

    def __init__(
        self,
        gguf: GgufFile,
        params: HyperParameters,
        weights: Sequence[float] | None,
        n_devices: int,
        profile: Profile | None,
        down: DownType,
        directory: Path | None,
    ) -> None:
        """`weights`: relative shares, the root's first; None: equal. `directory`: where packed
        shards are kept; None: in the user's cache.

        Raises `HaloError` for shares that do not fit, or a profile of another model.
        """
        if profile is not None:
            profile.check_fits(fingerprint(gguf), params.n_layers, params.hidden, params.ffn)
        self.profile = profile
        partition = Partition(params.ffn, profile.group_size if profile else GROUP_SIZE)
        self.plan = _plan(partition, weights, n_devices)
        self.neurons = {
            DeviceId(i): partition.neuron_range(share) for i, share in enumerate(self.plan.shares)
        }
        """Of every layer."""
        permutations = [layer.permutation for layer in profile.layers] if profile else None
        self._n_layers = params.n_layers
        self._source = FfnSource(gguf, permutations, down)
        cache = ShardCache(directory or user_shards())
        self.store = ShardStore(self._source, params.n_layers, params.hidden, cache)

    def shards(self) -> dict[DeviceId, list[LayerShard | None]]:
        """The shard of every layer, of each worker. Packs what is not on disk."""
        # Without a profile the root's own shard is a part of the mapped model file.
        packed = [d for d in self.neurons if d != ROOT or self.profile is not None]
        described = self.store.describe([self.neurons[device] for device in packed])
        return dict(zip(packed, described, strict=True))

    def own(self) -> list[FfnWeights | None]:
        """The root's own shard of every layer, mapped if it can be."""
        neurons, layers = self.neurons[ROOT], range(self._n_layers)
        if not neurons:
            return [None for _ in layers]
        if self.profile is None:
            return [self._source.cut(layer, neurons) for layer in layers]
        return [self.store.weights(layer, neurons) for layer in layers]

    def fill_task(self, device: DeviceId) -> FillTask | None:
        """None without a profile, or for a device without neurons."""
        neurons = self.neurons[device]
        if self.profile is None or not neurons:
            return None
        regression = packed_regression(self.profile.layers, neurons)
        return FillTask(self.profile.rank + 1, self.store.add_blob(regression))


def _plan(partition: Partition, weights: Sequence[float] | None, n_devices: int) -> Plan:
    if weights is not None and len(weights) != n_devices:
        raise HaloError(
            f"--split names {len(weights)} shares, but there are {n_devices} devices "
            f"(the root and {n_devices - 1} workers)"
        )
    return split(partition.n_groups, weights or [1.0] * n_devices)
