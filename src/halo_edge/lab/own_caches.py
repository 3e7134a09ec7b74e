"""A cache for each device of a lab, as several machines have: empty when the lab is built, and gone
with it.

They lie in the user's cache, and so on the same disk. The root finds the user's models and profiles
in its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.model.cache import user_cache

_OF_ALL: Final = ("models", "profiles")


class OwnCaches:
    """In `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def cache(self, device: str) -> Path:
        """What `user_cache` is elsewhere."""
        return self._directory / device

    def shards(self, device: str) -> Path:
        """What `user_shards` is elsewhere."""
        return self.cache(device) / "shards"


@contextmanager
def own_caches(lab: str, root: str) -> Iterator[OwnCaches]:
    """Of the lab of that name, whose root is the device `root`. Raises `HaloError` where the disk
    does not take them."""
    directory = user_cache() / "labs" / lab
    shutil.rmtree(directory, ignore_errors=True)  # what a killed lab left behind
    try:
        try:
            caches = OwnCaches(directory)
            caches.cache(root).mkdir(parents=True)
            for name in _OF_ALL:
                (user_cache() / name).mkdir(exist_ok=True)
                (caches.cache(root) / name).symlink_to(user_cache() / name)
        except OSError as error:
            raise HaloError(f"no caches for lab {lab} in {directory}: {error.strerror}") from None
        yield caches
    finally:
        shutil.rmtree(directory, ignore_errors=True)
