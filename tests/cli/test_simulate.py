"""`halo lab simulate`, `fuzz` and `profile` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from halo_edge.cli.app import app_for
from halo_edge.errors import HaloError
from halo_edge.lab.fuzz import Report
from halo_edge.lab.profiles import load_profile, read_profile

SHORT = ("--model", "tiny", "--tokens", "4")


def halo(*arguments: str) -> Result:
    return CliRunner().invoke(app_for(["lab"]), ["lab", *arguments])


def done(*arguments: str) -> str:
    result = halo(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def complaint(*arguments: str) -> str:
    """The line that `halo` would print."""
    error = halo(*arguments).exception
    assert isinstance(error, HaloError)
    assert "\n" not in str(error)
    return str(error)


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done("simulate", *arguments, *SHORT, "--json"))
    return found


def test_a_table() -> None:
    said = done("simulate", "pi4-wifi", *SHORT)
    for words in ("pi4-wifi: tiny, 4 devices, seed 1", "TPOT, ms (4 tokens)", "median", "n3"):
        assert words in said


def test_json_is_exact() -> None:
    found = document("pi4-wifi")
    assert (found["lab"], found["seed"], found["model"], found["ended"]) == (
        "pi4-wifi", 1, "tiny", None
    )  # fmt: skip
    assert len(found["token_ms"]) == found["tokens"] == 4
    assert found["tpot_ms"]["max"] == max(found["token_ms"])
    assert found["tpot_ms"]["mean"] == pytest.approx(sum(found["token_ms"]) / 4)
    assert len(found["devices"]) == 4
    assert found["root"]["rounds"] == 3 * (1 + 3 + 4)
    assert document("pi4-wifi") == found
    assert document("pi4-wifi", "--seed", "9")["token_ms"] != found["token_ms"]


def test_options_reach_the_simulation() -> None:
    found = document("paper", "--devices", "5", "--wire", "q8_0", "--prompt", "200")
    assert (len(found["devices"]), found["wire"], found["prompt"]) == (5, "q8_0", 200)
    assert found["ttft_ms"] > document("paper", "--devices", "5")["ttft_ms"]


def test_a_trace_of_the_same_seed_is_the_same(tmp_path: Path) -> None:
    traces = []
    for seed in ("3", "3", "4"):
        path = tmp_path / "trace"
        done("simulate", "mixed-home", *SHORT, "--seed", seed, "--trace-out", str(path))
        traces.append(path.read_bytes())
    assert traces[0] == traces[1] != traces[2]
    assert traces[0].count(b" token\n") == 3 + 4


def test_this_machine_is_measured_once_and_then_read(tmp_path: Path, tiny_model: Path) -> None:
    host = tmp_path / "host.toml"
    said = done("profile", "--model", str(tiny_model), "--out", str(host))
    assert "memory_bytes_per_s" in said and "machine: cores" in said
    assert read_profile(host).machine is not None
    lab = tmp_path / "lab.toml"
    lab.write_text('[[device]]\nname = "n0"\n[[device]]\nname = "n1"\nspeed = 0.5\n')
    found = document(str(lab), "--host", str(host))
    assert found == document(str(lab), "--host", str(host))


def test_an_end_that_came_early(tmp_path: Path) -> None:
    lab = tmp_path / "cut.toml"
    lab.write_text(
        '[[device]]\nname = "n0"\nprofile = "pi4"\n[[device]]\nname = "n1"\nprofile = "pi4"\n'
        '[[event]]\nat_s = 0\ndevice = "n1"\naction = "kill"\n'
    )
    assert "after 0 tokens: worker n1 left" in complaint("simulate", str(lab), *SHORT)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such-lab",), "cannot read no-such-lab"),
        (("pi4-wifi", "--model", "no-such-model"), "no such model: no-such-model"),
        (("pi4-wifi", *SHORT, "--trace-out", "/no/where"), "cannot write /no/where"),
        (("burst", *SHORT, "--host", "/no/where"), "cannot read the profile /no/where"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], said: str) -> None:
    assert said in complaint("simulate", *arguments)


def test_an_unknown_profile(tmp_path: Path) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text('[[device]]\nname = "n0"\nprofile = "cray"\n')
    assert "no device profile 'cray'; there are laptop, pi3" in complaint("simulate", str(lab))


def test_schedules_hold() -> None:
    result = halo("fuzz", "--seeds", "5", "--first", "100", "--jobs", "1", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["first"], found["seeds"], found["broken"]) == (100, 5, None)
    assert found["events"] > 100


def test_a_broken_schedule_tells_how_to_run_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int) -> Report:
        return Report(seed, 1, 1, 1, 1, 1.0, 0.0, "Broken: it is" if seed == 7 else None, ("x",))

    monkeypatch.setattr("halo_edge.lab.fuzz_many.run_schedule", broken)
    said = complaint("fuzz", "--seeds", "20", "--jobs", "1")
    assert said == "seed 7: Broken: it is; again with `halo lab fuzz --first 7 --seeds 1`"


def test_several_processes_find_the_same() -> None:
    arguments = ("fuzz", "--seeds", "24", "--json")
    found = [json.loads(done(*arguments, "--jobs", jobs)) for jobs in ("1", "2")]
    assert found[0] == found[1]


def test_every_profile_of_the_package_can_be_used(tmp_path: Path) -> None:
    lab = tmp_path / "lab.toml"
    names = [load_profile(name).name for name in ("laptop", "pi3", "pi4", "pi5")]
    lab.write_text("".join(f'[[device]]\nname = "{n}"\nprofile = "{n}"\n' for n in names))
    assert [device["device"] for device in document(str(lab))["devices"]] == names
