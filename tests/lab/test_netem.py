"""Link settings in netem's numbers; that the kernel does what they say is in test_netem_fabric."""

from __future__ import annotations

import pytest

from halo_edge.lab.link import Burst, LinkSettings
from halo_edge.lab.netem import CERTAIN, MAX_FRAMES, Netem, expressible, impairment, queue


def test_a_clean_link_asks_for_nothing() -> None:
    assert impairment(LinkSettings(), bad=False) == Netem()
    assert queue(LinkSettings()) is None


def test_delay_is_in_ticks_of_64_ns() -> None:
    assert impairment(LinkSettings(delay_ms=1), bad=False).delay == 15_625


def test_jitter_is_on_top_of_the_delay() -> None:
    """netem's is to both sides of it: from 2 to 6 ms is 4 ms, more or less 2."""
    netem = impairment(LinkSettings(delay_ms=2, jitter_ms=4), bad=False)
    assert (netem.delay, netem.jitter) == (62_500, 31_250)


def test_a_delayed_packet_may_not_overtake() -> None:
    jittery = LinkSettings(delay_ms=1, jitter_ms=1)
    assert impairment(jittery, bad=False).rate == CERTAIN
    assert impairment(LinkSettings(delay_ms=1, jitter_ms=1, reorder=1), bad=False).rate == 0


@pytest.mark.parametrize(
    ("settings", "bad", "loss"),
    [
        (LinkSettings(loss=0.05), False, 0.05),
        (LinkSettings(loss=0.05, cut=True), False, 1.0),
        (LinkSettings(loss=1.0), False, 1.0),
        (LinkSettings(loss=0.1, burst=Burst(9, 1, 0.5)), False, 0.1),
        (LinkSettings(loss=0.1, burst=Burst(9, 1, 0.5)), True, 0.55),
        (LinkSettings(burst=Burst(9, 1)), True, 1.0),
    ],
)
def test_loss(settings: LinkSettings, bad: bool, loss: float) -> None:
    assert impairment(settings, bad).loss / CERTAIN == pytest.approx(loss)


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("duplicate", [0.01, 0.6, 1.0])
def test_repeating_packets_does_not_save_them(loss: float, duplicate: float) -> None:
    """netem loses a packet if it draws loss and does not draw repetition."""
    netem = impairment(LinkSettings(loss=loss, duplicate=duplicate), bad=False)
    lost = netem.loss / CERTAIN * (1 - netem.duplicate / CERTAIN)
    assert lost == pytest.approx(loss, abs=1e-9)


def test_a_rate_comes_with_a_queue_in_full_frames() -> None:
    netem = queue(LinkSettings(rate_mbit=100, queue_ms=50))
    assert netem is not None
    assert netem.rate == 12_500_000
    assert netem.limit == 1 + 413  # 625,000 bytes


def test_the_queue_is_bounded_and_never_empty() -> None:
    wide = queue(LinkSettings(rate_mbit=1e9, queue_ms=10_000))
    assert wide is not None
    assert (wide.limit, wide.rate) == (MAX_FRAMES, CERTAIN)
    narrow = queue(LinkSettings(rate_mbit=0.001, queue_ms=0))
    assert narrow is not None
    assert (narrow.limit, narrow.rate) == (1, 125)


@pytest.mark.parametrize(
    "settings",
    [
        LinkSettings(delay_ms=10_000, jitter_ms=4000, corrupt=1, loss=1, cut=True),
        LinkSettings(rate_mbit=1e9, queue_ms=10_000),
        LinkSettings(burst=Burst(1e9, 1e9), duplicate=1),
    ],
)
def test_every_number_fits_its_field(settings: LinkSettings) -> None:
    assert expressible(settings) is None
    for netem in (impairment(settings, True), queue(settings) or Netem()):
        assert all(0 <= value <= CERTAIN for value in vars(netem).values())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (LinkSettings(jitter_ms=1, reorder=0.5), "reorder"),
        (LinkSettings(jitter_ms=5000), "jitter_ms"),
        (LinkSettings(rate_mbit=10, duplicate=0.1), "repeat"),
        (LinkSettings(rate_mbit=0.0001), "rate_mbit"),
        (LinkSettings(burst=Burst(0.5, 10)), "bursts"),
        (LinkSettings(burst=Burst(10, 0.5)), "bursts"),
    ],
)
def test_what_netem_cannot_do(settings: LinkSettings, reason: str) -> None:
    assert reason in (expressible(settings) or "")


@pytest.mark.parametrize(
    "settings",
    [
        LinkSettings(reorder=0.5),  # without jitter there is nothing to overtake by
        LinkSettings(jitter_ms=1, reorder=1, rate_mbit=10),
        LinkSettings(loss=0.3, delay_ms=5, jitter_ms=5, rate_mbit=50, corrupt=0.01),
    ],
)
def test_what_netem_can_do(settings: LinkSettings) -> None:
    assert expressible(settings) is None
