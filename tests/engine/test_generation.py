"""From a prompt to text, with stop strings and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from halo_edge.engine.engine import Engine
from halo_edge.engine.generation import Generation, Generator
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import FinishReason
from halo_edge.errors import HaloError
from halo_edge.model.detokenizer import Detokenizer
from halo_edge.model.tokenizer import Tokenizer

CONTEXT = 64
MakeGenerator = Callable[..., Generator]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path, open_model: Any) -> Tokenizer:
    return Tokenizer.from_gguf(open_model(tiny_model).gguf.metadata)


@pytest.fixture
def make_generator(tiny_model: Path, open_model: Any, tokenizer: Tokenizer) -> MakeGenerator:
    """With the seconds 0, 1, 2, ... for a clock."""

    def make(end_tokens: frozenset[int] = frozenset()) -> Generator:
        model = open_model(tiny_model)
        engine = Engine(model.forward, model.gather, context=CONTEXT, end_tokens=end_tokens)
        ticks: Iterator[int] = count()
        return Generator(engine, tokenizer, clock=lambda: float(next(ticks)))

    return make


def run(generator: Generator, prompt: list[int], **params: Any) -> tuple[Generation, list[str]]:
    settings = SamplingParams(**{"temperature": 0, "max_tokens": 12, **params})
    generation = generator.start(prompt, settings)
    pieces = list(generator.run(generation))
    assert "".join(pieces) == generation.text
    assert "" not in pieces
    return generation, pieces


PROMPT = [5, 77, 300, 9]


def test_text_is_that_of_the_tokens(make_generator: MakeGenerator, tokenizer: Tokenizer) -> None:
    generation, pieces = run(make_generator(), PROMPT)
    ids = [sampled.token_id for sampled in generation.tokens]
    assert ids == generation.sequence.generated
    assert len(ids) == 12
    detokenizer = tokenizer.detokenizer(continues=True)
    expected = "".join(detokenizer.push(id) for id in ids) + detokenizer.flush()
    assert generation.text == expected
    assert expected.strip()
    assert generation.finish is FinishReason.LENGTH
    assert len(pieces) > 1


def test_figures(make_generator: MakeGenerator) -> None:
    """The clock is read once at the start and once a token, so each takes a second."""
    generation, _ = run(make_generator(), PROMPT, max_tokens=5)
    assert generation.ttft_ms == 1000
    assert generation.tpot_ms == 1000
    generation, _ = run(make_generator(), PROMPT, max_tokens=1)
    assert (generation.ttft_ms, generation.tpot_ms) == (1000, None)
    unstarted = make_generator().start(PROMPT, SamplingParams())
    assert (unstarted.ttft_ms, unstarted.tpot_ms, unstarted.finish) == (None, None, None)


@pytest.mark.parametrize("split", [False, True])
def test_stop_string(make_generator: MakeGenerator, split: bool) -> None:
    """In one token, and over the edge of two. Nothing of it is shown, or computed behind it."""
    free, pieces = run(make_generator(), PROMPT)
    place = next(i for i in range(3, 9) if len(pieces[i]) > 2 and len(pieces[i - 1]) > 1)
    edge = len("".join(pieces[:place]))
    stop = free.text[edge - 2 : edge + 2] if split else pieces[place][1:]
    expected = free.text[: free.text.index(stop)]
    generation, _ = run(make_generator(), PROMPT, stop=(stop,))
    assert generation.text == expected
    assert generation.finish is FinishReason.STOP
    assert len(generation.tokens) < len(free.tokens)
    assert generation.tokens == free.tokens[: len(generation.tokens)]


def test_half_a_stop_string_at_the_end_is_shown(make_generator: MakeGenerator) -> None:
    free, _ = run(make_generator(), PROMPT)
    generation, _ = run(make_generator(), PROMPT, stop=(free.text[-3:] + "x",))
    assert generation.text == free.text
    assert generation.finish is FinishReason.LENGTH


def test_end_token_ends_and_is_not_shown(
    make_generator: MakeGenerator, tokenizer: Tokenizer
) -> None:
    free, _ = run(make_generator(), PROMPT)
    end = free.tokens[5].token_id
    first = [sampled.token_id for sampled in free.tokens].index(end)
    generation, _ = run(make_generator(frozenset({end})), PROMPT)
    assert [t.token_id for t in generation.tokens] == [t.token_id for t in free.tokens[: first + 1]]
    assert generation.finish is FinishReason.STOP
    # A real end token is a control token, which stands for no text.
    assert all(tokenizer.token_bytes(id) == b"" for id in tokenizer.eog_ids)


def test_end_of_the_context(make_generator: MakeGenerator) -> None:
    generation, _ = run(make_generator(), PROMPT, max_tokens=None)
    assert len(generation.tokens) == CONTEXT - len(PROMPT)
    assert generation.finish is FinishReason.LENGTH


def test_logprobs(make_generator: MakeGenerator) -> None:
    generation, _ = run(make_generator(), PROMPT, logprobs=2, max_tokens=3)
    for sampled in generation.tokens:
        assert sampled.top_logprobs[0] == (sampled.token_id, sampled.logprob)
        assert len(sampled.top_logprobs) == 2


def test_next_turn(make_generator: MakeGenerator) -> None:
    """The text of a turn that reuses the one before is that of the whole prompt afresh."""
    generator, prompt = make_generator(), [*PROMPT, *range(20, 36)]
    first, _ = run(generator, prompt, max_tokens=6)
    turn = [*first.sequence.tokens, 8, 10, 300]
    params = SamplingParams(temperature=0, max_tokens=6)
    second = generator.start(turn, params)
    fresh, pieces = run(make_generator(), turn, max_tokens=6)
    assert list(generator.run(second)) == pieces
    assert second.sequence.n_reused == len(prompt) + 5
    assert second.text == fresh.text


def test_leaving_in_the_middle(make_generator: MakeGenerator) -> None:
    """Whoever stops listening (Ctrl-C) leaves an engine that goes on with something else."""
    generator = make_generator()
    expected, _ = run(make_generator(), [3, 4])
    abandoned = generator.start(PROMPT, SamplingParams(temperature=0))
    stream = generator.run(abandoned)
    next(stream)
    stream.close()
    generation, _ = run(generator, [3, 4])
    assert generation.text == expected.text
    assert abandoned.finish is None


class SentencePieceLike:
    """Every token is a word with its space, as SentencePiece has it."""

    def detokenizer(self, *, continues: bool = False) -> Detokenizer:
        return Detokenizer(lambda id: b" %d" % id, strip_space=not continues)


def test_space_before_the_first_word(tiny_model: Path, open_model: Any) -> None:
    """The text goes on from the prompt's, so that space belongs to it."""
    model = open_model(tiny_model)
    engine = Engine(model.forward, model.gather, context=CONTEXT, end_tokens=frozenset())
    words: Any = SentencePieceLike()
    generation, _ = run(Generator(engine, words), PROMPT, max_tokens=3)
    assert generation.text == "".join(f" {id}" for id in generation.sequence.generated)


def test_bad_prompt(make_generator: MakeGenerator) -> None:
    with pytest.raises(HaloError, match="context holds 64"):
        make_generator().start([1] * 64, SamplingParams())
