"""The cache of models: what makes it believe a file, and what makes it look again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.model.cache import ModelCache

CONTENT = b"GGUF and so on"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    """A cache that holds the model `m.gguf`."""
    cache = ModelCache(tmp_path)
    with cache.staging(100) as staging:
        (staging / "x").write_bytes(CONTENT)
        cache.admit(staging / "x", "m.gguf", SHA256)
    return cache


def test_admitted_model_is_verified_and_the_staging_gone(cache: ModelCache) -> None:
    assert cache.verified("m.gguf") == (cache.models / "m.gguf", SHA256)
    assert {path.name for path in cache.models.iterdir()} == {"m.gguf", "m.gguf.verified"}


def test_verified_model_is_not_read_again(cache: ModelCache) -> None:
    path = cache.models / "m.gguf"
    status = path.stat()
    path.write_bytes(CONTENT[::-1])  # only reading it could tell
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.verify("m.gguf", SHA256) == path


def test_changed_model_is_not_believed(cache: ModelCache) -> None:
    (cache.models / "m.gguf").write_bytes(CONTENT + b"!")
    assert cache.verified("m.gguf") is None
    assert cache.verify("m.gguf", SHA256) is None


def test_touched_model_is_hashed_once_more(cache: ModelCache) -> None:
    os.utime(cache.models / "m.gguf", ns=(1, 1))
    assert cache.verified("m.gguf") is None
    assert cache.verify("m.gguf", SHA256) == cache.models / "m.gguf"
    assert cache.verified("m.gguf") is not None


@pytest.mark.parametrize(
    "marker", [b"", b"{", b"null", b"[1]", b'{"size": 3}', b"\xff\xfe", b"{" * 100_000]
)
def test_garbage_in_the_marker_means_not_verified(cache: ModelCache, marker: bytes) -> None:
    (cache.models / "m.gguf.verified").write_bytes(marker)
    assert cache.verified("m.gguf") is None


def test_staging_goes_when_the_download_fails(cache: ModelCache) -> None:
    with pytest.raises(ZeroDivisionError), cache.staging(100) as staging:
        (staging / "half").write_bytes(b"x")
        raise ZeroDivisionError
    assert not staging.exists()


def test_abandoned_staging_is_swept_and_a_fresh_one_kept(cache: ModelCache) -> None:
    for name, mtime in ((".pull-old", 1), (".pull-new", None)):
        (cache.models / name).mkdir()
        if mtime is not None:
            os.utime(cache.models / name, (mtime, mtime))
    with cache.staging(100):
        pass
    assert not (cache.models / ".pull-old").exists()
    assert (cache.models / ".pull-new").exists()


def test_full_disk(cache: ModelCache) -> None:
    with (
        pytest.raises(HaloError, match=r"not enough disk space in .* MB needed"),
        cache.staging(1 << 60),
    ):
        pytest.fail("the block must not be entered")
    assert not list(cache.models.glob(".pull-*"))


def test_unusable_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(HaloError, match=r"cannot write to the model cache .*HALO_EDGE_CACHE"),
        ModelCache(tmp_path / "file").staging(1),
    ):
        pytest.fail("the block must not be entered")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ModelCache.of_user().models == tmp_path / "own" / "models"
    monkeypatch.delenv("HALO_EDGE_CACHE")
    assert ModelCache.of_user().models == tmp_path / "xdg" / "halo-edge" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert ModelCache.of_user().models == tmp_path / "home" / ".cache" / "halo-edge" / "models"
