"""Directories and the disks under them, on a tree that looks like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.disks import disk_under


def sysfs(tmp_path: Path) -> tuple[Path, Path]:
    """/sys/dev/block, and the directory of the disk 8:0 with its partition."""
    links, disk = tmp_path / "sys/dev/block", tmp_path / "sys/devices/block/sda"
    links.mkdir(parents=True)
    (disk / "sda2").mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "sda2/partition").write_text("2\n")
    (disk / "sda2/dev").write_text("8:2\n")
    return links, disk


def number(path: Path) -> str:
    device = path.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


@pytest.mark.parametrize("part", ["", "sda2"])
def test_the_whole_disk_under_a_directory(tmp_path: Path, part: str) -> None:
    links, disk = sysfs(tmp_path)
    (links / number(tmp_path)).symlink_to(disk / part)
    assert disk_under(tmp_path, links) == "8:0"
    assert disk_under(tmp_path / "not/made/yet", links) == "8:0"


def test_no_disk(tmp_path: Path) -> None:
    links, _ = sysfs(tmp_path)
    with pytest.raises(HaloError, match=f"{tmp_path} is not on a block device"):
        disk_under(tmp_path, links)
