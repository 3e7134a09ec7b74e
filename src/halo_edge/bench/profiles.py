"""The profile that an experiment goes by, as the file that its probe reads."""

from __future__ import annotations

from pathlib import Path

from halo_edge.bench.borrowed_profile import borrowed_profile
from halo_edge.groups.profile import Profile
from halo_edge.groups.profile_store import find
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters


def own_profile(model: Path) -> Path | None:
    """What calibration made of the model, if it did. Raises `HaloError` for what is no model."""
    return find(fingerprint(GgufFile.open(model)))


def lent_profile(model: Path, lender: Path, directory: Path) -> Path | None:
    """For a model of random weights: one in `directory` with the damages of the model `lender`, if
    that has a profile. Raises `HaloError`."""
    lent = own_profile(lender)
    if lent is None:
        return None
    gguf = GgufFile.open(model)
    params = HyperParameters.from_gguf(gguf)
    profile = borrowed_profile(
        Profile.load(lent), fingerprint(gguf), params.n_layers, params.hidden, params.ffn
    )
    path = directory / "lent.safetensors"
    profile.save(path)
    return path
