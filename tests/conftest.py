"""Fixtures that tests of every room share: reference data, models to run and models to damage."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.rows import Rows as VectorRows
from halo_edge.compute.runtime import Runtime
from halo_edge.engine.forward import Forward, Rows
from halo_edge.engine.gather import LocalFfn
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.errors import HaloError
from halo_edge.groups.partition import Partition
from halo_edge.groups.profile import LayerProfile, Profile
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.model.pull import DEMO_MODEL, resolve_model
from halo_edge.model.synth import SHAPES, write_synthetic

# How long an example takes on a machine that does other things says nothing.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

MakeModel = Callable[..., Path]

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # GGUF's metadata types
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass
class GgufImage:
    """A GGUF taken to pieces, to be put together again with something wrong or unusual in it.

    Written from the format's description, so that it shares no mistake with what it tests.
    `metadata`: key -> (type, value as it is stored). `tensors`: name -> [ggml type, shape (ggml's
    order), offset in the data]; `data`: what follows the header.
    """

    version: int
    metadata: dict[str, tuple[int, bytes]]
    tensors: dict[str, tuple[int, tuple[int, ...], int]]
    data: bytes
    alignment: int = 32  # of the start of the data

    @classmethod
    def read(cls, path: Path) -> Self:
        raw, at = path.read_bytes(), 4

        def take(layout: str) -> int:
            nonlocal at
            (value,) = struct.unpack_from("<" + layout, raw, at)
            at += struct.calcsize("<" + layout)
            return int(value)

        def text() -> str:
            nonlocal at
            size = take("Q")
            at += size
            return raw[at - size : at].decode()

        def skip(kind: int) -> None:
            nonlocal at
            if kind == STRING:
                text()
            elif kind == ARRAY:
                kind, count = take("I"), take("Q")
                for _ in range(count):
                    skip(kind)
            else:
                at += struct.calcsize(_SCALARS[kind])

        version, n_tensors, n_metadata = take("I"), take("Q"), take("Q")
        metadata, tensors = {}, {}
        for _ in range(n_metadata):
            key, kind = text(), take("I")
            start = at
            skip(kind)
            metadata[key] = (kind, raw[start:at])
        for _ in range(n_tensors):
            name = text()
            shape = tuple(take("Q") for _ in range(take("I")))
            tensors[name] = (take("I"), shape, take("Q"))
        return cls(version, metadata, tensors, raw[-(-at // 32) * 32 :])

    def set(self, key: str, kind: int, value: Any) -> Self:
        """Metadata of a scalar type or a string."""
        stored = (
            struct.pack("<Q", len(value.encode())) + value.encode()
            if kind == STRING
            else struct.pack("<" + _SCALARS[kind], value)
        )
        self.metadata[key] = (kind, stored)
        return self

    def add(self, name: str, values: NDArray[np.float32]) -> Self:
        """One more tensor, of type F32."""
        self.data += bytes(-len(self.data) % 32)
        self.tensors[name] = (0, values.shape[::-1], len(self.data))
        self.data += values.tobytes()
        return self

    def header(self) -> bytes:
        parts = [b"GGUF", struct.pack("<IQQ", self.version, len(self.tensors), len(self.metadata))]
        for key, (kind, stored) in self.metadata.items():
            parts += [_length_and_bytes(key), struct.pack("<I", kind), stored]
        for name, (ggml_type, shape, offset) in self.tensors.items():
            parts += [_length_and_bytes(name), struct.pack("<I", len(shape))]
            parts += [struct.pack(f"<{len(shape)}Q", *shape), struct.pack("<IQ", ggml_type, offset)]
        return b"".join(parts)

    def write(self, path: Path) -> Path:
        header = self.header()
        path.write_bytes(header + bytes(-len(header) % self.alignment) + self.data)
        return path


def _length_and_bytes(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


@pytest.fixture(scope="session")
def gguf_image() -> type[GgufImage]:
    """The class, as test files cannot import this one."""
    return GgufImage


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The directory `shared` beside the repository, with reference outputs of other engines."""
    directory = (Path(__file__).parents[1] / ".." / "shared").resolve()
    if not directory.is_dir():
        pytest.skip("the reference data, a directory `shared` beside the repository, is not here")
    return directory


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """SmolLM2-135M-Instruct in the user's cache, pulled first if it must be.

    Not being able to is a failure, unless HALO_OFFLINE=1 says that it is to be expected.
    """
    try:
        return resolve_model(DEMO_MODEL)
    except HaloError as error:
        if os.environ.get("HALO_OFFLINE") == "1":
            pytest.skip(f"HALO_OFFLINE=1 and {error}")
        raise


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """`make_model(quantization="q4_0", seed=0, **sizes)`: a tiny synthetic model's path.

    `sizes` are fields of `SyntheticShape` that differ from the shape `tiny`. A model asked for
    twice is written once.
    """
    directory = tmp_path_factory.mktemp("models")
    made: dict[object, Path] = {}

    def make(*, quantization: str = "q4_0", seed: int = 0, **sizes: Any) -> Path:
        shape = dataclasses.replace(SHAPES["tiny"], **sizes)
        key = (shape, quantization, seed)
        if key not in made:
            path = directory / f"{len(made)}-{shape.architecture}-{quantization}.gguf"
            write_synthetic(shape, path, quantization=quantization, seed=seed)
            made[key] = path
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_model(make_model: MakeModel) -> Path:
    """A llama of 3 layers, hidden 128, ffn 512 (8 neuron groups), 4 heads, 2 KV heads, in Q4_0."""
    return make_model()


