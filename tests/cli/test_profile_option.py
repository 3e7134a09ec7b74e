"""`--profile`: what is named, what is found, and what is said when there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halo_edge.cli.profile_option import chosen_profile, hint
from halo_edge.errors import HaloError
from halo_edge.groups.profile import Profile
from halo_edge.groups.profile_store import destination


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))


def test_none(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen_profile("none", tiny_model) is None
    assert capsys.readouterr() == ("", "")


def test_by_name(tiny_model: Path, tmp_path: Path, random_profile: Callable[..., Profile]) -> None:
    profile = random_profile(tiny_model)
    profile.save(tmp_path / "my.safetensors")
    found = chosen_profile(str(tmp_path / "my.safetensors"), tiny_model)
    assert found is not None
    np.testing.assert_array_equal(found.layers[1].permutation, profile.layers[1].permutation)
    with pytest.raises(HaloError, match="cannot read the profile"):
        chosen_profile(str(tmp_path / "other"), tiny_model)


def test_found_by_the_model_s_content(
    tiny_model: Path, random_profile: Callable[..., Profile], capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen_profile(None, tiny_model) is None
    profile = random_profile(tiny_model)
    profile.save(destination(profile.fingerprint))
    found = chosen_profile(None, tiny_model)
    assert found is not None
    assert found.fingerprint == profile.fingerprint
    assert capsys.readouterr() == ("", "")


def test_the_hint_is_one_line(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hint(tiny_model)
    out, line = capsys.readouterr()
    assert out == ""
    assert "halo calibrate" in line
    assert line.count("\n") == 1
