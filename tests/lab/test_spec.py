"""Descriptions of labs: what they say, and what is said about those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.link import Burst, LinkSettings
from halo_edge.lab.spec import Action, built_in, parse_spec, read_spec

ONE = b'[[device]]\nname = "n0"\n'
WORKERS = b'[[device]]\nname = "n1"\ncount = 2\nloss = 0.05\ndown = { loss = 0.1, delay_ms = 2 }\n'


def event(text: str) -> bytes:
    return ONE + WORKERS + f"[[event]]\n{text}\n".encode()


def test_devices() -> None:
    spec = parse_spec(b"seed = 3\n" + ONE + WORKERS, "attic")
    assert (spec.name, spec.seed, spec.root.name) == ("attic", 3, "n0")
    assert [worker.name for worker in spec.workers] == ["n1", "n2"]
    assert spec.root.up == spec.root.down == LinkSettings()
    assert spec.workers[1].up == LinkSettings(loss=0.05)
    assert spec.workers[1].down == LinkSettings(loss=0.1, delay_ms=2)
    assert spec.device("n2") is spec.workers[1]
    with pytest.raises(HaloError, match="its devices are n0, n1, n2"):
        spec.device("n3")


CLIENT = b'[[client]]\nname = "laptop"\nspeed = 0.2\n'


def test_a_client_is_on_the_network_and_no_part_of_the_cluster() -> None:
    spec = parse_spec(ONE + WORKERS + CLIENT, "attic")
    assert [device.name for device in spec.devices] == ["n0", "n1", "n2"]
    assert [worker.name for worker in spec.workers] == ["n1", "n2"]
    assert [machine.name for machine in spec.machines] == ["n0", "n1", "n2", "laptop"]
    assert spec.device("laptop").speed == 0.2


def test_caches_are_shared_unless_it_is_said() -> None:
    toml = b"[[device]]\nname = 'n0'\n"
    assert not parse_spec(toml, "lab").own_caches
    assert parse_spec(b"own_caches = true\n" + toml, "lab").own_caches


def test_events_are_in_order_of_their_times() -> None:
    text = 'at_s = 9\naction = "join"\ndevice = "n1"\n[[event]]\nat_s = 8\naction = "cut"\n'
    spec = parse_spec(event(text + 'device = "n1"'), "x")
    assert [(e.at_s, e.action) for e in spec.events] == [(8, Action.CUT), (9, Action.JOIN)]


def test_an_event_with_settings() -> None:
    text = (
        'at_s = 1\naction = "link"\ndevice = "n1"\nlink = { burst = { good_ms = 9, bad_ms = 1 } }'
    )
    (found,) = parse_spec(event(text), "x").events
    assert found.link == LinkSettings(burst=Burst(9, 1))


@pytest.mark.parametrize("name", built_in())
def test_those_that_come_with_the_package(name: str) -> None:
    spec = read_spec(name)
    assert spec.name == name
    assert len(spec.devices) == (8 if name == "paper" else 4)


def test_the_paper_loses_five_percent() -> None:
    spec = read_spec("paper")
    assert all(d.up.mean_loss == pytest.approx(0.05) for d in spec.workers)
    assert spec.root.down.mean_loss == 0


def test_a_file_is_read_and_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "my attic.toml"
    path.write_bytes(ONE)
    assert read_spec(str(path)).name == "my-attic"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (b"", "missing required field `device`"),
        (b"device = 1", "Expected `array`"),
        (b"device = []", "length >= 1"),
        (b"[", "Invalid"),
        (b"\xff", "utf-8"),
        (b"a = " + b"[" * 5000, ""),
        (b'[[device]]\nname = "N"', "name"),
        (b'[[device]]\nname = "n0"\nspede = 1', "unknown field `spede`"),
        (b'[[device]]\nname = "n0"\nspeed = 0', "speed"),
        (b'[[device]]\nname = "n0"\nspeed = nan', "speed"),
        (b'[[device]]\nname = "n0"\nspeed = true', "Expected `float"),
        (b'[[device]]\nname = "n0"\nloss = 2', "loss is a probability"),
        (b'[[device]]\nname = "n0"\ncut = true', "unknown field `cut`"),
        (b'[[device]]\nname = "n0"\nrate_mbit = 0', "rate_mbit is above 0"),
        (b'[[device]]\nname = "n0"\nburst = { good_ms = 1 }', "bad_ms"),
        (b'[[device]]\nname = "n0"\nburst = { good_ms = 0, bad_ms = 1 }', "good_ms"),
        (b'[[device]]\nname = "n"\ncount = 2', "ends in a number"),
        (b'[[device]]\nname = "n1"\ncount = 251', "<= 250"),
        (ONE + ONE, "a name of its own"),
        (ONE + CLIENT + CLIENT, "a name of its own"),
        (
            ONE + CLIENT + b"[[event]]\nat_s = 1\naction = 'kill'\ndevice = 'laptop'",
            "laptop is a client",
        ),
        (event('at_s = 1\naction = "cut"\ndevice = "m"'), "no device 'm'"),
        (event('at_s = 1\naction = "cat"\ndevice = "n1"'), "cat"),
        (event('at_s = -1\naction = "cut"\ndevice = "n1"'), "at_s"),
        (event('at_s = 1\naction = "kill"\ndevice = "n0"'), "n0 is the root"),
        (event('at_s = 1\naction = "speed"\ndevice = "n1"'), "speed"),
        (event('at_s = 1\naction = "cut"\ndevice = "n1"\nspeed = 1'), "speed"),
        (event('at_s = 1\naction = "link"\ndevice = "n1"'), "link"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(toml: bytes, words: str) -> None:
    with pytest.raises(HaloError) as caught:
        parse_spec(toml, "attic")
    message = str(caught.value)
    assert message.startswith("lab attic: ")
    assert words in message
    assert "\n" not in message


def test_no_such_lab(tmp_path: Path) -> None:
    with pytest.raises(HaloError, match=r"cannot read attic .*or one of burst, mixed-home"):
        read_spec("attic")
    with pytest.raises(HaloError, match=r"cannot read .*directory"):
        read_spec(str(tmp_path))
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (2 << 20))
    with pytest.raises(HaloError, match="over 1 MB"):
        read_spec(str(huge))
