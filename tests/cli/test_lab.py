"""`halo lab` as a user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from halo_edge.cli import lab as cli
from halo_edge.cli.app import app_for
from halo_edge.errors import HaloError
from halo_edge.lab import running

HALO = [sys.executable, "-m", "halo_edge.cli.app"]
NAME = "test-cli"
LAB = """
name = "test-cli"
[[device]]
name = "n0"
[[device]]
name = "n1"
count = 2
delay_ms = 0.5
loss = 0.1
"""
Lab = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Run `halo lab COMMAND LAB.toml ...`."""
    if sys.platform != "linux" or os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("needs Linux, root and /dev/net/tun")
    path = tmp_path / "lab.toml"
    path.write_text(LAB)

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HALO, "lab", command, str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=100,
            env=os.environ | {"HALO_EDGE_CACHE": str(tmp_path / "cache")},
        )

    running.take_down(NAME)
    try:
        yield run
    finally:
        running.take_down(NAME)


def test_halo_run_finds_the_workers_by_itself(lab: Lab, tiny_model: Path) -> None:
    """And the text is what one device alone says."""
    command = ["halo", "run", "--raw", "-m", str(tiny_model), "-n", "5", "--temperature", "0", "a"]
    done = lab("run", "--", *command)
    assert done.returncode == 0, done.stderr
    assert "workers on n1, n2 are ready" in done.stderr
    assert "n1 down" in done.stderr  # of the table of links
    assert "10.00%" in done.stderr  # what was asked for
    alone = subprocess.run(
        [*HALO, *command[1:], "-w", "0"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == alone.stdout != ""


def test_the_exit_status_is_the_commands(lab: Lab) -> None:
    assert lab("run", "--no-workers", "--", "sh", "-c", "exit 7").returncode == 7
    assert lab("run", "--no-workers", "--", "sh", "-c", "kill -9 $$").returncode == 137
    missing = lab("run", "--no-workers", "--", "no-such-command")
    assert missing.returncode == 127
    assert "halo: cannot run no-such-command" in missing.stderr


def test_exec_without_a_lab_that_is_up_builds_one(lab: Lab) -> None:
    done = lab("exec", "n2", "--", "cat", "/etc/hosts")
    assert "10.77.0.3 n2\n" in done.stdout
    wrong = lab("exec", "n9", "--", "true")
    assert wrong.returncode == 1
    assert (
        wrong.stderr.strip() == "halo: lab test-cli has no device 'n9'; its devices are n0, n1, n2"
    )


def test_set_and_down_without_a_lab(lab: Lab) -> None:
    done = lab("set", "n1", "--cut")
    assert done.returncode == 1
    assert done.stderr.startswith("halo: lab test-cli is not up")
    assert lab("down").returncode == 0


def test_bad_descriptions_are_one_line(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text("[[device]]\nname = 'n0'\ncores = [4000]")
    done = lab("run", "--", "true")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "is for the cores [4000]" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "burst", "--", "true"],
        ["exec", "burst", "n0", "--", "true"],
        ["up", "burst"],
        ["set", "burst", "n1", "--cut"],
        ["down", "burst"],
    ],
)
def test_without_root_it_names_the_alternative(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = CliRunner().invoke(app_for(["lab"]), ["lab", *arguments])
    assert isinstance(done.exception, HaloError)
    message = str(done.exception)
    assert "needs root" in message
    assert "halo run --impair" in message
    assert "\n" not in message


def test_list() -> None:
    done = CliRunner().invoke(cli.app, ["list"])
    assert {"burst", "mixed-home", "paper", "pi4-wifi"} <= set(done.stdout.split())
