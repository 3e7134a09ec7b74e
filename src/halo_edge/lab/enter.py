"""`python -m halo_edge.lab.enter JSON COMMAND...`: become a process of a device of the lab.

A program of its own, so that whoever starts it may have threads; it imports next to nothing, and
is replaced by the command.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWNET: Final = 0x4000_0000
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
PR_SET_PDEATHSIG: Final = 1
CANNOT_EXECUTE: Final = 127  # the shell's exit status for it


@dataclass(frozen=True)
class Entry:
    """`parent`: the process with which the command ends (None: it lives on its own); `hosts`: what
    the command sees as /etc/hosts."""

    namespace: str
    procs_files: list[str]
    cores: list[int]
    hosts: str
    parent: int | None

    def command(self, command: list[str]) -> list[str]:
        """The command line that runs `command` on the device."""
        return [sys.executable, "-m", "halo_edge.lab.enter", json.dumps(asdict(self)), *command]


def enter(entry: Entry) -> None:
    """Make this process one of the device. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(status: int, what: str) -> None:
        if status != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")

    if entry.parent is not None:
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
        if os.getppid() != entry.parent:
            raise OSError("the lab has ended")
    for procs in entry.procs_files:
        Path(procs).write_text("0")
    if entry.cores:
        os.sched_setaffinity(0, entry.cores)
    with Path("/run/netns", entry.namespace).open("rb") as namespace:
        check(libc.setns(namespace.fileno(), CLONE_NEWNET), "setns")
    check(libc.unshare(CLONE_NEWNS), "unshare")
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount")
    check(libc.mount(entry.hosts.encode(), b"/etc/hosts", None, MS_BIND, None), "mount")


def main() -> None:
    entry, command = Entry(**json.loads(sys.argv[1])), sys.argv[2:]
    try:
        enter(entry)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"halo: cannot run {command[0]}: {error.strerror or error}", file=sys.stderr)
        sys.exit(CANNOT_EXECUTE)


if __name__ == "__main__":
    main()
