"""Pages of mapped files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halo_edge.compute.mapped import drop_mapped_pages, resident_share, want_mapped_pages
from halo_edge.model.gguf_file import GgufFile


@pytest.fixture
def mapped(tmp_path: Path) -> np.ndarray:
    data = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8)
    data.tofile(tmp_path / "file")
    return np.memmap(tmp_path / "file", np.uint8, "r").view(np.ndarray)


def test_advice_changes_no_byte(mapped: np.ndarray) -> None:
    before = mapped.copy()
    for part in (mapped, mapped[5000:50_001]):
        drop_mapped_pages(part)
        want_mapped_pages(part)
        np.testing.assert_array_equal(mapped, before)


def test_what_was_read_is_resident(mapped: np.ndarray) -> None:
    mapped.sum()
    assert resident_share(mapped) == 1.0
    assert resident_share(mapped[4097:4099]) == 1.0


def test_other_memory() -> None:
    own = np.arange(10_000, dtype=np.uint8)
    assert resident_share(own) == 1.0
    drop_mapped_pages(own)  # nobody could bring these back
    want_mapped_pages(own)
    assert own[9_999] == 9_999 % 256


def mapped_kib(path: Path) -> int:
    """Of the file's pages, those that this process has."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_pages_are_given_back(tiny_model: Path, tmp_path: Path) -> None:
    """Of a model's file, and of a part of a file with what was read around it."""
    matrix = GgufFile.open(tiny_model).tensor_bytes("blk.0.ffn_gate.weight")
    matrix.sum()
    before = mapped_kib(tiny_model)
    drop_mapped_pages(matrix)
    assert mapped_kib(tiny_model) < before

    path = tmp_path / "file"
    np.zeros(1 << 20, np.uint8).tofile(path)
    part = np.memmap(path, np.uint8, "r").view(np.ndarray)[500_000:520_000]
    part.sum()
    before = mapped_kib(path)
    assert before >= 20
    drop_mapped_pages(part)
    # Not always all: since Linux 6.18 a fault may map a whole large folio, here up to 1 MB.
    assert mapped_kib(path) <= before - 20
