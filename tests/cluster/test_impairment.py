"""The bad link: what is lost, when the rest comes, and that a seed repeats it."""

from __future__ import annotations

import pytest

from halo_edge.cluster.impairment import MAX_QUEUED, ImpairedDirection, ImpairmentOptions
from halo_edge.errors import HaloError


def passed(options: ImpairmentOptions, n: int, seed: int = 1) -> list[tuple[float, int]]:
    """Of `n` datagrams sent a millisecond apart: when each came (to 0.01 ms), and which."""
    direction, found = ImpairedDirection(options, seed), []
    for i in range(n):
        direction.offer(None, i.to_bytes(4, "big"), i / 1e3)
    for tick in range(100 * (n + 100)):
        while (due := direction.due(tick / 1e5)) is not None:
            found.append((tick / 1e5, int.from_bytes(due[1], "big")))
    assert direction.next_due is None
    return found


def test_loss() -> None:
    """5 % of 4000: within four standard deviations (14) of 200."""
    found = passed(ImpairmentOptions(loss=0.05), 4000)
    assert 144 < 4000 - len(found) < 256
    assert found == passed(ImpairmentOptions(loss=0.05), 4000)
    assert found != passed(ImpairmentOptions(loss=0.05), 4000, seed=2)


def test_delay_keeps_the_order_and_jitter_does_not() -> None:
    delayed = passed(ImpairmentOptions(delay_ms=3), 50)
    assert [i for _, i in delayed] == list(range(50))
    assert all(0 <= time - (i / 1e3 + 3e-3) < 2e-5 for time, i in delayed)
    jittered = passed(ImpairmentOptions(delay_ms=3, jitter_ms=5), 200)
    assert sorted(i for _, i in jittered) == list(range(200)) != [i for _, i in jittered]
    assert all(3e-3 - 1e-9 <= time - i / 1e3 < 8e-3 + 2e-5 for time, i in jittered)


def test_the_queue_is_bounded() -> None:
    direction = ImpairedDirection(ImpairmentOptions(delay_ms=10_000), 0)
    for _ in range(MAX_QUEUED + 10):
        direction.offer(None, b"", 0.0)
    assert direction.dropped == 10


def test_parse() -> None:
    assert ImpairmentOptions.parse("loss=0.05,delay_ms=1, seed=7") == ImpairmentOptions(
        loss=0.05, delay_ms=1, seed=7
    )


@pytest.mark.parametrize(
    "text", ["", "loss", "loss=", "loss=x", "los=0.1", "loss=1", "loss=-1", "loss=nan",
             "delay_ms=-1", "jitter_ms=1e9", "seed=1.5"],
)  # fmt: skip
def test_bad_options(text: str) -> None:
    with pytest.raises(HaloError, match=r"^--impair: "):
        ImpairmentOptions.parse(text)
