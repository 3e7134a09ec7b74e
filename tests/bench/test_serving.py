"""What is made of the times at which tokens came."""

from __future__ import annotations

import pytest

from halo_edge.bench.http_client import Came, token_ids
from halo_edge.bench.median import Reading
from halo_edge.bench.serving import CASES, SERVING, Case, Sample, p99, sample_of

ONE = Case(4, 1)
TWO = Case(4, 2)
LATE = Case(4, 2, prompt_tokens=100)


def test_one_stream() -> None:
    sample = sample_of(ONE, Came([[1.0, 1.5, 2.5]], 1.0, 2.5, 2.6))
    assert sample.tpot_ms == pytest.approx(750)
    assert sample.tokens_per_s == pytest.approx(2 / 1.5)
    assert sample.unevenness == pytest.approx(1 / 0.75)
    assert sample.ttft_s is None is sample.added_ms


def test_streams_count_from_when_all_go_on() -> None:
    first = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    second = [2.5, 3.5, 4.5, 5.5]
    sample = sample_of(TWO, Came([first, second], 2.5, 5.5, 6.0))
    assert sample.tokens_per_s == pytest.approx(6 / 3)
    assert sample.tpot_ms == pytest.approx(1000)
    assert sample.unevenness == 1


def test_what_a_prompt_adds() -> None:
    """The gap in which it came counts, the one after its first token does not."""
    first, second = [1.0, 2.0, 3.0, 4.25, 9.0], [1.5, 2.5, 3.5, 4.6, 9.5]
    came = Came([first, second], 1.0, 3.6, 9.6, first_s=4.4)
    sample = sample_of(LATE, came)
    assert sample.before_ms == pytest.approx(1000)
    assert sample.during_ms == pytest.approx(4750), "the one it ends in counts"
    came = Came([first[:4], second[:4]], 1.0, 3.6, 4.6)
    sample = sample_of(LATE, came)
    assert sample.added_ms == pytest.approx(250)
    assert sample.ttft_s == Reading(pytest.approx(1.0), cut_short=True)


def test_p99() -> None:
    assert p99(range(1, 101)) == 99
    assert p99([1, 2, 7]) == 7


def test_rows() -> None:
    one = Sample(200, 5, 1.1, run_ms=195, overhead=1.03)
    late = Sample(
        400, 20, 1.2, before_ms=450, during_ms=550, ttft_s=Reading(60, cut_short=True)
    )  # fmt: skip
    alone, many = SERVING.rows({ONE: [one], Case(4, 8, 2000): [late]})
    assert (alone.factor, alone.overhead, alone.added_ms) == (1, 1.03, None)
    assert (many.factor, many.added_ms, many.ttft_s, many.ttft_at_least_s) == (4, 100, None, 60)
    table = SERVING.table([alone, many])
    assert "1.03x" in table
    assert "4.00x" in table
    assert "> 60.0" in table


def test_cases() -> None:
    assert [case.beside_run for case in CASES] == [True, False, False, False, False]
    assert len({case.name for case in CASES}) == len(CASES)


def test_prompts_have_no_beginning_in_common() -> None:
    prompts = [token_ids(number, 12) for number in range(9)]
    assert len({prompt[0] for prompt in prompts}) == 9
    assert all(3 <= token < 256 for token in token_ids(0, 2000))
