from __future__ import annotations

import math

import pytest

from halo_edge.sync.answers import AnswerTimes
from halo_edge.sync.timing import Recovery


def test_of_a_device_that_has_never_answered_nothing_is_known() -> None:
    assert AnswerTimes(128, Recovery()).bound_s(1) is None


def test_more_tokens_take_longer_by_no_more_than_in_proportion() -> None:
    answers = AnswerTimes(128, Recovery())
    answers.of(1).sample(0.01)
    known_s = answers.bound_s(1)
    assert known_s == pytest.approx(0.03)
    for tokens in (2, 3, 7, 64, 128):
        bound_s = answers.bound_s(tokens)
        assert bound_s is not None and bound_s >= tokens * known_s
        assert bound_s <= 4 * tokens * known_s


def test_fewer_tokens_take_no_longer() -> None:
    answers = AnswerTimes(128, Recovery())
    answers.of(128).sample(2.0)
    assert answers.bound_s(1) == answers.bound_s(128) == pytest.approx(6.0)


def test_a_long_prefill_is_taken_for_what_it_is() -> None:
    answers = AnswerTimes(128, Recovery())
    answers.of(128).sample(9.0)
    answers.of(1).sample(9.0)
    assert answers.mean_s(128) == 9.0
    assert answers.mean_s(1) is not None and answers.mean_s(1) < 1.3


def test_over_tcp_a_bound_is_known_though_no_timer_runs() -> None:
    answers = AnswerTimes(128, Recovery(reliable=True))
    answers.of(1).sample(0.01)
    assert answers.of(1).timeout_s == math.inf
    assert answers.bound_s(1) == pytest.approx(0.03)
