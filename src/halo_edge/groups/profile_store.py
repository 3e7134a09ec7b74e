"""Where profiles are found: in the user's cache, beside models, and then inside this package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from safetensors import SafetensorError, safe_open

from halo_edge.groups.profile import MODEL_KEY
from halo_edge.model.cache import user_cache


def destination(fingerprint: str) -> Path:
    """Where the profile of the model with that fingerprint is to be put, to be found."""
    return user_cache() / "profiles" / f"{fingerprint}.safetensors"


def find(fingerprint: str) -> Path | None:
    """The profile of the model with that fingerprint, if there is one. One of the user's own goes
    before one that came with the package."""
    own = destination(fingerprint)
    if own.is_file():
        return own
    return next((path for path in _packaged() if _model_of(path) == fingerprint), None)


def _packaged() -> list[Path]:
    directory = Path(str(files("halo_edge"))) / "profiles"
    return sorted(directory.glob("*.safetensors"))


def _model_of(path: Path) -> str | None:
    """What the file says it is of; only its header is read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get(MODEL_KEY)
    except (OSError, SafetensorError):
        return None
