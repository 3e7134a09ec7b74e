"""Where a measurement was made: the machine, and the commit of the source that was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import halo_edge

GIT_TIMEOUT_S: Final = 10.0
_PACKAGE: Final = Path(halo_edge.__file__).parent


@dataclass(frozen=True)
class Machine:
    """`cpu`: what the kernel calls it. `memory_bytes`: of the whole machine."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    ggml_python: str

    @classmethod
    def here(cls, cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
        return cls(
            cpu=_cpu_model(cpuinfo) or platform.processor() or platform.machine(),
            cores=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            kernel=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            ggml_python=_installed("ggml-python"),
        )


@dataclass(frozen=True)
class Commit:
    """`changed`: the package's source differs from what was committed."""

    sha1: str
    changed: bool

    @classmethod
    def here(cls, package: Path = _PACKAGE) -> Commit | None:
        """None where the package is not part of a git repository."""
        # A package installed beside a repository, say in its .venv, is not the committed source.
        if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
            return None
        sha1 = _git(package, "rev-parse", "HEAD")
        status = _git(package, "status", "--porcelain", "--", ".")
        return None if sha1 is None or status is None else cls(sha1.strip(), bool(status.strip()))


def _cpu_model(cpuinfo: Path) -> str:
    """x86 says "model name", a Raspberry Pi "Model" at the end; others say neither."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return ""
    fields = (line.partition(":") for line in text.splitlines())
    named = {key.strip().lower(): value.strip() for key, _, value in fields}
    return named.get("model name") or named.get("model", "")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _git(directory: Path, *arguments: str) -> str | None:
    """What git says, or None where it cannot or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
