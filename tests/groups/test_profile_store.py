"""Where profiles are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from halo_edge.groups import profile_store
from halo_edge.groups.profile import Profile
from halo_edge.groups.profile_store import destination, find
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters

MODEL = "ab" * 32


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def profile(random_profile: Callable[..., Profile], tiny_model: Path) -> Profile:
    return replace(random_profile(tiny_model), fingerprint=MODEL)


def test_none_is_found_where_there_is_none() -> None:
    assert find(MODEL) is None


def test_what_is_put_at_the_destination_is_found(profile: Profile, cache: Path) -> None:
    profile.save(destination(MODEL))
    assert find(MODEL) == destination(MODEL)
    assert cache in destination(MODEL).parents
    assert find("cd" * 32) is None


def test_the_package_s_own_come_second(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = tmp_path / "package" / "profiles" / "name.safetensors"
    profile.save(packaged)
    (packaged.parent / "broken.safetensors").write_bytes(b"broken")
    monkeypatch.setattr(profile_store, "files", lambda _: tmp_path / "package")
    assert find(MODEL) == packaged
    assert find("cd" * 32) is None
    profile.save(destination(MODEL))
    assert find(MODEL) == destination(MODEL)


def test_the_demo_model_s_profile_is_in_the_package(demo_model: Path) -> None:
    gguf = GgufFile.open(demo_model)
    params = HyperParameters.from_gguf(gguf)
    path = find(fingerprint(gguf))
    assert path is not None
    assert path.stat().st_size <= 6e6
    found = Profile.load(path)
    found.check_fits(fingerprint(gguf), params.n_layers, params.hidden, params.ffn)
    assert found.about["command"].startswith("halo calibrate")
