"""What is made of the times at which tokens came."""

from __future__ import annotations

import pytest

from halo_edge.bench.http_client import Came
from halo_edge.bench.median import Reading
from halo_edge.bench.streams import p99, sample_of


def test_one_stream() -> None:
    sample = sample_of(Came([[1.0, 1.5, 2.5]], 1.0, 2.5, 2.6), with_prompt=False)
    assert sample.tpot_ms == pytest.approx(750)
    assert sample.tokens_per_s == pytest.approx(2 / 1.5)
    assert sample.unevenness == pytest.approx(1 / 0.75)
    assert sample.ttft_s is None is sample.added_ms


def test_streams_count_from_when_all_go_on() -> None:
    first = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    second = [2.5, 3.5, 4.5, 5.5]
    sample = sample_of(Came([first, second], 2.5, 5.5, 6.0), with_prompt=False)
    assert sample.tokens_per_s == pytest.approx(6 / 3)
    assert sample.tpot_ms == pytest.approx(1000)
    assert sample.unevenness == 1


def test_what_a_prompt_adds() -> None:
    """The gap in which it came counts, the one after its first token does not."""
    first, second = [1.0, 2.0, 3.0, 4.25, 9.0], [1.5, 2.5, 3.5, 4.6, 9.5]
    came = Came([first, second], 1.0, 3.6, 9.6, first_s=4.4)
    sample = sample_of(came, with_prompt=True)
    assert sample.before_ms == pytest.approx(1000)
    assert sample.during_ms == pytest.approx(4750), "the one it ends in counts"
    came = Came([first[:4], second[:4]], 1.0, 3.6, 4.6)
    sample = sample_of(came, with_prompt=True)
    assert sample.added_ms == pytest.approx(250)
    assert sample.usual_added_ms == pytest.approx(175), "of 1.25 and 1.1 s"
    assert sample.ttft_s == Reading(pytest.approx(1.0), cut_short=True)


def test_p99() -> None:
    assert p99(range(1, 101)) == 99
    assert p99([1, 2, 7]) == 7
