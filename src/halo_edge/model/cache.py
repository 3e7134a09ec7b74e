"""Where downloaded models are kept, and how a file gets in there.

    models/NAME.gguf            a verified model
    models/NAME.gguf.verified   its sha256, and its size and time of change when it was hashed
    models/.pull-*/             a download under way; swept a day later if its process was killed

A file appears under its own name only when its content is known to be right, by one rename, so
processes that pull the same model at once do no harm. The marker spares later starts the hashing;
it is believed only while the file's size and time of change are still those written in it.
Nothing here knows where a model comes from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from halo_edge.errors import HaloError

SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")
_ABANDONED_AFTER_S: Final = 24 * 3600.0
_STAGING_PREFIX: Final = ".pull-"
_MARKER_LIMIT_BYTES: Final = 1024


def user_cache() -> Path:
    """`$HALO_EDGE_CACHE`, else `$XDG_CACHE_HOME/halo-edge`, else `~/.cache/halo-edge`."""
    if own := os.environ.get("HALO_EDGE_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "halo-edge"
    return Path.home() / ".cache" / "halo-edge"


def user_shards() -> Path:
    """Where in it packed shards are."""
    return user_cache() / "shards"


class ModelCache:
    """A directory of verified models."""

    def __init__(self, root: Path) -> None:
        self.models = root / "models"

    @classmethod
    def of_user(cls) -> ModelCache:
        return cls(user_cache())

    def verified(self, name: str) -> tuple[Path, str] | None:
        """Path and sha256 of the model `name` if it is here and unchanged since it was verified."""
        path = self.models / name
        try:
            with _marker_path(path).open("rb") as file:
                marker = json.loads(file.read(_MARKER_LIMIT_BYTES))
            if marker == _marker(path, str(marker["sha256"])):
                return path, marker["sha256"]
        except (OSError, ValueError, TypeError, KeyError):
            pass  # no marker, or not one of ours: the same as not verified
        return None

    def verify(self, name: str, sha256: str) -> Path | None:
        """The model `name` if it is here and hashes to `sha256`; reads the file only if it must."""
        if (known := self.verified(name)) is not None:
            return known[0] if known[1] == sha256 else None
        path = self.models / name
        if not path.is_file() or file_sha256(path) != sha256:
            return None
        self._mark(path, sha256)
        return path

    @contextmanager
    def staging(self, nbytes: int) -> Iterator[Path]:
        """An empty directory for a download that takes up to `nbytes`, gone when the block ends.

        Raises `HaloError` where it cannot be made or the disk has less than `nbytes` left.
        """
        try:
            self.models.mkdir(parents=True, exist_ok=True)
            self._sweep()
            free = shutil.disk_usage(self.models).free
            staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=self.models))
        except OSError as error:
            raise HaloError(
                f"cannot write to the model cache {self.models}: {error.strerror}; "
                "set HALO_EDGE_CACHE to another directory"
            ) from None
        try:
            if free < nbytes:
                raise HaloError(
                    f"not enough disk space in {self.models}: {nbytes / 1e6:,.0f} MB needed, "
                    f"{free / 1e6:,.0f} MB free; set HALO_EDGE_CACHE to a directory with more"
                )
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def admit(self, staged: Path, name: str, sha256: str) -> Path:
        """Move `staged`, whose content has been checked to be `sha256`, in as the model `name`."""
        path = self.models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("rb") as file:  # or a power cut could leave the marker without the content
            os.fsync(file.fileno())
        staged.replace(path)
        self._mark(path, sha256)
        return path

    def _mark(self, path: Path, sha256: str) -> None:
        # Not a rename: a torn marker is an unreadable one, which costs a hash and nothing else.
        _marker_path(path).write_text(json.dumps(_marker(path, sha256)))

    def _sweep(self) -> None:
        for directory in self.models.glob(f"{_STAGING_PREFIX}*"):
            if directory.stat().st_mtime < time.time() - _ABANDONED_AFTER_S:
                shutil.rmtree(directory, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _marker_path(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


def _marker(path: Path, sha256: str) -> dict[str, object]:
    status = path.stat()
    return {"sha256": sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
