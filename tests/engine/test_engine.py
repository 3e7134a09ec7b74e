"""The decode loop: what a sequence gets does not depend on the others, or on how it was cut up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.engine.engine import MAX_RUNNING, PREFILL_CHUNK, Engine
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import KvCells, SequenceId
from halo_edge.engine.pace import MAX_ADDED_S, ROW_COUNTS
from halo_edge.engine.prefixes import MIN_REUSE
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import FinishReason, Sequence
from halo_edge.errors import HaloError

CONTEXT = 300
# How far logits may differ that were computed in other steps (see test_forward.py).
SAME = 0.01


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


def shortfall(model: Any, sequence: Sequence) -> float:
    """By how much, at most, a generated token's logit was below the likeliest one's, if they are
    all computed at once."""
    tokens, id, worst = sequence.tokens, SequenceId(1 << 20), 0.0
    for start in range(0, len(tokens) - 1, 100):
        chunk = tokens[start : min(start + 100, len(tokens) - 1)]
        logits = model.forward.step([Rows(id, chunk, start, len(chunk))], model.gather)
        for i, row in enumerate(logits, start):
            if i >= sequence.n_prompt - 1:
                worst = max(worst, float(row.max() - row[tokens[i + 1]]))
    model.forward.cells.release(id)
    return worst


def test_greedy_is_the_argmax_of_the_logits(model: Any, engine: Engine) -> None:
    tokens = prompt(20)
    generated = alone(engine, tokens, greedy(5))
    for i, token in enumerate(generated):
        assert token == int(model.fresh(tokens + generated[:i]).argmax())


def test_steps(engine: Engine) -> None:
    """A prompt's chunks bring nothing; the last brings the first token; then one a step. What a
    chunk has room for is another prompt's."""
    long, short = engine.add(prompt(PREFILL_CHUNK + 9), greedy(4)), engine.add(prompt(3), greedy(2))
    seen = [[new.sequence for new in engine.step()] for _ in range(6)]
    assert seen == [[], [long, short], [long, short], [long], [long], []]
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


@pytest.mark.parametrize("shared", [0, 15, 16, 40, 47, 48, 60])
def test_prefix_reuse(model: Any, engine: Engine, shared: int) -> None:
    """The next turn of a conversation: same tokens as without, and the common part for free."""
    spy = Spy(model.gather)
    chat = Engine(model.forward, spy, context=CONTEXT, end_tokens=frozenset())
    first = chat.add(prompt(40), greedy(9))
    finish(chat, first)  # 49 tokens, of which the last was never computed
    turn = (first.tokens + prompt(40, seed=1))[:shared] + prompt(20, seed=2)
    turn[shared] = 0 if shared < 49 and first.tokens[shared] != 0 else 1
    reused = min(shared, 48) if shared >= MIN_REUSE else 0
    spy.tokens = 0
    second = chat.add(turn, greedy(8))
    (generated,) = finish(chat, second)
    assert second.n_reused == reused
    assert spy.tokens == len(turn) - reused + 7
    chat.release(second)
    chat.release(first)
    assert model.forward.cells.n_free == 1024
    assert generated == alone(engine, turn, greedy(8))


def test_the_very_same_prompt_again(engine: Engine) -> None:
    """At least the last token is computed: somebody has to give the logits."""
    first = engine.add(prompt(25), greedy(8))
    finish(engine, first)
    again = engine.add(prompt(25), greedy(8))
    assert finish(engine, again) == [first.generated]
    assert again.n_reused == 24


def test_heirs_of_one_prefix(model: Any, engine: Engine) -> None:
    """One has the cells and the other a copy of them, whichever comes first; and nothing else."""
    prompts = [prompt(100) + prompt(n, seed=n) for n in (7, 9)]
    expected = [alone(engine, tokens, greedy(6)) for tokens in prompts]
    first = engine.add(prompt(100), greedy(3))
    finish(engine, first)
    heirs = [engine.add(tokens, greedy(6)) for tokens in prompts]
    assert finish(engine, *heirs) == expected
    assert [heir.n_reused for heir in heirs] == [100, 100]
    for sequence in (first, *heirs):
        engine.release(sequence)
    assert model.forward.cells.n_free == 1024


def test_the_same_prompt_several_times_is_computed_once(model: Any, engine: Engine) -> None:
    spy = Spy(model.gather)
    several = Engine(model.forward, spy, context=CONTEXT, end_tokens=frozenset())
    expected = alone(engine, prompt(200), greedy(5))
    sequences = [several.add(prompt(200), greedy(5)) for _ in range(4)]
    assert finish(several, *sequences) == [expected] * 4
    assert spy.tokens == 200 + 3 * 1 + 4 * 4
    assert [sequence.n_reused for sequence in sequences] == [0, 199, 199, 199]
    for sequence in sequences:
        several.release(sequence)