class OpenModel:
    """A model on one device, driven step by step."""

    def __init__(self, path: Path, runtime: Runtime, *, cells: int, max_tokens: int) -> None:
        self.gguf = GgufFile.open(path)
        self.params = HyperParameters.from_gguf(self.gguf)
        self.runtime = runtime
        self.forward = Forward(
            self.gguf, self.params, self.runtime, cells=cells, max_tokens=max_tokens
        )
        weights = [(FfnWeights.from_gguf(self.gguf, i),) for i in range(self.params.n_layers)]
        acts = self.forward.activations
        graphs = FfnGraphs(self.runtime, weights, VectorRows.f32(acts.x), VectorRows.f32(acts.ffn))
        self.gather = LocalFfn(graphs, self.forward.tracer)

    def step(self, *batch: tuple[int, Sequence[int], int]) -> NDArray[np.float32]:
        """f32[len(batch), vocab] after the last token of each (sequence, tokens, start)."""
        rows = [Rows(SequenceId(id), tokens, start, 1) for id, tokens, start in batch]
        return self.forward.step(rows, self.gather).copy()

    def fresh(self, tokens: Sequence[int], *chunks: int) -> NDArray[np.float32]:
        """f32[vocab] after `tokens`, a sequence of their own, in steps of these sizes."""
        sequence, start = 1 << 20, 0
        for size in chunks or (len(tokens),):
            logits = self.step((sequence, tokens[start : start + size], start))
            start += size
        assert start == len(tokens)
        self.forward.cells.release(SequenceId(sequence))
        return logits[0]


@pytest.fixture(scope="session")
def open_model() -> Callable[..., OpenModel]:
    """`open_model(path, cells=256, max_tokens=64, threads=1, repack=True)`."""

    def open_(
        path: Path,
        *,
        cells: int = 256,
        max_tokens: int = 64,
        threads: int = 1,
        repack: bool = True,
    ) -> OpenModel:
        runtime = Runtime(threads, repack=repack)
        return OpenModel(path, runtime, cells=cells, max_tokens=max_tokens)

    return open_


@pytest.fixture(scope="session")
def random_profile() -> Callable[..., Profile]:
    """`random_profile(model's path, rank=4, group_size=64, seed=0)`: of the right shape, and
    consistent; what it says of the model is not true."""

    def make(path: Path, *, rank: int = 4, group_size: int = 64, seed: int = 0) -> Profile:
        gguf = GgufFile.open(path)
        params, rng = HyperParameters.from_gguf(gguf), np.random.default_rng(seed)
        groups = Partition(params.ffn, group_size).n_groups

        def normal(*shape: int) -> NDArray[np.float32]:
            return rng.standard_normal(shape, np.float32)

        def layer() -> LayerProfile:
            energy = np.exp(normal(groups))
            return LayerProfile(
                permutation=rng.permutation(params.ffn).astype(np.int32),
                basis=normal(rank, params.hidden),
                mean=normal(rank),
                regression=normal(params.ffn, rank + 1),
                predictor=normal(groups, rank + 1),
                energy=energy,
                residual=energy / 2,
                total=float(energy.sum()),
                sensitivity=0.1,
            )

        layers = tuple(layer() for _ in range(params.n_layers))
        return Profile(fingerprint(gguf), group_size, layers, (), {})

    return make
