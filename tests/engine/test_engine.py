"""The decode loop: what a sequence gets does not depend on the others, or on how it was cut up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halo_edge.engine.engine import PREFILL_CHUNK, Engine
from halo_edge.engine.kv_cells import KvCells
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import FinishReason, Sequence
from halo_edge.errors import HaloError

CONTEXT = 300


def prompt(n: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(2, 512, n)]


def greedy(max_tokens: int | None = 12) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens)


@pytest.fixture(scope="module")
def model(make_model: Any, open_model: Any) -> Any:
    """f32, so that a token does not hang on the rounding that other batches would do otherwise."""
    return open_model(make_model(quantization="f32", context=2048), cells=1024, max_tokens=128)


@pytest.fixture
def engine(model: Any) -> Engine:
    model.forward.cells = KvCells(1024)  # whatever another test has left
    return Engine(model.forward, model.gather, context=CONTEXT, end_tokens=frozenset())


def finish(engine: Engine, *sequences: Sequence) -> list[list[int]]:
    """Step until all have ended; what each generated."""
    while any(sequence.finish is None for sequence in sequences):
        engine.step()
    return [sequence.generated for sequence in sequences]


def alone(engine: Engine, tokens: list[int], params: SamplingParams) -> list[int]:
    sequence = engine.add(tokens, params)
    (generated,) = finish(engine, sequence)
    engine.release(sequence)
    return generated


def test_greedy_is_the_argmax_of_the_logits(model: Any, engine: Engine) -> None:
    tokens = prompt(20)
    generated = alone(engine, tokens, greedy(5))
    for i, token in enumerate(generated):
        assert token == int(model.fresh(tokens + generated[:i]).argmax())


def test_steps(engine: Engine) -> None:
    """A prompt's chunks bring nothing; the last brings the first token; then one a step."""
    long, short = engine.add(prompt(PREFILL_CHUNK + 9), greedy(4)), engine.add(prompt(3), greedy(2))
    seen = [[new.sequence for new in engine.step()] for _ in range(7)]
    assert seen == [[], [long], [short], [long, short], [long], [long], []]
    assert (long.finish, short.finish) == (FinishReason.LENGTH, FinishReason.LENGTH)


@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 256, 280])
def test_prompts_around_the_chunk(model: Any, engine: Engine, size: int) -> None:
    tokens = prompt(size)
    (first, *_) = alone(engine, tokens, greedy(2))
    sizes = [min(50, size - start) for start in range(0, size, 50)]
    assert first == int(model.fresh(tokens, *sizes).argmax())


def test_several_sequences_at_once_are_each_as_alone(engine: Engine) -> None:
    prompts = [prompt(n, seed=n) for n in (1, 40, 7, 140)]
    expected = [alone(engine, tokens, greedy()) for tokens in prompts]
    sequences = [engine.add(tokens, greedy()) for tokens in prompts[:2]]
    for _ in range(5):
        engine.step()  # two more come while the first two decode
    sequences += [engine.add(tokens, greedy()) for tokens in prompts[2:]]
    assert finish(engine, *sequences) == expected


def test_sampling_does_not_depend_on_the_company(engine: Engine) -> None:
    params = [SamplingParams(temperature=1, seed=seed, max_tokens=10) for seed in (1, 2)]
    expected = [alone(engine, prompt(9), one) for one in params]
    assert finish(engine, *(engine.add(prompt(9), one) for one in params)) == expected
    assert expected[0] != expected[1]


def test_seeds(engine: Engine) -> None:
    def generated(seed: int | None) -> list[int]:
        params = SamplingParams(temperature=1.5, top_k=0, top_p=1, min_p=0, seed=seed)
        sequence = engine.add(prompt(9), params)
        for _ in range(12):
            engine.step()
        engine.release(sequence)
        return sequence.generated

    assert generated(7) == generated(7)
    assert generated(7) != generated(8)
    assert generated(None) != generated(None)  # 12 tokens of 512: no two alike in a lifetime


def test_max_tokens_and_the_end_of_the_context(engine: Engine) -> None:
    assert len(alone(engine, prompt(5), greedy(1))) == 1
    assert len(alone(engine, prompt(5), greedy(9))) == 9
    sequence = engine.add(prompt(CONTEXT - 4), greedy(None))
    finish(engine, sequence)
    assert len(sequence.generated) == 4
    assert sequence.finish is FinishReason.LENGTH
    engine.release(sequence)
    assert len(alone(engine, prompt(CONTEXT - 4), greedy(100))) == 4
    assert engine.step() == []


def test_end_tokens(model: Any, engine: Engine) -> None:
    tokens = prompt(20)
    free = alone(engine, tokens, greedy())
    end = free[6]
    stopping = Engine(model.forward, model.gather, context=CONTEXT, end_tokens=frozenset({end}))
    sequence = stopping.add(tokens, greedy())
    finish(stopping, sequence)
    assert sequence.generated == free[: free.index(end) + 1]
    assert sequence.finish is FinishReason.STOP


def test_logprobs(model: Any, engine: Engine) -> None:
    tokens = prompt(10)
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=3)
    sequence = engine.add(tokens, params)
    (new,) = engine.step()
    assert new.sequence is sequence
    logits = model.fresh(tokens).astype(np.float64)
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    best = np.argsort(-expected)[:3]
    assert [token for token, _ in new.sampled.top_logprobs] == best.tolist()
    np.testing.assert_allclose(
        [logprob for _, logprob in new.sampled.top_logprobs], expected[best], atol=1e-4
    )
    assert new.sampled.logprob == pytest.approx(expected[best[0]], abs=1e-4)


