"""Which block device a directory is on. The kernel limits reading by whole devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from halo_edge.errors import HaloError

BLOCK_DEVICES: Final = Path("/sys/dev/block")


def disk_under(directory: Path, devices: Path = BLOCK_DEVICES) -> str:
    """MAJOR:MINOR of the whole device that `directory` is on, or will be on once it is made; of a
    partition, the disk it is part of. `devices`: where the kernel lists them.

    Raises `HaloError` where there is none, as for tmpfs, overlays and network file systems.
    """
    there = next(
        path for path in (directory.absolute(), *directory.absolute().parents) if path.exists()
    )
    number = there.stat().st_dev
    device = devices / f"{os.major(number)}:{os.minor(number)}"
    try:
        whole = device.resolve(strict=True)
        if (whole / "partition").exists():
            whole = whole.parent
        return (whole / "dev").read_text().strip()
    except OSError:
        raise HaloError(f"{directory} is not on a block device of its own") from None
