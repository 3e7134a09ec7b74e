"""What each device of a plan holds: its neurons, its packed shards, and what it needs to make its
fill.

Nothing here asks a worker for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from halo_edge.cluster.fill_fetch import packed_regression
from halo_edge.cluster.messages import FillTask, Holder, Tile
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.shard_store import ShardStore
from halo_edge.compute.ffn import LayerWeights
from halo_edge.compute.requantise import DownType
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.partition import tiles, tiles_with
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
    replicas: list[list[Tile]]


class Holdings:
    """Of one plan. Each device's neurons are cut into pieces, the same in every layer: into those
    that it has had `before`, as far as possible."""

    def __init__(self, packing: Packing, plan: Plan, before: Holdings | None = None) -> None:
        self._packing = packing
        self._plan = plan
        partition, devices = packing.partition, [DeviceId(d) for d in range(plan.n_devices)]
        self.neurons = {d: partition.neuron_range(plan.shares[d]) for d in devices}
        """Of every layer."""
        had: Mapping[DeviceId, Sequence[range]] = before.held if before is not None else {}
        self.pieces = {d: tiles_with(self.neurons[d], had.get(d, ())) for d in devices}
        """Of its neurons."""
        others = [piece for d in devices if d != ROOT for piece in self.pieces[d]]
        self.replicas = {
            d: [
                piece
                for run in plan.replicas_on(d)
                for piece in tiles_with(partition.neuron_range(run), [*had.get(d, ()), *others])
            ]
            for d in devices
        }
        """Of the neurons of others that it is to hold."""
        self.held: dict[DeviceId, list[range]] = {
            d: [*self.pieces[d], *self.replicas[d]] for d in devices
        }
        self._had = {d: frozenset(had.get(d, ())) for d in devices}
        self._described: dict[range, list[list[Tile]]] = (
            dict(before._described) if before is not None else {}
        )

    def shards(
        self,
        coming: Callable[[DeviceId, list[Tile]], None] | None = None,
        between: Callable[[], object] = lambda: None,
    ) -> dict[DeviceId, Shards]:
        """The tiles of every layer, of each worker. Packs what is not on disk; `coming` is told,
        layer by layer, what it has packed of a worker's own; `between` is called after each."""
        packing = self._packing
        # Without a profile the root's own shard is a part of the mapped model file.
        packed = [d for d in self.held if d != ROOT or packing.profile is not None]
        wanted = dict.fromkeys(piece for d in packed for piece in self.held[d])
        # To look after all that were described before takes longer than all the rest.
        new = [piece for piece in wanted if piece not in self._described]
        if new:
            told = self._by_device(coming) if coming is not None else None
            self._described.update(
                zip(new, packing.store.describe(new, told, between), strict=True)
            )
        self._described = {piece: self._described[piece] for piece in wanted}
        found = {}
        for device in packed:
            mine, stay = self.pieces[device], self._stay(device)
            streamed = mine[stay:]
            found[device] = Shards(
                self._tiles(mine[:stay]),
                self._tiles(streamed) if streamed else [],
                self._tiles(self.replicas[device]) if self.replicas[device] else [],
            )
        return found

    def holders(self, device: DeviceId, names: Mapping[DeviceId, str]) -> list[Holder]:
        """Who else has what that worker may not have had before, of those with `names`. Call
        `shards` first."""
        new = {piece for piece in self.held[device] if piece not in self._had[device]}
        found = []
        for other, name in names.items():
            theirs = self._had[other] | {*self.pieces[other]} if other != device else frozenset()
            shared = [piece for piece in sorted(new, key=lambda p: p.start) if piece in theirs]
            new.difference_update(shared)
            layers = self._tiles(shared) if shared else []
            if layers:
                found.append(Holder(name, [tile.sha256 for tiles in layers for tile in tiles]))
        return found

    def _by_device(
        self, coming: Callable[[DeviceId, list[Tile]], None]
    ) -> Callable[[Mapping[range, Tile]], None]:
        mine = {
            device: [tile for piece in pieces for tile in tiles(piece)]
            for device, pieces in self.pieces.items()
            if device != ROOT
        }

        def told(packed: Mapping[range, Tile]) -> None:
            for device, wanted in mine.items():
                found = [packed[neurons] for neurons in wanted if neurons in packed]
                if found:
                    coming(device, found)

        return told

    def _tiles(self, pieces: Sequence[range]) -> list[list[Tile]]:
        """By layer."""
        return [
            [tile for piece in pieces for tile in self._described[piece][layer]]
            for layer in range(self._packing.n_layers)
        ]

    def _stay(self, device: DeviceId) -> int:
        """How many of its pieces stay in its memory: those of which all neurons do."""
        resident = self._packing.partition.neuron_range(self._plan.resident_on(device))
        return sum(piece.stop <= resident.stop for piece in self.pieces[device])

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
        store, pieces = packing.store, self.pieces[ROOT]
        return [[t for piece in pieces for t in store.weights(layer, piece)] for layer in layers]

    def fill_task(self, device: DeviceId) -> FillTask | None:
        """None without a profile, or for a device without neurons."""
        profile, neurons = self._packing.profile, self.neurons[device]
        if profile is None or not neurons:
            return None
        regression = packed_regression(profile.layers, neurons)
        return FillTask(profile.rank + 1, self._packing.store.add_blob(regression))
