"""Random weights, drawn directly in ggml's quantised block layouts.

The bits of the quants are drawn at random and the scales set so that the weights have mean zero and
a given standard deviation. What the weights are for is none of this file's business.

Layouts: ggml's ggml-common.h (`block_q4_0` and so on).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Standard deviation of 0, 1, ..., n-1 drawn uniformly is sqrt((n^2 - 1) / 12).
_STD_4BIT: Final = math.sqrt((16**2 - 1) / 12)
_STD_6BIT: Final = math.sqrt((64**2 - 1) / 12)
_STD_INT8: Final = math.sqrt((255**2 - 1) / 12)


@dataclass(frozen=True)
class Quantization:
    """One block type: its layout, how many values it holds, and how to set its scales.

    `finish(blocks, rng, deviation)` gets blocks of random bits and makes weights of them.
    """

    layout: np.dtype[Any]
    block: int
    finish: Callable[[NDArray[Any], np.random.Generator, float], None]


def random_blocks(
    rng: np.random.Generator, quantization: str, values: int, *, deviation: float
) -> NDArray[Any]:
    """`values` random weights of mean 0 and standard deviation `deviation`, as blocks.

    `quantization` is a key of `QUANTIZATIONS` and `values` a whole number of its blocks.
    """
    kind = QUANTIZATIONS[quantization]
    bits = bytearray(rng.bytes(values // kind.block * kind.layout.itemsize))
    blocks = np.frombuffer(bits, kind.layout)
    kind.finish(blocks, rng, deviation)
    return blocks


def _signed(rng: np.random.Generator, count: int, size: float) -> NDArray[np.float32]:
    """Scales of random sign, by which what the mean of a block is off zero cancels over many."""
    return (rng.integers(0, 2, count, dtype=np.int8) * 2 - 1) * np.float32(size)


def _finish_q4_0(blocks: NDArray[Any], rng: np.random.Generator, deviation: float) -> None:
    blocks["d"] = _signed(rng, len(blocks), deviation / _STD_4BIT)


def _finish_q4_1(blocks: NDArray[Any], rng: np.random.Generator, deviation: float) -> None:
    blocks["d"] = _signed(rng, len(blocks), deviation / _STD_4BIT)
    blocks["m"] = -7.5 * blocks["d"]


def _finish_q8_0(blocks: NDArray[Any], rng: np.random.Generator, deviation: float) -> None:
    np.maximum(blocks["qs"], -127, out=blocks["qs"])  # -128 is never made by a quantiser
    blocks["d"] = deviation / _STD_INT8


def _finish_q4_k(blocks: NDArray[Any], rng: np.random.Generator, deviation: float) -> None:
    # All eight 6-bit scales and minima of a block are 33 (get_scale_min_k4 in ggml-quants.c).
    scale, low, high = 33, 33 & 0xF, 33 >> 4
    blocks["scales"][:, :8] = scale | high << 6
    blocks["scales"][:, 8:] = low | low << 4
    blocks["d"] = _signed(rng, len(blocks), deviation / _STD_4BIT / scale)
    blocks["dmin"] = 7.5 * blocks["d"]


def _finish_q6_k(blocks: NDArray[Any], rng: np.random.Generator, deviation: float) -> None:
    signs = _signed(rng, blocks["scales"].size, 32).reshape(blocks["scales"].shape)
    blocks["scales"] = signs
    blocks["d"] = deviation / _STD_6BIT / 32


def _finish_float(blocks: NDArray[Any], rng: np.random.Generator, deviation: float) -> None:
    # Uniform, not normal: a third of the time, and nobody looks at the tails.
    uniform = rng.random(len(blocks), dtype=np.float32)
    blocks["x"] = (uniform - np.float32(0.5)) * np.float32(math.sqrt(12) * deviation)


QUANTIZATIONS: Final[Mapping[str, Quantization]] = MappingProxyType(
    {
        "Q4_0": Quantization(np.dtype([("d", "<f2"), ("qs", "u1", 16)]), 32, _finish_q4_0),
        "Q4_1": Quantization(
            np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)]), 32, _finish_q4_1
        ),
        "Q8_0": Quantization(np.dtype([("d", "<f2"), ("qs", "i1", 32)]), 32, _finish_q8_0),
        "Q4_K": Quantization(
            np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)]),
            256,
            _finish_q4_k,
        ),
        "Q6_K": Quantization(
            np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]),
            256,
            _finish_q6_k,
        ),
        "F16": Quantization(np.dtype([("x", "<f2")]), 1, _finish_float),
        "F32": Quantization(np.dtype([("x", "<f4")]), 1, _finish_float),
    }
)
