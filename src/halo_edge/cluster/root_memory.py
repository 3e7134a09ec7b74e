"""How much memory the root may use: what is planned with, and what it gets ready beforehand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from halo_edge.cluster.limits import PROC, Limits, available_bytes, read_limits

FREE_SHARE: Final = 0.5
"""Of the memory that is left, what is got ready beforehand may take so much."""


class RootMemory:
    """`asked_bytes`: that the root may use; None: all there is. Any thread may ask."""

    def __init__(self, asked_bytes: int | None = None) -> None:
        self._asked_bytes = asked_bytes

    def limits(self) -> Limits:
        """Of this process, as they are now."""
        limits = read_limits()
        asked, there = self._asked_bytes, limits.memory_bytes
        if asked is None or (there is not None and there <= asked):
            return limits
        return replace(limits, memory_bytes=asked)

    def has_room(self, nbytes: float) -> bool:
        """Whether what is got ready beforehand, in so much memory, takes no more than half of what
        is left, nor more than the root may use. False where nobody says, and in a control group
        with a limit: there pages of files count, too, and would go for it."""
        free, there = available_bytes(), read_limits().memory_bytes
        if free is None or there is None or there < free[1] or nbytes > FREE_SHARE * free[0]:
            return False
        return self._asked_bytes is None or resident_bytes() + nbytes <= self._asked_bytes


def resident_bytes(proc: Path = PROC) -> float:
    """What this process has in memory, mapped files included; all there is where nobody says."""
    try:
        status = (proc / "self/status").read_text()
    except OSError:
        return float("inf")
    found = re.search(r"^VmRSS:\s*(\d{1,15}) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else float("inf")
