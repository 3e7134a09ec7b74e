"""The sizes of a model that decide how long its parts take and how much travels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.groups.partition import Partition
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.model.synth import SHAPES, SyntheticShape

DEFAULT_SHAPE: Final = "tinyllama-1.1b"
# Q4_0: blocks of 18 bytes for 32 weights. What `halo synth` writes unless told otherwise.
Q4_0_BYTES: Final = 18 / 32


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

    @property
    def partition(self) -> Partition:
        """A layer's neuron groups."""
        return Partition(self.ffn)

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


def read_shape(model: str) -> ModelShape:
    """Of a shape of `SHAPES` by its name (in Q4_0), or of a GGUF file. Raises `HaloError`."""
    if model in SHAPES:
        return ModelShape.of(model, SHAPES[model], Q4_0_BYTES)
    path = Path(model)
    if not path.exists():
        raise HaloError(f"no such model: {model}; give a GGUF file, or one of {', '.join(SHAPES)}")
    gguf = GgufFile.open(path)
    params = HyperParameters.from_gguf(gguf)
    matrices = [t for name, t in gguf.tensors.items() if len(t.shape) > 1 and "embd" not in name]
    weights = sum(t.shape[0] * t.shape[1] for t in matrices)
    return ModelShape.of(path.name, params, sum(t.nbytes for t in matrices) / weights)
