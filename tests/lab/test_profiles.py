"""Device profiles: those in the package, and files of people."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.profiles import (
    MAX_FILE_BYTES,
    built_in_profiles,
    load_profile,
    parse_profile,
    read_profile,
    write_profile,
)
from halo_edge.plan.device_profile import NUMBERS, Machine


def test_what_comes_with_the_package() -> None:
    assert built_in_profiles() == ["laptop", "pi3", "pi4", "pi5"]
    profiles = [load_profile(name) for name in ("pi3", "pi4", "pi5", "laptop")]
    for a, b in pairwise(profiles):  # from the slowest to the fastest
        assert a.memory_bytes_per_s < b.memory_bytes_per_s
        assert a.flop_per_s < b.flop_per_s
        assert a.receive_s > b.receive_s
    for profile in profiles:
        assert profile.machine is None
        for name in ("memory_bytes_per_s", "flop_per_s"):  # published, and where
            assert re.search(r"https?://|the same|pi4", profile.sources[name]), (profile.name, name)
        assert all(profile.sources.get(name, profile.sources["others"]) for name in NUMBERS)


def test_a_profile_is_written_and_read(tmp_path: Path) -> None:
    profile = load_profile("pi5")
    for machine in (
        None,
        Machine(cores=4, tick_s=0.004, frame_s=3e-5, switch_s=1e-5, idle_wake_s=0.0),
    ):
        made = replace(profile, machine=machine, sources={"others": 'said "so" \\ ä\n'})
        path = tmp_path / "made.toml"
        write_profile(made, path)
        assert read_profile(path) == made


PI4 = (Path(__file__).parents[2] / "src/halo_edge/lab/profiles/pi4.toml").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "missing required field"),
        ("name = [", "see docs/simulator.md"),
        (PI4.replace("send_s = ", "send_s = -"), ">= 0.0"),
        (PI4.replace("send_s = 1.58e-5", "send_s = nan"), "send_s"),
        (PI4.replace("memory_bytes_per_s = 2.84e9", "memory_bytes_per_s = 0"), ">= 1000"),
        (PI4.replace("send_s", "sent_s"), "missing required field"),
        (re.sub("others = .*", "", PI4), "no source for add_s, attention_s"),
        ("\x00", "see docs/simulator.md"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(HaloError) as raised:
        parse_profile(text.encode(), "some.toml")
    assert said in str(raised.value)
    assert "some.toml" in str(raised.value) and "\n" not in str(raised.value)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(HaloError, match="no device profile 'pi9'"):
        load_profile("pi9")
    with pytest.raises(HaloError, match="No such file"):
        read_profile(tmp_path / "none")
    large = tmp_path / "large"
    large.write_bytes(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(HaloError, match="over 64 kB"):
        read_profile(large)
    with pytest.raises(HaloError, match="cannot write"):
        write_profile(load_profile("pi4"), tmp_path / "no" / "where")
