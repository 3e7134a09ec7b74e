"""Where a calibration that was interrupted goes on: one file beside the profile to be.

It holds arrays under names, and the key of the run it belongs to; that of another run, or a damaged
one, is as good as none.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.errors import HaloError

_KEY: Final = "key"


class Checkpoint:
    """`key`: what must be equal for the arrays to be of use: the model, the text, the settings."""

    def __init__(self, output: Path, key: str) -> None:
        self.path = output.with_name(f".{output.name}.resume")
        self._key = key

    def save(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replaces what was saved before. Raises `HaloError` where it cannot be written."""
        unfinished = self.path.with_name(f"{self.path.name}.unfinished")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                np.savez(file, **{_KEY: np.array(self._key)}, **arrays)  # type: ignore[arg-type]
            unfinished.rename(self.path)
        except OSError as error:
            raise HaloError(f"cannot write {self.path}: {error.strerror}") from None

    def load(self) -> dict[str, NDArray[Any]]:
        """What was saved under the same key, or nothing."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return {}
        return arrays if str(arrays.pop(_KEY, "")) == self._key else {}

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
