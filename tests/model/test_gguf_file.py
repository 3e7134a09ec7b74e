"""GGUF files: what is in them, and every way of being damaged."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import (
    MAX_ENTRIES,
    MAX_STRING_BYTES,
    GgufFile,
    block_size,
    tensor_nbytes,
)
from halo_edge.model.hparams import HyperParameters

UINT8, UINT32, FLOAT32, BOOL, STRING, ARRAY = 0, 4, 6, 7, 8, 9  # GGUF's metadata types
HUGE = 1 << 60


def open_bytes(tmp_path: Path, content: bytes) -> GgufFile:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return GgufFile.open(path)


def refused(path: Path, message: str) -> None:
    """One line that names the file and says `message`; quickly, and without much memory."""
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(HaloError, match=message) as caught:
        GgufFile.open(path)
    assert time.process_time() - started < 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def header(n_tensors: int = 0, n_metadata: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_metadata)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(
    name: bytes = b"t", shape: tuple[int, ...] = (32,), ggml_type: int = 0, offset: int = 0
) -> bytes:
    entry = text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return entry + struct.pack("<IQ", ggml_type, offset)


def test_agrees_with_the_reference_reader(make_model: Any) -> None:
    path = make_model(architecture="qwen2", quantization="q4_K", hidden=256)
    ours, theirs = GgufFile.open(path), GGUFReader(path)
    fields = {k: v.contents() for k, v in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    for key, value in fields.items():
        mine = ours.metadata[key]
        assert (mine.tolist() if isinstance(mine, np.ndarray) else mine) == value
        if not isinstance(mine, np.ndarray):
            assert type(mine) is type(value)
    assert list(ours.tensors) == [t.name for t in theirs.tensors]
    for expected in theirs.tensors:
        info = ours.tensor(expected.name)
        assert info.shape == tuple(expected.shape)
        assert info.ggml_type == expected.tensor_type
        assert (info.offset, info.nbytes) == (expected.data_offset, expected.n_bytes)
        raw = ours.tensor_bytes(expected.name)
        assert np.array_equal(raw, expected.data.reshape(-1).view(np.uint8))
        assert len(raw) == info.row_bytes * int(np.prod(info.shape[1:]))


def test_mapped_read_only(tiny_model: Path) -> None:
    gguf = GgufFile.open(tiny_model)
    assert gguf.data.nbytes == tiny_model.stat().st_size
    raw = gguf.tensor_bytes("output_norm.weight")
    assert np.shares_memory(raw, gguf.data)
    assert not raw.flags.writeable
    del gguf
    assert np.isfinite(raw.view(np.float32)).all()  # the mapping lives as long as a view of it


def test_every_kind_of_metadata(tmp_path: Path) -> None:
    values = [
        (0, b"\x07", 7), (1, b"\xff", -1), (2, b"\x01\x02", 513), (3, b"\xff\xff", -1),
        (4, b"\1\0\0\0", 1), (5, b"\xfe\xff\xff\xff", -2), (6, struct.pack("<f", 0.5), 0.5),
        (7, b"\x01", True), (7, b"\x00", False), (8, text("é".encode()), "é"),
        (8, text(b"\xff"), "\ufffd"), (10, struct.pack("<Q", 2**63), 2**63),
        (11, struct.pack("<q", -5), -5), (12, struct.pack("<d", 1e300), 1e300),
        (9, struct.pack("<IQ", 8, 2) + text(b"a") + text(b""), ["a", ""]),
        (9, struct.pack("<IQ3h", 3, 3, 1, -2, 3), [1, -2, 3]),
        (9, struct.pack("<IQ", 6, 0), []),
    ]  # fmt: skip
    content = header(0, len(values))
    for i, (kind, stored, _) in enumerate(values):
        content += text(b"k%d" % i) + struct.pack("<I", kind) + stored
    for version in (2, 3):
        start = b"GGUF" + struct.pack("<I", version)
        metadata = open_bytes(tmp_path, start + content[8:]).metadata
        for i, (_, _, expected) in enumerate(values):
            mine = metadata[f"k{i}"]
            assert (mine.tolist() if isinstance(mine, np.ndarray) else mine) == expected


@pytest.mark.parametrize("kind", list(GGMLQuantizationType), ids=lambda kind: kind.name)
def test_sizes_of_tensors(kind: GGMLQuantizationType) -> None:
    block, size = block_size(kind)
    assert tensor_nbytes(kind, (3 * block, 5)) == 15 * size
    if block > 1:
        with pytest.raises(ValueError, match="not a whole number of blocks"):
            tensor_nbytes(kind, (block + 1, block))


@pytest.mark.parametrize("kind", [-1, 4, 5, 31, 32, 33, 36, 37, 38, 42, 1000, 2**32 - 1, 2**63])
def test_types_that_are_none(kind: int) -> None:
    with pytest.raises(ValueError, match="tensor type"):
        tensor_nbytes(kind, (256,))


def test_alignment(tiny_model: Path, gguf_image: Any, tmp_path: Path) -> None:
    image = gguf_image.read(tiny_model)
    data = {name: bytes(GgufFile.open(tiny_model).tensor_bytes(name)) for name in image.tensors}
    image.alignment = 4096
    image.set("general.alignment", UINT32, 4096)
    image.data, offsets = b"", {}
    for name, (kind, shape, _) in image.tensors.items():
        offsets[name] = (kind, shape, len(image.data))
        image.data += data[name] + bytes(-len(data[name]) % 4096)
    image.tensors = offsets
    gguf = GgufFile.open(image.write(tmp_path / "model.gguf"))
    assert all(info.offset % 4096 == 0 for info in gguf.tensors.values())
    assert {name: bytes(gguf.tensor_bytes(name)) for name in data} == data


# Files that are none, or not of this format.


def test_no_such_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.gguf", "no such file")


def test_directory(tmp_path: Path) -> None:
    refused(tmp_path, "not a file")


def test_pipe(tmp_path: Path) -> None:
    """Opening one would wait for whoever writes to it."""
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a file")


def test_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(HaloError):
        GgufFile.open(tmp_path / "a\0b")
    with pytest.raises(HaloError):
        GgufFile.open(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("content", [b"", b"GG", b"\0" * 100, b"ggml" * 10, b"#!/bin/sh\n"])
def test_not_a_gguf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    refused(tmp_path / "file", "not a GGUF file")


@pytest.mark.parametrize("version", [0, 1, 4, 1 << 24 | 3, 3 << 24])
def test_other_versions(tmp_path: Path, version: int) -> None:
    """The last is big-endian."""
    (tmp_path / "file").write_bytes(header(version=version))
    refused(tmp_path / "file", f"version {version} is not one of")


# Truncated files.


def test_truncated_anywhere(tiny_model: Path, tmp_path: Path, gguf_image: Any) -> None:
    """In the header, in the metadata, in the tensor table, in the data."""
    content = tiny_model.read_bytes()
    size = len(gguf_image.read(tiny_model).header())
    cuts = [4, 5, 8, 23, 24, 25, 40, *range(50, size, size // 40), size - 1, size, size + 1]
    cuts += [len(content) - 128, len(content) - 1]
    path = tmp_path / "model.gguf"
    for cut in cuts:
        path.write_bytes(content[:cut])
        refused(path, f"truncated GGUF.* ends after {cut:,} bytes")


def test_padding_at_the_end_may_be_missing(
    gguf_image: Any, tiny_model: Path, tmp_path: Path
) -> None:
    image = gguf_image.read(tiny_model).add("last", np.zeros(3, np.float32))
    assert GgufFile.open(image.write(tmp_path / "m")).tensor("last").nbytes == 12


# Damaged headers.

DAMAGED = {
    "tensors beyond counting": (header(HUGE, 0), "more entries than any model has"),
    "metadata beyond counting": (header(0, 2**64 - 1), "more entries than any model has"),
    "more tensors than there are": (header(MAX_ENTRIES, 0), "truncated"),
    "more metadata than there is": (header(0, MAX_ENTRIES), "truncated"),
    "endless key": (header(0, 1) + struct.pack("<Q", HUGE), "truncated"),
    "key of all there can be": (header(0, 1) + struct.pack("<Q", 2**64 - 1), "truncated"),
    "endless string": (
        header(0, 1) + text(b"k") + struct.pack("<IQ", STRING, HUGE) + bytes(64),
        "truncated",
    ),
    "endless array of strings": (
        header(0, 1) + text(b"k") + struct.pack("<IIQ", ARRAY, STRING, HUGE) + bytes(64),
        "truncated",
    ),
    "endless array of numbers": (
        header(0, 1) + text(b"k") + struct.pack("<IIQ", ARRAY, FLOAT32, HUGE) + bytes(64),
        "truncated",
    ),
    "array that ends with the file": (
        header(0, 1) + text(b"k") + struct.pack("<IIQ", ARRAY, FLOAT32, 16) + bytes(63),
        "truncated",
    ),
    "array of unknown type": (
        header(0, 1) + text(b"k") + struct.pack("<IIQ", ARRAY, 13, 1) + bytes(64),
        "array of unsupported type 13",
    ),
    "array of arrays": (
        header(0, 1) + text(b"k") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(64),
        "array of unsupported type 9",
    ),
    "metadata of unknown type": (
        header(0, 1) + text(b"k") + struct.pack("<I", 13) + bytes(64),
        "metadata of unknown type 13",
    ),
    "key twice": (
        header(0, 2) + 2 * (text(b"k") + struct.pack("<IB", UINT8, 1)) + bytes(64),
        "key 'k' is there twice",
    ),
    "tensor twice": (header(2, 0) + tensor() + tensor() + bytes(300), "'t' is there twice"),
    "tensor without dimensions": (header(1, 0) + tensor(shape=()) + bytes(300), "has 0 dimensions"),
    "tensor of five dimensions": (
        header(1, 0) + tensor(shape=(32, 1, 1, 1, 1)) + bytes(300),
        "has 5 dimensions",
    ),
    "tensor of two thousand million dimensions": (
        header(1, 0) + text(b"t") + struct.pack("<I", 2**31) + bytes(300),
        "has 2147483648 dimensions",
    ),
    "empty rows": (header(1, 0) + tensor(shape=(0, 4)) + bytes(300), "has the shape"),
    "no rows": (header(1, 0) + tensor(shape=(32, 0)) + bytes(300), "has the shape"),
    "negative rows": (header(1, 0) + tensor(shape=(32, 2**64 - 1)) + bytes(300), "has the shape"),
    "sizes that overflow 64 bits": (
        header(1, 0) + tensor(shape=(2**39, 2**39, 2**39, 2**39)) + bytes(300),
        "truncated",
    ),
    "broken block": (header(1, 0) + tensor(shape=(33,), ggml_type=2) + bytes(300), "whole number"),
    "unknown tensor type": (header(1, 0) + tensor(ggml_type=99) + bytes(300), "tensor type 99"),
    "tensor type of old": (header(1, 0) + tensor(ggml_type=4) + bytes(300), "tensor type 4"),
    "data beyond the end": (header(1, 0) + tensor(offset=1 << 40) + bytes(300), "truncated"),
    "offset that wraps around": (
        header(1, 0) + tensor(offset=2**64 - 32) + bytes(300),
        "truncated",
    ),
    "offset between alignments": (header(1, 0) + tensor(offset=4) + bytes(300), "not aligned"),
    "name with a line break": (
        header(1, 0) + tensor(name=b"a\nb", shape=(33,), ggml_type=2) + bytes(300),
        "'a\\\\nb'",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_header(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED[case]
    (tmp_path / "model.gguf").write_bytes(content)
    refused(tmp_path / "model.gguf", message)


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (UINT32, struct.pack("<I", 0)),
        (UINT32, struct.pack("<I", 1)),
        (UINT32, struct.pack("<I", 4)),
        (UINT32, struct.pack("<I", 33)),
        (UINT32, struct.pack("<I", 48)),
        (5, struct.pack("<i", -32)),
        (BOOL, b"\1"),
        (FLOAT32, struct.pack("<f", 32)),
        (STRING, text(b"32")),
        (ARRAY, struct.pack("<IQI", UINT32, 1, 32)),
    ],
)
def test_bad_alignment(tmp_path: Path, kind: int, stored: bytes) -> None:
    content = header(1, 1) + text(b"general.alignment") + struct.pack("<I", kind) + stored
    (tmp_path / "model.gguf").write_bytes(content + tensor() + bytes(300))
    refused(tmp_path / "model.gguf", "alignment is not a power of two from 8")


def test_alignment_beyond_the_file(tmp_path: Path) -> None:
    content = header(1, 1) + text(b"general.alignment") + struct.pack("<II", UINT32, 1 << 31)
    (tmp_path / "model.gguf").write_bytes(content + tensor() + bytes(300))
    refused(tmp_path / "model.gguf", "truncated")


@pytest.mark.parametrize("kind", [STRING, UINT8, FLOAT32])
def test_lengths_that_a_large_file_does_hold(tmp_path: Path, kind: int) -> None:
    """A 7B model has room for a string of gigabytes. Sparse, so that it costs nothing here."""
    path = tmp_path / "model.gguf"
    for value, length, message in (
        (struct.pack("<IQ", STRING, 1 << 32), 1 << 33, "a string of 4,294,967,296 bytes"),
        (struct.pack("<IIQ", ARRAY, kind, 1 << 30), 1 << 35, "an array of 1,073,741,824 entries"),
    ):
        with path.open("wb") as file:
            file.write(header(0, 1) + text(b"k") + value)
            file.truncate(length)
        refused(path, message)
    assert MAX_STRING_BYTES < 1 << 32


def test_missing_tensor_and_key(tiny_model: Path) -> None:
    gguf = GgufFile.open(tiny_model)
    with pytest.raises(HaloError, match="has no tensor nope; is it a whole model"):
        gguf.tensor_bytes("nope")
    with pytest.raises(HaloError, match="lacks the metadata key nope"):
        gguf.need("nope", str)


def test_need_converts(tiny_model: Path) -> None:
    gguf = GgufFile.open(tiny_model)
    assert gguf.need("llama.block_count", lambda value: value) == 3

    def never(value: object) -> int:
        raise ValueError(value)

    with pytest.raises(HaloError, match=r"the metadata key llama\.block_count is unusable"):
        gguf.need("llama.block_count", never)


# Fuzzing: whatever the bytes, a file opens or is refused; and what opens as a model computes.


class Fuzz:
    """A small model to be damaged."""

    def __init__(self, source: Path, damaged: Path, open_model: Callable[[Path], Any]) -> None:
        self.content = source.read_bytes()
        self._path, self._open_model = damaged, open_model
        self._original = GgufFile.open(source)
        self._params = HyperParameters.from_gguf(self._original)

    def opens(self, content: bytes) -> bool:
        """Whether `content` opens. If it is another model than before, it must also compute."""
        self._path.write_bytes(content)
        try:
            gguf = GgufFile.open(self._path)
            params = HyperParameters.from_gguf(gguf)
        except HaloError as error:
            assert "\n" not in str(error)
            return False
        if (params, gguf.tensors) != (self._params, self._original.tensors):
            assert self._open_model(self._path).fresh([1, 2, 3]).shape == (params.vocab,)
        return True


@pytest.fixture(scope="module")
def fuzz(make_model: Any, open_model: Any, tmp_path_factory: Any) -> Fuzz:
    path = make_model(
        n_layers=1, vocab=263, hidden=32, ffn=64, n_heads=2, n_kv_heads=1, head_dim=16
    )
    return Fuzz(path, tmp_path_factory.mktemp("fuzz") / "model.gguf", open_model)


SETTINGS = settings(max_examples=700, deadline=None)


def test_untouched(fuzz: Fuzz) -> None:
    assert fuzz.opens(fuzz.content)


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_flipped_bytes(seed: int, fuzz: Fuzz) -> None:
    """1 to 4 bytes of the header, most of them outside of the vocabulary."""
    rng, small = np.random.default_rng(seed), fuzz.content
    vocabulary = small.index(b"tokenizer.ggml.tokens")
    table = small.index(b"token_embd.weight") - 8
    end = small.index(b"output.weight") + 50
    for _ in range(3):
        content = bytearray(small)
        for _ in range(rng.integers(1, 5)):
            low, high = ((4, vocabulary), (vocabulary, table), (table, end))[
                rng.choice(3, p=[0.45, 0.1, 0.45])
            ]
            place = rng.integers(low, high)
            content[place] = rng.choice([content[place] ^ (1 << rng.integers(8)), 0, 255, 1])
        fuzz.opens(bytes(content))


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_cut_and_spliced(seed: int, fuzz: Fuzz) -> None:
    rng, small = np.random.default_rng(seed), fuzz.content
    a, b = sorted(rng.integers(0, len(small) - 32, 2).tolist())  # but for padding at the end
    assert not fuzz.opens(small[:b])
    fuzz.opens(small[:a] + small[b:])
    fuzz.opens(small[:a] + rng.bytes(8) + small[a + 8 :])
