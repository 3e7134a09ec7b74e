"""Pages of mapped files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halo_edge.compute.mapped import drop_mapped_pages, resident_share, want_mapped_pages


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
