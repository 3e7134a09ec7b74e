"""Reading past the page cache, and what is done where that is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halo_edge.compute import direct_read
from halo_edge.compute.direct_read import BLOCK_BYTES, block_buffer, read_file, whole_blocks


def written(path: Path, nbytes: int) -> bytes:
    content = np.random.default_rng(nbytes).bytes(nbytes)
    path.write_bytes(content)
    return content


@pytest.mark.parametrize("nbytes", [1, 64, BLOCK_BYTES, BLOCK_BYTES + 64, (1 << 20) + 5])
def test_all_of_a_file(tmp_path: Path, nbytes: int) -> None:
    content, buffer = written(tmp_path / "file", nbytes), block_buffer(nbytes)
    assert buffer.nbytes == whole_blocks(nbytes)
    assert buffer.ctypes.data % BLOCK_BYTES == 0
    read_file(tmp_path / "file", buffer, nbytes)
    assert buffer[:nbytes].tobytes() == content


def test_the_beginning_of_a_file(tmp_path: Path) -> None:
    content, pool = written(tmp_path / "file", 5 * BLOCK_BYTES), block_buffer(4 * BLOCK_BYTES)
    read_file(tmp_path / "file", pool[BLOCK_BYTES : 3 * BLOCK_BYTES], BLOCK_BYTES + 9)
    assert pool[BLOCK_BYTES : 2 * BLOCK_BYTES + 9].tobytes() == content[: BLOCK_BYTES + 9]
    assert not pool[:BLOCK_BYTES].any()
    assert not pool[3 * BLOCK_BYTES :].any()


@pytest.mark.parametrize("there", [0, 10, BLOCK_BYTES, BLOCK_BYTES + 10])
def test_a_file_that_is_too_short(tmp_path: Path, there: int) -> None:
    written(tmp_path / "file", there)
    with pytest.raises(EOFError, match=f"file ends after {there} of 8000 bytes"):
        read_file(tmp_path / "file", block_buffer(8000), 8000)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "file", block_buffer(10), 10)


@pytest.mark.parametrize("at", ["open", "preadv"])
def test_where_direct_reads_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """By the file system (tmpfs, before Linux 6.6), or for the alignment the device wants."""
    refused: list[int] = []
    direct: set[int] = set()
    really_open, really_read = os.open, os.preadv

    def open_(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT and at == "open":
            refused.append(flags)
            raise OSError(errno.EINVAL, "Invalid argument")
        descriptor = really_open(path, flags, *rest)
        (direct.add if flags & os.O_DIRECT else direct.discard)(descriptor)
        return descriptor

    def preadv(descriptor: int, *rest: Any) -> int:
        if descriptor in direct:
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return really_read(descriptor, *rest)

    monkeypatch.setattr(direct_read.os, "open", open_)
    monkeypatch.setattr(direct_read.os, "preadv", preadv)
    content, buffer = written(tmp_path / "file", 9000), block_buffer(9000)
    read_file(tmp_path / "file", buffer, 9000)
    assert refused
    assert buffer[:9000].tobytes() == content
