"""`halo calibrate` as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from halo_edge.groups.profile import Profile
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile

HALO = [sys.executable, "-m", "halo_edge.cli.app", "calibrate"]
QUICK = ("--tokens", "1024", "--rank", "8", "--no-generated", "--threads", "1")
DEADLINE_S = 100.0
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    environment = os.environ | {"HALO_EDGE_CACHE": str(tmp_path / "cache")}

    def calibrate(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HALO, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=DEADLINE_S,
        )

    return calibrate


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("halo: ")
    return line


def test_a_profile_lands_where_it_is_found(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    done = run(tiny_model, *QUICK)
    assert done.returncode == 0, done.stderr
    name = fingerprint(GgufFile.open(tiny_model))
    path = tmp_path / "cache" / "profiles" / f"{name}.safetensors"
    assert done.stdout.strip() == str(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no checkpoint is left
    for told in ("fragile layers", "Spearman", "repairs", "first quarter"):
        assert told in done.stderr
    profile = Profile.load(path)
    profile.check_fits(name, 3, 128, 512)
    assert profile.about["corpora"] == "Python standard library"
    assert profile.about["command"].startswith("halo calibrate --tokens 1024")
    assert str(tmp_path) not in str(profile.about)


def test_json_and_texts_of_one_s_own(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    text, output = tmp_path / "t.txt", tmp_path / "p.safetensors"
    text.write_text("All happy families are alike. " * 300)
    done = run(tiny_model, *QUICK, "--no-python", "--text", text, "-o", output, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["path"] == str(output)
    assert len(figures["layers"]) == 3
    about = Profile.load(output).about
    assert about == figures["about"]
    assert about["corpora"] == "t.txt"
    assert about["command"].endswith("--no-python --no-generated --text t.txt")


def test_what_is_wrong_is_one_line(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no model")
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 100)
    assert "model.gguf" in complaint(run(tmp_path / "model.gguf", *QUICK))
    assert "no text" in complaint(run(tiny_model, *QUICK, "--no-python"))
    assert "UTF-8" in complaint(run(tiny_model, *QUICK, "--text", tmp_path / "binary"))
    output = tmp_path / "binary" / "p.safetensors"
    assert "cannot write" in complaint(run(tiny_model, *QUICK, "-o", output))


def test_wrong_usage(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    for wrong in (("--tokens", "7"), ("--text", tmp_path / "missing"), ("--rank", "0")):
        assert run(tiny_model, *wrong).returncode == 2
