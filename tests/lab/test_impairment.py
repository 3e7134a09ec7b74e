"""The bad link: what is lost, when the rest comes, and that a seed repeats it."""

from __future__ import annotations

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.impairment import MAX_QUEUED, ImpairedDirection, parse_impairment
from halo_edge.lab.link import Burst, LinkSettings


def passed(settings: LinkSettings, n: int, seed: str = "1") -> list[tuple[float, int]]:
    """Of `n` datagrams sent a millisecond apart: when each came (to 0.01 ms), and which."""
    direction, found = ImpairedDirection(settings, seed), []
    for i in range(n):
        direction.offer(None, i.to_bytes(4, "big"), i / 1e3)
    for tick in range(100 * (n + 100)):
        while (due := direction.due(tick / 1e5)) is not None:
            found.append((tick / 1e5, int.from_bytes(due[1], "big")))
    assert direction.next_due is None
    return found


def test_loss() -> None:
    """5 % of 4000: within four standard deviations (14) of 200."""
    found = passed(LinkSettings(loss=0.05), 4000)
    assert 144 < 4000 - len(found) < 256
    assert found == passed(LinkSettings(loss=0.05), 4000)
    assert found != passed(LinkSettings(loss=0.05), 4000, seed="2")


def test_delay() -> None:
    delayed = passed(LinkSettings(delay_ms=3), 50)
    assert [i for _, i in delayed] == list(range(50))
    assert all(0 <= time - (i / 1e3 + 3e-3) < 2e-5 for time, i in delayed)


def test_damage_is_one_bit() -> None:
    direction = ImpairedDirection(LinkSettings(corrupt=1), "1")
    direction.offer(None, bytes(100), 0.0)
    due = direction.due(0.0)
    assert due is not None
    assert int.from_bytes(due[1], "big").bit_count() == 1
    assert len(due[1]) == 100


def test_the_queue_is_bounded() -> None:
    direction = ImpairedDirection(LinkSettings(delay_ms=10_000), "0")
    for _ in range(MAX_QUEUED + 10):
        direction.offer(None, b"", 0.0)
    assert direction.overflowed == 10


def test_parse() -> None:
    text = "loss=0.05,delay_ms=1, seed=7,burst=380/20"
    settings = LinkSettings(loss=0.05, delay_ms=1, burst=Burst(380, 20))
    assert parse_impairment(text) == (settings, 7)


@pytest.mark.parametrize(
    "text", ["", "loss", "loss=", "loss=x", "los=0.1", "loss=2", "loss=-1", "loss=nan",
             "delay_ms=-1", "jitter_ms=1e9", "seed=1.5", "burst=1", "burst=1/0", "cut=1"],
)  # fmt: skip
def test_bad_options(text: str) -> None:
    with pytest.raises(HaloError, match=r"^--impair: "):
        parse_impairment(text)
