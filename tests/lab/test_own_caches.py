"""A cache for each device, in that of the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.own_caches import own_caches
from halo_edge.model.cache import user_cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path / "cache"))
    return user_cache()


def test_each_device_has_its_own_and_none_stays(cache: Path) -> None:
    shards = cache / "shards" / "of the user"
    model = cache / "models" / "model"
    for path in (shards, model):
        path.parent.mkdir(parents=True)
        path.touch()
    with own_caches("lab", "n0") as caches:
        (caches.cache("n0") / "models" / "another").touch()
        for device in ("n0", "n1"):
            assert not caches.shards(device).exists()
            caches.shards(device).mkdir(parents=True)
            (caches.shards(device) / "one").touch()
        assert (caches.cache("n0") / "models" / "model").exists()
        left_behind = caches.cache("n1")
    assert not left_behind.exists()
    assert shards.exists()
    assert {path.name for path in model.parent.iterdir()} == {"model", "another"}


def test_what_a_killed_lab_left_behind_is_gone(cache: Path) -> None:
    old = cache / "labs" / "lab" / "n0" / "shards"
    old.mkdir(parents=True)
    (old / "one").touch()
    with own_caches("lab", "n0") as caches:
        assert not caches.shards("n0").exists()


def test_where_there_can_be_none(cache: Path) -> None:
    cache.write_text("not a directory")
    with pytest.raises(HaloError, match="no caches for lab lab in"), own_caches("lab", "n0"):
        pass
