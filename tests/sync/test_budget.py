"""The token bucket: what it earns, keeps, covers and takes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.sync.budget import K_CAP_TOKENS, K_MAX_SEQUENCES, Budget, SequenceKey

ONE, TWO = SequenceKey(1), SequenceKey(2)


def test_a_token_earns_its_nats_and_a_charge_takes_them() -> None:
    budget = Budget(0.005)
    budget.earn(ONE, 2)
    assert budget.covers({ONE: 0.01})
    assert not budget.covers({ONE: 0.0101})
    budget.charge({ONE: 0.004})
    account = budget.account(ONE)
    assert account.level == pytest.approx(0.006)
    assert account.spent == pytest.approx(0.004)
    assert account.fidelity == pytest.approx(math.exp(-0.004))


def test_it_keeps_a_few_tokens_worth_but_a_prefill_step_may_spend_all_it_earned() -> None:
    budget = Budget(0.01)
    for _ in range(100):
        budget.earn(ONE, 1)
    assert budget.account(ONE).level == pytest.approx(0.01 * K_CAP_TOKENS)
    budget.earn(TWO, 128)
    assert budget.account(TWO).level == pytest.approx(1.28)
    budget.earn(TWO, 1)
    assert budget.account(TWO).level == pytest.approx(0.01 * K_CAP_TOKENS)


def test_strict_covers_nothing_that_costs_anything() -> None:
    budget = Budget(0.0)
    budget.earn(ONE, 1000)
    assert not budget.covers({ONE: 1e-9})
    assert budget.fullness({ONE: 0.0}) == 0.0


def test_sequences_pay_for_themselves() -> None:
    budget = Budget(0.01)
    budget.earn(ONE, 1)
    budget.earn(TWO, 4)
    assert not budget.covers({ONE: 0.02, TWO: 0.02})
    assert budget.covers({ONE: 0.01, TWO: 0.02})
    assert budget.fullness({ONE: 0, TWO: 0}) == pytest.approx(1 / K_CAP_TOKENS)


def test_an_account_may_earn_more_or_nothing() -> None:
    budget = Budget(0.01)
    budget.open(ONE, 0.0)
    budget.open(TWO, 0.1)
    for _ in range(100):
        budget.earn(ONE, 1)
        budget.earn(TWO, 1)
    assert not budget.covers({ONE: 1e-12, TWO: 0.01})
    assert budget.covers({TWO: 0.1 * K_CAP_TOKENS})
    assert budget.fullness({TWO: 0}) == 1.0
    assert budget.fullness({ONE: 0, TWO: 0}) == 0.0
    budget.charge({TWO: 0.3})
    assert budget.close(TWO) == pytest.approx(0.3)
    assert budget.close(TWO) == 0.0
    budget.earn(TWO, 1)  # as all others again
    assert budget.account(TWO).level == pytest.approx(0.01)


def test_what_most_earn_may_change() -> None:
    budget = Budget(0.1)
    budget.open(ONE, 0.0)
    budget.earn(TWO, 1)
    budget.charge({TWO: 0.02})
    budget.change(0.01)
    for sequence in (ONE, TWO):
        budget.earn(sequence, 1)
    assert budget.account(ONE).level == 0
    assert budget.account(TWO).level == pytest.approx(0.01)
    assert budget.close(TWO) == pytest.approx(0.02)


def test_accounts_are_bounded() -> None:
    budget = Budget(0.01)
    budget.charge({ONE: 1.0})
    for i in range(K_MAX_SEQUENCES):
        budget.earn(SequenceKey(1000 + i), 1)
    assert budget.account(ONE).spent == 0.0


@pytest.mark.parametrize("nats", [-0.1, math.inf, math.nan])
def test_a_budget_is_a_finite_amount(nats: float) -> None:
    with pytest.raises(ValueError, match="nats a token"):
        Budget(nats)
    with pytest.raises(ValueError, match="nats a token"):
        Budget(0.1).open(ONE, nats)


@given(
    per_token=st.floats(1e-4, 0.1),
    steps=st.lists(st.tuples(st.integers(1, 200), st.floats(0, 1)), max_size=60),
)
def test_what_is_spent_when_covered_is_never_more_than_what_was_earned(
    per_token: float, steps: list[tuple[int, float]]
) -> None:
    budget, earned = Budget(per_token), 0.0
    for tokens, nats in steps:
        budget.earn(ONE, tokens)
        earned += per_token * tokens
        if budget.covers({ONE: nats}):
            budget.charge({ONE: nats})
        assert budget.account(ONE).level >= 0
    assert budget.account(ONE).spent <= earned * (1 + 1e-9)