def test_a_system_prompt_is_copied_and_the_conversation_behind_it_stays(engine: Engine) -> None:
    system, talk = prompt(40), prompt(150, seed=1)
    first = engine.add(system + talk, greedy(2))
    finish(engine, first)
    other = engine.add(system + prompt(9, seed=2), greedy(2))
    finish(engine, other)
    assert other.n_reused == 40
    again = engine.add(first.tokens + prompt(5, seed=3), greedy(2))
    finish(engine, again)
    assert again.n_reused == 191


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


def test_kept_cells_are_given_up_when_there_is_no_room(model: Any, engine: Engine) -> None:
    """The one that was of no use for longest goes first."""
    kept = [engine.add(prompt(250, seed=n), greedy(2)) for n in range(4)]
    finish(engine, *kept)
    assert engine.n_cells_kept == engine.n_cells_used == 4 * 251
    finish(engine, engine.add(kept[0].tokens, greedy(2)))  # of use
    finish(engine, engine.add(prompt(250, seed=9), greedy(2)))
    reused = []
    for sequence in (kept[0], kept[2], kept[3], kept[1]):
        again = engine.add(sequence.tokens, greedy(1))
        finish(engine, again)
        reused.append(again.n_reused)
    assert reused == [251, 251, 251, 0]


def test_who_finds_no_room_waits(model: Any, engine: Engine) -> None:
    """Four times 280 tokens are more than 1024 cells: nobody fails, whatever has to be computed
    again; and the tokens are those that each gets alone, but for the rounding that comes with cells
    here and there."""
    sequences = [engine.add(prompt(280, seed=n), greedy(None)) for n in range(4)]
    engine.step()
    assert (engine.n_running, engine.n_waiting) == (3, 1)
    finish(engine, *sequences)
    model.forward.cells = KvCells(1024)
    for sequence in sequences:
        assert len(sequence.generated) == CONTEXT - 280
        assert shortfall(model, sequence) < SAME


def test_the_newest_is_computed_again_when_all_go_on_for_longer_than_foreseen(
    model: Any, engine: Engine
) -> None:
    """Five of 300 are admitted with less, and end as if they had been alone."""
    long = Engine(model.forward, model.gather, context=CONTEXT, end_tokens=frozenset())
    sequences = [long.add(prompt(20, seed=n), greedy(None)) for n in range(5)]
    most = 0
    while any(sequence.finish is None for sequence in sequences):
        long.step()
        most = max(most, long.n_running)
    assert most == 5
    for sequence in sequences:
        long.release(sequence)
    for sequence in sequences:  # so many tokens, a few of them nearly tied
        assert len(sequence.generated) == CONTEXT - 20
        assert shortfall(model, sequence) < SAME


def test_a_cancelled_sequence_leaves_in_a_step(model: Any, engine: Engine) -> None:
    decoding, prefilling = engine.add(prompt(5), greedy(None)), engine.add(prompt(200), greedy())
    waiting = [engine.add(prompt(4, seed=n), greedy(None)) for n in range(MAX_RUNNING)]
    engine.step()
    for sequence in (decoding, prefilling, *waiting):
        engine.release(sequence)
    assert (engine.n_running, engine.n_waiting) == (0, 0)
    assert model.forward.cells.n_free == 1024
    assert engine.step() == []


@pytest.mark.parametrize("seed", range(3))
def test_random_cancellations_leave_no_cells(model: Any, engine: Engine, seed: int) -> None:
    rng = np.random.default_rng(seed)
    alive: list[Sequence] = []
    for _ in range(170):
        tokens = prompt(int(rng.integers(1, 60)), int(rng.integers(4)))
        alive.append(engine.add(tokens, greedy(20), user=str(rng.integers(3))))
        if rng.random() < 0.6:
            engine.step()
        if rng.random() < 0.9:
            sequence = alive.pop(int(rng.integers(len(alive))))
            (engine.release if rng.random() < 0.5 else engine.end)(sequence)
        running = sum(s.n_computed for s in alive if s.finish is None)
        assert engine.n_cells_used == running + engine.n_cells_kept
    for sequence in alive:
        engine.end(sequence)
    assert engine.n_cells_used == engine.n_cells_kept
    assert (engine.n_running, engine.n_waiting) == (0, 0)


def test_a_user_with_one_request_does_not_wait_for_one_with_many(engine: Engine) -> None:
    """Neither for admission nor for a prompt to be computed."""
    many = [engine.add(prompt(250, seed=n), greedy(20), user="many") for n in range(30)]
    engine.step()
    one = engine.add(prompt(20, seed=99), greedy(3), user="one")
    steps = 0
    while one.finish is None:
        engine.step()
        steps += 1
    ended = sum(sequence.finish is not None for sequence in many)
    assert ended <= 3  # those who ran when it came
    for sequence in many:
        engine.release(sequence)