def test_repetition_penalty_sees_the_prompt(model: Any, engine: Engine) -> None:
    params = SamplingParams(
        temperature=0, max_tokens=1, repetition_penalty=1e6, repetition_window=-1
    )
    changed = 0
    for seed in range(6):
        tokens = prompt(240, seed)
        logits = model.fresh(tokens, 120, 120)
        likeliest = int(logits.argmax())
        seen = sorted(set(tokens))
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / 1e6, logits[seen] * 1e6)
        assert alone(engine, tokens, params) == [int(logits.argmax())]
        changed += likeliest in seen
    assert changed  # in some of the six the penalty made a difference


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "the prompt is empty"),
        (prompt(CONTEXT), "the prompt has 300 tokens, the context holds 300"),
        (prompt(5000), "the prompt has 5000 tokens"),
        ([3, 512], "token ids that the model does not know"),
        ([3, -1], "token ids that the model does not know"),
    ],
)
def test_prompts_that_cannot_be(engine: Engine, tokens: list[int], message: str) -> None:
    with pytest.raises(HaloError, match=message):
        engine.add(tokens, greedy())
    assert engine.step() == []


class Spy:
    """Counts the tokens that are computed."""

    def __init__(self, gather: Any) -> None:
        self.gather, self.tokens = gather, 0

    def ffn(self, layer: int, tokens: int) -> None:
        self.tokens += tokens * (layer == 0)
        self.gather.ffn(layer, tokens)


@pytest.mark.parametrize("shared", [0, 1, 25, 31, 32, 60])
def test_prefix_reuse(model: Any, engine: Engine, shared: int) -> None:
    """The next turn of a conversation: same tokens as without, and the common part for free."""
    spy = Spy(model.gather)
    chat = Engine(model.forward, spy, context=CONTEXT, end_tokens=frozenset())
    first = chat.add(prompt(25), greedy(8))
    finish(chat, first)  # 33 tokens, of which the last was never computed
    turn = (first.tokens + prompt(40, seed=1))[:shared] + prompt(20, seed=2)
    turn[shared] = 0 if shared < 33 and first.tokens[shared] != 0 else 1
    spy.tokens = 0
    second = chat.add(turn, greedy(8), after=first)
    (generated,) = finish(chat, second)
    assert spy.tokens == len(turn) - min(shared, 32) + 7
    assert model.forward.cells.n_free == 1024 - len(turn) - 7
    chat.release(second)
    assert model.forward.cells.n_free == 1024
    assert generated == alone(engine, turn, greedy(8))


def test_the_very_same_prompt_again(model: Any, engine: Engine) -> None:
    """At least the last token is computed: somebody has to give the logits."""
    first = engine.add(prompt(25), greedy(8))
    finish(engine, first)
    again = engine.add(prompt(25), greedy(8), after=first)
    assert again.n_computed == 24
    assert finish(engine, again) == [first.generated]


def test_a_prefix_is_handed_over_once(model: Any, engine: Engine) -> None:
    """A second heir finds nothing, and must not believe otherwise; nor after a release."""
    first = engine.add(prompt(25), greedy(3))
    finish(engine, first)
    heirs = [engine.add(prompt(30)[:n], greedy(6), after=first) for n in (30, 28)]
    expected = [alone(engine, prompt(30)[:n], greedy(6)) for n in (30, 28)]
    assert finish(engine, *heirs) == expected
    engine.release(heirs[0])
    third = engine.add(prompt(30), greedy(6), after=heirs[0])
    assert finish(engine, third) == [expected[0]]


class Failing:
    """A cluster whose worker leaves in the middle of one step."""

    def __init__(self, gather: Any, at: int) -> None:
        self.gather, self.left = gather, at

    def ffn(self, layer: int, tokens: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise HaloError("worker left")
        self.gather.ffn(layer, tokens)


@pytest.mark.parametrize("at", [1, 2, 8, 20])
def test_step_that_failed_can_be_tried_again(model: Any, engine: Engine, at: int) -> None:
    expected = [alone(engine, prompt(n, seed=n), greedy()) for n in (20, 140)]
    shaky = Engine(
        model.forward, Failing(model.gather, at), context=CONTEXT, end_tokens=frozenset()
    )
    sequences = [shaky.add(prompt(n, seed=n), greedy()) for n in (20, 140)]
    with pytest.raises(HaloError, match="worker left"):
        finish(shaky, *sequences)
    assert finish(shaky, *sequences) == expected


def test_full_cache(model: Any, engine: Engine) -> None:
    """Four times 280 tokens are more than 1024 cells."""
    sequences = [engine.add(prompt(280, seed=n), greedy(None)) for n in range(4)]
    with pytest.raises(HaloError, match=r"KV cache is full \(1024 cells\); use a larger --ctx"):
        finish(engine, *sequences)
    engine.release(sequences.pop(0))
    assert all(len(generated) == 20 for generated in finish(engine, *sequences))


def test_more_sequences_than_a_step_holds(tiny_model: Path, open_model: Any) -> None:
    small = open_model(tiny_model, max_tokens=4)
    engine = Engine(small.forward, small.gather, context=30, end_tokens=frozenset())
    sequences = [engine.add([n + 2, 5, 9], greedy(3)) for n in range(9)]
    expected = [alone(engine, [n + 2, 5, 9], greedy(3)) for n in range(9)]
    assert finish(engine, *sequences) == expected
