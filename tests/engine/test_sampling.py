"""Sampling: small cases worked by hand, distributions from a seed, a naive reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from halo_edge.engine.sampling import Sampled, Sampler, SamplingParams
from halo_edge.errors import HaloError

OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def logs(*probabilities: float) -> NDArray[np.float32]:
    return vector(*map(math.log, probabilities))


def seen_tokens(params: SamplingParams, logits: NDArray[np.float32], draws: int = 300) -> set[int]:
    sampler = Sampler(params)
    return {sampler.sample(logits, []).token_id for _ in range(draws)}


def chi_square(params: SamplingParams, logits: NDArray[np.float32], expected: list[float]) -> float:
    draws = 5_000
    sampler = Sampler(params)
    counts = np.zeros(len(logits))
    for _ in range(draws):
        counts[sampler.sample(logits, []).token_id] += 1
    share = np.array(expected)
    assert not counts[share == 0].any()
    wanted = draws * share[share > 0]
    return float(((counts[share > 0] - wanted) ** 2 / wanted).sum())


# --- parameters ---


def test_defaults_are_llama_cpps() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.8, 40, 0.95, 0.05)
    assert (params.repetition_penalty, params.repetition_window) == (1.0, 64)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -2),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", math.nan),
        ("repetition_window", -2),
        ("presence_penalty", 2.1),
        ("presence_penalty", math.nan),
        ("frequency_penalty", -2.1),
        ("seed", -2),
        ("seed", 2**64),
        ("max_tokens", 0),
        ("stop", ("",)),
        ("stop", ("x" * 257,)),
        ("stop", ("a",) * 17),
        ("logprobs", -1),
        ("logprobs", 21),
    ],
)
def test_bad_value_is_named_on_one_line(name: str, value: object) -> None:
    with pytest.raises(HaloError) as caught:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"{name} is ")
    assert "\n" not in message and len(message) < 200


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(HaloError) as caught:
        SamplingParams(temperature=-1, top_p=2)
    assert str(caught.value) == (
        "temperature is -1 but must be 0 (greedy) or more; "
        "top_p is 2 but must be above 0 and at most 1 (off)"
    )


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 1e300},
        {"top_k": -1},
        {"top_k": 10**30},
        {"top_p": 1.0},
        {"top_p": 1e-12},
        {"min_p": 1.0},
        {"min_p": 5e-324},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 1e300},
        {"repetition_window": -1},
        {"seed": -1},
        {"seed": 2**64 - 1},
        {"max_tokens": 1},
        {"logprobs": 20},
    ],
)
@pytest.mark.parametrize("filters", [{}, OFF], ids=["default", "off"])
@pytest.mark.filterwarnings("error")
def test_extremes_of_every_range_work(params: dict[str, float], filters: dict[str, float]) -> None:
    sampler = Sampler(SamplingParams(**{**filters, **params}))  # type: ignore[arg-type]
    for logits in (vector(3e38, -3e38, 0, 1), vector(0, 0, 0, 0), vector(5)):
        assert 0 <= sampler.sample(logits, [0]).token_id < len(logits)


# --- greedy ---


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_greedy_takes_the_likeliest_and_of_equal_ones_the_first(temperature: float) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature))
    assert sampler.sample(vector(1, 7, 3, 7), []) == Sampled(1)


def test_greedy_after_the_penalty() -> None:
    sampler = Sampler(SamplingParams(temperature=0, repetition_penalty=2.0))
    assert sampler.sample(vector(4, 3, -1), []).token_id == 0
    assert sampler.sample(vector(4, 3, -1), [0]).token_id == 1  # 2, 3, -1
    assert sampler.sample(vector(4, 3, -1), [0, 1]).token_id == 0  # 2, 1.5, -1
    assert sampler.sample(vector(-2, -3), [0]).token_id == 1  # -4, -3
    assert sampler.sample(vector(4, 3), [0, 0, 0, 0]).token_id == 1  # once, not four times: 2, 3
    assert sampler.sample(vector(4, 1.5), [0, 0, 0, 0]).token_id == 0  # 2, 1.5 (not 0.25, 1.5)


@pytest.mark.parametrize(("window", "token_id"), [(0, 0), (1, 0), (2, 1), (64, 1), (-1, 1)])
def test_penalty_window(window: int, token_id: int) -> None:
    params = SamplingParams(temperature=0, repetition_penalty=2.0, repetition_window=window)
    assert Sampler(params).sample(vector(4, 3, -1), [0, 2]).token_id == token_id


def test_penalty_below_one_favours_repetition() -> None:
    sampler = Sampler(SamplingParams(temperature=0, repetition_penalty=0.5))
    assert sampler.sample(vector(4, 3), [1]).token_id == 1


def test_presence_and_frequency_look_at_what_was_generated() -> None:
    """Not at the prompt; a token that came n times loses presence + n * frequency."""
    params = SamplingParams(temperature=0, presence_penalty=0.5, frequency_penalty=0.3)
    sampler = Sampler(params)
    logits = vector(3.0, 2.3, 1.0)
    # 3.0, then 2.2 and 2.3, then 2.2 and 1.5, then 1.9 and 1.5, then 1.6, then 1.3
    chosen = [sampler.sample(logits, [0, 0, 1]).token_id for _ in range(7)]
    assert chosen == [0, 1, 0, 0, 0, 1, 0]


def test_negative_presence_favours_what_was_generated() -> None:
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=-2))
    assert sampler.sample(vector(1, 0), []).token_id == 0
    assert sampler.sample(vector(0, 1), []).token_id == 0


class Only:
    """A constraint that allows some tokens of a longer or shorter vocabulary."""

    def __init__(self, *tokens: int, vocab: int = 6) -> None:
        self.mask = np.zeros(vocab, np.bool_)
        self.mask[list(tokens)] = True
        self.came: list[int] = []

    def allowed(self) -> NDArray[np.bool_]:
        return self.mask

    def accept(self, token: int) -> None:
        self.came.append(token)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("vocab", [4, 6, 9])
def test_a_constraint_comes_before_the_filters(temperature: float, vocab: int) -> None:
    """The likeliest that is allowed, though the likeliest of all is a thousand times as likely."""
    only = Only(2, 3, vocab=vocab)
    params = SamplingParams(temperature=temperature, top_k=1, logprobs=1)
    sampled = Sampler(params, only).sample(vector(9, 8, 1, 2, 0, 0), [])
    assert sampled.token_id == 3
    assert only.came == [3]
    assert sampled.top_logprobs[0][0] == 0  # of the raw logits


def test_a_constraint_with_probabilities() -> None:
    only = Only(1, 2)
    sampler = Sampler(SamplingParams(temperature=1, seed=1, **OFF), only)
    counts = np.bincount([sampler.sample(logs(0.8, 0.05, 0.15), []).token_id for _ in range(4000)])
    assert counts[0] == 0
    assert counts[1] / 4000 == pytest.approx(0.25, abs=0.03)


def test_a_constraint_that_allows_nothing() -> None:
    for only in (Only(), Only(5)):
        with pytest.raises(HaloError, match="allows none"):
            Sampler(SamplingParams(), only).sample(vector(1, 2, 3), [])


# --- filters, by hand: probabilities 0.5, 0.3, 0.15, 0.05 in another order ---

FOUR = logs(0.15, 0.5, 0.05, 0.3)


@pytest.mark.parametrize(
    ("filters", "allowed"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 3, 0}),
        ({"top_k": 4}, {0, 1, 2, 3}),
        ({"top_p": 0.45}, {1}),
        ({"top_p": 0.55}, {1, 3}),
        ({"top_p": 0.94}, {1, 3, 0}),
        ({"top_p": 0.96}, {0, 1, 2, 3}),
        ({"min_p": 1.0}, {1}),
        ({"min_p": 0.55}, {1, 3}),
        ({"min_p": 0.29}, {1, 3, 0}),
        ({"min_p": 0.09}, {0, 1, 2, 3}),
        # top-p sees what top-k left: 0.625, 0.375.
        ({"top_k": 2, "top_p": 0.61}, {1}),
        ({"top_k": 2, "top_p": 0.63}, {1, 3}),
        ({"top_p": 0.94, "min_p": 0.55}, {1, 3}),
        ({"top_p": 0.45, "min_p": 0.09}, {1}),
        ({"top_k": 3, "top_p": 0.99, "min_p": 0.55}, {1, 3}),
    ],
)
@pytest.mark.parametrize("temperature", [0.7, 3.0])  # comes last: it never changes who is allowed
def test_filters(filters: dict[str, float], allowed: set[int], temperature: float) -> None:
    params = SamplingParams(**{**OFF, **filters}, temperature=temperature, seed=1)  # type: ignore[arg-type]
    assert seen_tokens(params, FOUR) == allowed


def test_top_k_of_equal_logits_keeps_the_lower_ids() -> None:
    params = SamplingParams(**{**OFF, "top_k": 2}, seed=1)  # type: ignore[arg-type]
    assert seen_tokens(params, vector(1, 2, 1, 1)) == {0, 1}


@pytest.mark.parametrize("vocab", [4095, 4096, 5000, 49_153])
@pytest.mark.parametrize("k", [1, 20])
def test_likeliest_of_a_large_vocabulary(vocab: int, k: int) -> None:
    # Few distinct values: many ties, some of them at the bound.
    logits = np.random.default_rng(vocab).integers(-50, 50, vocab).astype(np.float32)
    logits[vocab - 1] = 60  # in the part that is left over by equal groups
    sampled = Sampler(SamplingParams(temperature=0, logprobs=k)).sample(logits, [])
    wanted = np.argsort(-logits, kind="stable")[:k]
    assert [token_id for token_id, _ in sampled.top_logprobs] == wanted.tolist()


# --- distribution ---

# 99.99 % of chi-square at 3 degrees of freedom is below 21; the seeds are fixed.
CHI_SQUARE_BOUND = 21.0


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"temperature": 1.0}, [0.15, 0.5, 0.05, 0.3]),
        # Squared: 0.0225, 0.25, 0.0025, 0.09 of 0.365.
        ({"temperature": 0.5}, [0.0225 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365]),
        ({"temperature": 1.0, "top_k": 2}, [0, 0.625, 0, 0.375]),
        ({"temperature": 1.0, "top_p": 0.9}, [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
        ({"temperature": 1.0, "min_p": 0.55}, [0, 0.625, 0, 0.375]),
        ({"temperature": 0.5, "top_k": 2}, [0, 0.25 / 0.34, 0, 0.09 / 0.34]),
    ],
)
def test_distribution(filters: dict[str, float], expected: list[float]) -> None:
    params = SamplingParams(**{**OFF, **filters}, seed=11)  # type: ignore[arg-type]
    assert chi_square(params, FOUR, expected) < CHI_SQUARE_BOUND


def test_penalty_changes_the_distribution() -> None:
    # Logits log 4 and log 3; halving the first: 2 to 3.
    params = SamplingParams(**OFF, temperature=1.0, repetition_penalty=2.0, seed=3)  # type: ignore[arg-type]
    sampler = Sampler(params)
    ones = sum(sampler.sample(logs(4, 3), [0]).token_id for _ in range(4_000))
    assert 0.57 < ones / 4_000 < 0.63


def test_seed() -> None:
    logits = np.zeros(1000, dtype=np.float32)

    def run(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(**OFF, seed=seed))  # type: ignore[arg-type]
        return [sampler.sample(logits, []).token_id for _ in range(20)]

    assert run(5) == run(5)
    assert run(5) != run(6)
    assert run(None) != run(None)
    assert run(-1) != run(-1)


# --- log-probabilities ---


def test_logprobs_are_of_the_raw_logits() -> None:
    params = SamplingParams(temperature=0, repetition_penalty=100.0, min_p=1.0, top_k=1, logprobs=2)
    # Shifting all logits changes no probability; +1 makes both sides of the penalty positive.
    sampled = Sampler(params).sample(FOUR + np.float32(5), [1])
    assert sampled.token_id == 3
    assert sampled.logprob == pytest.approx(math.log(0.3), abs=1e-5)
    assert [i for i, _ in sampled.top_logprobs] == [1, 3]
    assert [p for _, p in sampled.top_logprobs] == pytest.approx(
        [math.log(0.5), math.log(0.3)], abs=1e-5
    )


def test_logprobs_only_where_asked() -> None:
    assert Sampler(SamplingParams(temperature=0)).sample(FOUR, []).logprob is None
    sampled = Sampler(SamplingParams(temperature=0, logprobs=0)).sample(FOUR, [])
    assert sampled.logprob == pytest.approx(math.log(0.5), abs=1e-5)
    assert sampled.top_logprobs == ()


def test_more_logprobs_than_tokens() -> None:
    sampled = Sampler(SamplingParams(logprobs=20)).sample(FOUR, [])
    assert [i for i, _ in sampled.top_logprobs] == [1, 3, 0, 2]


def test_logprobs_of_a_large_vocabulary() -> None:
    logits = (np.random.default_rng(2).standard_normal(128_256) * 3).astype(np.float32)
    exact = logits.astype(np.float64)
    exact -= exact.max() + math.log(np.exp(exact - exact.max()).sum())
    sampled = Sampler(SamplingParams(seed=1, logprobs=5)).sample(logits, [])
    assert sampled.logprob == pytest.approx(exact[sampled.token_id], abs=1e-5)
    assert dict(sampled.top_logprobs) == pytest.approx(
        {int(i): exact[i] for i in np.argsort(-exact)[:5]}, abs=1e-5
    )


# --- the logits given ---


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("position", [0, 17, 4999])
def test_logits_that_are_not_finite(bad: float, temperature: float, position: int) -> None:
    logits = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    logits[position] = bad
    with pytest.raises(HaloError, match=rf"^the model's logits are not finite \(token {position}:"):
        Sampler(SamplingParams(temperature=temperature)).sample(logits, [])


@pytest.mark.parametrize("filters", [{}, OFF, {**OFF, "top_p": 0.9}, {"temperature": 0}])
def test_logits_are_not_modified(filters: dict[str, float]) -> None:
    logits = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    logits.flags.writeable = False  # a write would raise
    params = SamplingParams(**filters, repetition_penalty=1.3, logprobs=3)  # type: ignore[arg-type]
    Sampler(params).sample(logits, [1, 2, 3])


# --- against a naive reference ---


def naive_allowed(
    logits: NDArray[np.float32], recent: list[int], params: SamplingParams, slack: float
) -> set[int]:
    """llama.cpp's chain, one filter after the other, in f64; `slack` widens every bound."""
    values = logits.astype(np.float64)
    for token_id in set(recent[max(0, len(recent) - params.repetition_window) :]):
        old = float(values[token_id])
        new = old / params.repetition_penalty if old > 0 else old * params.repetition_penalty
        values[token_id] = np.float32(new)  # logits are f32: rounding may make a tie
    ids = sorted(range(len(values)), key=lambda i: -values[i])
    if params.top_k > 0:
        last = values[ids[: params.top_k][-1]]
        ids = [i for i in ids if values[i] >= last - slack]
    shares = np.exp(values[ids] - values[ids[0]])
    shares /= shares.sum()
    before = np.cumsum(shares) - shares
    ids = [i for i, mass in zip(ids, before, strict=True) if mass < params.top_p + slack]
    if params.min_p > 0:
        ids = [i for i in ids if values[i] >= values[ids[0]] + math.log(params.min_p) - slack]
    return set(ids)