def test_prompts_of_several_users_get_on_by_turns(engine: Engine) -> None:
    a = [engine.add(prompt(250, seed=n), greedy(1), user="a") for n in range(2)]
    b = engine.add(prompt(250, seed=7), greedy(1), user="b")
    computed = []
    for _ in range(4):
        engine.step()
        computed.append([sequence.n_computed for sequence in (*a, b)])
    assert computed == [[128, 0, 0], [128, 0, 128], [250, 0, 134], [250, 12, 250]]


class Clock:
    """A step takes `fixed_s` and `row_s` for each row."""

    def __init__(self, gather: Any, fixed_s: float, row_s: float) -> None:
        self.gather, self.fixed_s, self.row_s, self.now_s = gather, fixed_s, row_s, 0.0
        self.rows: list[int] = []

    def ffn(self, layer: int, tokens: int) -> None:
        if layer == 0:
            self.now_s += self.fixed_s + self.row_s * tokens
            self.rows.append(tokens)
        self.gather.ffn(layer, tokens)


@pytest.mark.parametrize(
    ("row_s", "added_s"),
    [(0.0, MAX_ADDED_S), (0.001, MAX_ADDED_S), (0.01, MAX_ADDED_S), (0.06, MAX_ADDED_S), (0.06, 1)],
)
def test_a_long_prompt_does_not_stop_others(model: Any, row_s: float, added_s: float) -> None:
    """Somebody's tokens come at most so much later for it, and it gets on all the same."""
    clock = Clock(model.gather, 0.03, row_s)
    model.forward.cells = KvCells(1024)
    engine = Engine(
        model.forward,
        clock,
        context=800,
        end_tokens=frozenset(),
        max_added_s=added_s,
        clock=lambda: clock.now_s,
    )
    decoding = [engine.add(prompt(4, seed=n), greedy(None)) for n in range(2)]
    engine.step()
    engine.step()
    alone_s, rows = 0.03 + 2 * row_s, len(clock.rows)
    long = engine.add(prompt(250), greedy(1), user="b")
    while long.finish is None:
        before_s = clock.now_s
        assert {new.sequence for new in engine.step()} >= set(decoding)
        assert clock.now_s - before_s <= alone_s + added_s + 1e-9
    assert set(clock.rows[rows:-1]) <= set(ROW_COUNTS)
    fastest = int(min(128, (alone_s + added_s - 0.03) / max(row_s, 1e-9))) - 2
    assert len(clock.rows) - rows <= 1.7 * 250 / fastest + 8
    for sequence in (*decoding, long):
        engine.release(sequence)


class Even:
    """Only even tokens; 8 ends the text and may come from the third on."""

    def __init__(self) -> None:
        self.came: list[int] = []

    def allowed(self) -> NDArray[np.bool_]:
        allowed = np.zeros(512, np.bool_)
        allowed[::2] = True
        if len(self.came) >= 3:
            allowed[:] = False
            allowed[8] = True
        return allowed

    def accept(self, token: int) -> None:
        self.came.append(token)


def test_constraint(model: Any, engine: Engine) -> None:
    even = Even()
    ending = Engine(model.forward, model.gather, context=CONTEXT, end_tokens=frozenset({8}))
    sequence = ending.add(prompt(9), greedy(None), constraint=even)
    free = ending.add(prompt(9), greedy(5))
    finish(ending, sequence, free)
    assert sequence.finish is FinishReason.STOP
    assert sequence.generated == even.came
    assert even.came[-1] == 8
    assert all(token % 2 == 0 for token in even.came)
    ending.release(sequence)
    ending.release(free)
    assert free.generated == alone(engine, prompt(9), greedy(5))


class Nothing:
    def allowed(self) -> NDArray[np.bool_]:
        return np.zeros(512, np.bool_)

    def accept(self, token: int) -> None: ...


def test_who_cannot_go_on_fails_alone(engine: Engine) -> None:
    stuck = engine.add(prompt(9), greedy(), constraint=Nothing())
    other = engine.add(prompt(9, seed=1), greedy(5))
    finish(engine, other)
    assert stuck.finish is None
    assert "allows none" in str(stuck.error)
    assert engine.n_running == 0


def test_more_sequences_than_a_step_holds(make_model: Any, open_model: Any) -> None:
    small = open_model(make_model(quantization="f32"), max_tokens=4)
    engine = Engine(small.forward, small.gather, context=30, end_tokens=frozenset())
    sequences = [engine.add([n + 2, 5, 9], greedy(3)) for n in range(9)]
    expected = [alone(engine, [n + 2, 5, 9], greedy(3)) for n in range(9)]
    assert finish(engine, *sequences) == expected
