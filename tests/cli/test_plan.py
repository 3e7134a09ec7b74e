"""`halo plan` as a user meets it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.groups.conftest import profile_of
from typer.testing import CliRunner, Result

from halo_edge.cli.app import app_for
from halo_edge.errors import HaloError
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile


def halo(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app_for(["plan"]), ["plan", *arguments])


def done(*arguments: str) -> str:
    result = halo(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(*arguments, "--json"))
    return found


def complaint(*arguments: str) -> str:
    """The line that `halo` would print."""
    error = halo(*arguments).exception
    assert isinstance(error, HaloError), error
    assert "\n" not in str(error)
    return str(error)


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "home.toml"
    path.write_text(text)
    return str(path)


TWO = """
[[device]]
name = "n0"
profile = "pi4"
[[device]]
name = "n1"
profile = "pi5"
delay_ms = 0.1
rate_mbit = 100
loss = 0.02
"""


def test_a_table_and_what_there_is_to_say(tmp_path: Path) -> None:
    said = done(written(tmp_path, TWO + '[[device]]\nname = "far"\nprofile = "pi3"\ndelay_ms = 90'))
    for words in (
        "home: tinyllama-1.1b",
        "share",
        "expected wait, ms",
        "predicted: TPOT",
        "bottleneck: ",
        "left out: far (with a share, however small, a token takes",
        "one more device like n1: ",
        "twice the bandwidth: ",
    ):
        assert words in said, words
    assert "damage" not in said  # there is no calibration of a shape


def test_json(tmp_path: Path) -> None:
    found = document(written(tmp_path, TWO))
    assert found["tpot_ms"] == pytest.approx(sum(found["parts_ms"].values()))
    assert [device["name"] for device in found["devices"]] == ["n0", "n1"]
    assert sum(device["share"] for device in found["devices"]) == pytest.approx(1)
    root, other = found["devices"]
    assert root["groups"] == [0, other["groups"][0]] and other["groups"][1] == 88
    assert other["link_ms"] > 0 and other["wait_ms"] > 0
    assert found["what_if"]["one_more_like"] == "n1"
    assert found == document(written(tmp_path, TWO))


def test_options_reach_the_plan(tmp_path: Path) -> None:
    lab = written(tmp_path, TWO)
    short, long = (document(lab, "--prompt", n)["ttft_ms"] for n in ("16", "256"))
    assert long > 8 * short
    assert document(lab, "--wire", "f16")["tpot_ms"] > document(lab, "--wire", "q8_0")["tpot_ms"]
    assert document(lab, "--objective", "ttft")["objective"] == "ttft"
    assert document(lab, "-m", "llama-2-7b")["tpot_ms"] > 3 * document(lab)["tpot_ms"]


def test_memory_and_storage(tmp_path: Path) -> None:
    text = TWO.replace('name = "n0"', 'name = "n0"\nmemory_mb = 600')
    found = document(
        written(tmp_path, text + "memory_mb = 700\nstorage_mb_s = 400"), "-m", "llama-2-7b"
    )
    share, resident = found["devices"][1]["groups"], found["devices"][1]["resident"]
    assert resident[0] == share[0] and resident[1] < share[1]
    assert (found["bottleneck"], found["waited_for"]) == ("storage", "n1")
    assert found["devices"][1]["load_ms"] == pytest.approx(found["tpot_ms"])
    said = complaint(written(tmp_path, text + "memory_mb = 700"), "-m", "llama-2-7b")
    assert "of the 172 neuron groups of llama-2-7b; add devices" in said


def test_a_calibrated_model_has_a_budget(tmp_path: Path, tiny_model: Path) -> None:
    """The lossy link's losses are waited for, or charged to it."""
    made = profile_of(n_layers=3, hidden=128, neurons=512)
    path = tmp_path / "profile"
    replace(made, fingerprint=fingerprint(GgufFile.open(tiny_model))).save(path)
    slow_root = TWO.replace("pi4", "pi3").replace("loss = 0.02", "loss = 0.2")
    lab = written(tmp_path, slow_root.replace("rate_mbit = 100", ""))
    asked = (lab, "-m", str(tiny_model), "--profile", str(path))
    assert "damage: " in done(*asked)  # balanced, without being asked
    spent = [document(*asked, "--kl-budget", nats)["damage_nats"] for nats in ("0", "0.001")]
    assert spent[0] == 0 and spent[1] <= 0.001
    other = tmp_path / "other"
    made.save(other)
    assert "made from another model" in complaint(
        lab, "-m", str(tiny_model), "--profile", str(other)
    )


def test_a_budget_takes_a_calibration(tmp_path: Path) -> None:
    said = complaint(written(tmp_path, TWO), "--kl-budget", "0.01")
    assert "--kl-budget takes a model with a calibration" in said
    assert "is a number of nats" in complaint(written(tmp_path, TWO), "--kl-budget", "much")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such-lab",), "cannot read no-such-lab"),
        (("pi4-wifi", "--model", "no-such-model"), "no such model: no-such-model"),
        (("burst", "--host", "/no/where"), "cannot read the profile /no/where"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], said: str) -> None:
    assert said in complaint(*arguments)


@pytest.mark.parametrize("lab", ["pi4-wifi", "paper", "mixed-home"])
def test_every_description_of_the_package_without_this_machine(lab: str) -> None:
    assert document(lab)["tpot_ms"] > 0