finite = st.floats(-30, 30, width=32)


@given(
    logits=st.lists(finite | st.sampled_from([0.0, 1.0]), min_size=1, max_size=60),
    history=st.lists(st.integers(0, 10**6), max_size=12),
    temperature=st.floats(0, 5),
    top_k=st.integers(-1, 70),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    penalty=st.floats(0.1, 10),
    window=st.integers(0, 8),
    seed=st.integers(0, 2**64 - 1),
)
def test_chosen_token_is_allowed_by_a_naive_reference(
    logits: list[float],
    history: list[int],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    penalty: float,
    window: int,
    seed: int,
) -> None:
    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=penalty,
        repetition_window=window,
        seed=seed,
    )
    values = vector(*logits)
    recent = [i % len(logits) for i in history]
    sampler = Sampler(params)
    allowed = naive_allowed(values, recent, params, slack=1e-4)
    assert {sampler.sample(values, recent).token_id for _ in range(5)} <= allowed


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(0.01, 0.999), st.floats(0.5, 8))
def test_nucleus_of_the_whole_vocabulary_is_complete(
    seed: int, top_p: float, spread: float
) -> None:
    """Without top-k only a part is sorted; nobody in the nucleus may be lost by that."""
    logits = (np.random.default_rng(seed).standard_normal(20) * spread).astype(np.float32)
    params = SamplingParams(**{**OFF, "top_p": top_p}, temperature=1e6, seed=seed)  # type: ignore[arg-type]
    # So hot that every allowed token is equally likely: 600 draws miss one of 20 once in 10^12.
    seen = seen_tokens(params, logits, draws=600)
    surely = naive_allowed(logits, [], params, slack=-1e-4)
    maybe = naive_allowed(logits, [], params, slack=1e-4)
    assert surely <= seen <= maybe
