"""The sizes of a model that decide how long its parts take and how much travels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from halo_edge.groups.partition import GROUP_SIZE, Partition
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters

if TYPE_CHECKING:
    from halo_edge.model.synth import SyntheticShape  # with what it writes files


@dataclass(frozen=True)
class ModelShape:
    """`attention_weights`, `ffn_weights`: of one layer; `head_weights`: of the output matrix.
    `weight_bytes`: bytes of one weight, on average."""

    name: str
    n_layers: int
    hidden: int
    ffn: int
    kv_width: int  # values of one token's key, and of its value, in a layer
    attention_weights: int
    ffn_weights: int
    head_weights: int
    weight_bytes: float
    group_size: int = GROUP_SIZE  # neurons

    @property
    def partition(self) -> Partition:
        """A layer's neuron groups."""
        return Partition(self.ffn, self.group_size)

    @property
    def group_bytes(self) -> float:
        """Of a neuron group's weights, in all layers together."""
        one = self.ffn_weights * self.weight_bytes / self.ffn * self.group_size
        return one * self.n_layers

    @classmethod
    def of(
        cls, name: str, sizes: SyntheticShape | HyperParameters, weight_bytes: float
    ) -> ModelShape:
        heads, kv = sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim
        return cls(
            name=name,
            n_layers=sizes.n_layers,
            hidden=sizes.hidden,
            ffn=sizes.ffn,
            kv_width=kv,
            attention_weights=2 * sizes.hidden * (heads + kv),
            ffn_weights=3 * sizes.hidden * sizes.ffn,
            head_weights=sizes.hidden * sizes.vocab,
            weight_bytes=weight_bytes,
        )

    @classmethod
    def of_file(cls, name: str, gguf: GgufFile) -> ModelShape:
        """Raises `HaloError` for a model of another architecture."""
        params = HyperParameters.from_gguf(gguf)
        matrices = [
            t for name, t in gguf.tensors.items() if len(t.shape) > 1 and "embd" not in name
        ]
        weights = sum(t.shape[0] * t.shape[1] for t in matrices)
        return cls.of(name, params, sum(t.nbytes for t in matrices) / weights)
