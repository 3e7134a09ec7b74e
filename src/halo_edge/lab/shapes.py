"""The shapes of models, known by their names or read from GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.synth import SHAPES
from halo_edge.plan.model_shape import ModelShape

DEFAULT_SHAPE: Final = "tinyllama-1.1b"
# Q4_0: blocks of 18 bytes for 32 weights. What `halo synth` writes unless told otherwise.
Q4_0_BYTES: Final = 18 / 32


def read_shape(model: str) -> ModelShape:
    """Of a shape of `SHAPES` by its name (in Q4_0), or of a GGUF file. Raises `HaloError`."""
    if model in SHAPES:
        return ModelShape.of(model, SHAPES[model], Q4_0_BYTES)
    path = Path(model)
    if not path.exists():
        raise HaloError(f"no such model: {model}; give a GGUF file, or one of {', '.join(SHAPES)}")
    return ModelShape.of_file(path.name, GgufFile.open(path))
