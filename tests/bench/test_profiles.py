"""Where an experiment's profile comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halo_edge.bench.borrowed_profile import borrowed_profile
from halo_edge.bench.profiles import lent_profile, own_profile
from halo_edge.groups.profile import LayerProfile, Profile
from halo_edge.groups.profile_store import destination
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile


def profile_of(model: Path) -> Profile:
    """Made up, for the tiny shape."""
    layer = LayerProfile(
        permutation=np.arange(512, dtype=np.int32),
        basis=np.ones((4, 128), np.float32),
        mean=np.zeros(4, np.float32),
        regression=np.zeros((512, 5), np.float32),
        predictor=np.zeros((8, 5), np.float32),
        energy=np.ones(8, np.float32),
        residual=np.full(8, 0.5, np.float32),
        total=8.0,
        sensitivity=0.3,
    )
    return Profile(fingerprint(GgufFile.open(model)), 64, (layer,) * 3, (), {})


def test_a_model_has_its_own_or_borrows(
    make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lent fits the borrower, and says that it is lent."""
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path / "cache"))
    lender, borrower = make_model(), make_model(seed=3, n_layers=2)
    assert own_profile(lender) is None
    assert lent_profile(borrower, lender, tmp_path) is None
    profile = profile_of(lender)
    profile.save(destination(profile.fingerprint))
    assert own_profile(lender) is not None
    assert own_profile(borrower) is None
    path = lent_profile(borrower, lender, tmp_path)
    assert path is not None and path.parent == tmp_path
    found = Profile.load(path)
    found.check_fits(fingerprint(GgufFile.open(borrower)), 2, 128, 512)
    expected = borrowed_profile(profile, found.fingerprint, 2, 128, 512)
    assert found.about == expected.about
    assert [layer.sensitivity for layer in found.layers] == pytest.approx([0.3, 0.3])
