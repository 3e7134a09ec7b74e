"""Scoring a text: the same whatever the steps, and every scored position is shown to the judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.engine.perplexity import Perplexity, perplexity
from halo_edge.engine.windows import Scope, Window, cut, score, scored_positions
from halo_edge.errors import HaloError
from halo_edge.model.tokenizer import Tokenizer

TEXT = " ".join(f"the number {i} is followed by {i + 1}." for i in range(60))


@pytest.fixture(scope="module")
def model(make_model: Any, open_model: Any) -> Any:
    return open_model(make_model(quantization="f32"), cells=128, max_tokens=48)


@pytest.fixture(scope="module")
def tokenizer(model: Any) -> Tokenizer:
    return Tokenizer.from_gguf(model.gguf.metadata)


class Kept:
    """A judge that keeps everything."""

    def __init__(self) -> None:
        self.rows: list[NDArray[np.float32]] = []

    def judge(self, logits: NDArray[np.float32]) -> None:
        self.rows += list(logits.copy())


def test_cut(tokenizer: Tokenizer) -> None:
    whole = tokenizer.encode(TEXT, add_special=True)
    windows = cut(tokenizer, TEXT, Scope(16, first=2, windows=3))
    assert [len(window) for window in windows] == [16] * 3
    assert windows[0][1:] == whole[33:48]
    assert len(cut(tokenizer, TEXT, Scope(16))) == len(whole) // 16
    with pytest.raises(HaloError, match="--ctx must be at least 8"):
        cut(tokenizer, TEXT, Scope(7))
    with pytest.raises(HaloError, match="fewer than 1001 chunk"):
        cut(tokenizer, TEXT, Scope(16, first=1000))


def test_of_a_long_text_no_more_is_encoded_than_windows_take(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, asked = TEXT * 50, []
    whole = cut(tokenizer, text, Scope(16))
    encode = tokenizer.encode

    def told(part: str, *, add_special: bool) -> list[int]:
        asked.append(len(part))
        return encode(part, add_special=add_special)

    monkeypatch.setattr(tokenizer, "encode", told)
    assert cut(tokenizer, text, Scope(16, first=3, windows=5)) == whole[3:8]
    assert len(asked) == 1 and asked[0] < len(text) / 10
    assert cut(tokenizer, text, Scope(16, first=3, windows=10**6)) == whole[3:]


@pytest.mark.parametrize("step_tokens", [None, 1, 5, 48, 1000])
def test_steps_change_nothing(model: Any, tokenizer: Tokenizer, step_tokens: int | None) -> None:
    """Each scored position is judged once, in order, however the window was cut up."""
    windows = cut(tokenizer, TEXT, Scope(64, windows=1))
    whole, kept, free = Kept(), Kept(), model.forward.cells.n_free
    (once,) = score(model.forward, model.gather, windows, judges=[whole])
    (again,) = score(
        model.forward, model.gather, windows, step_tokens=step_tokens, judges=[kept],
        clock=iter(range(1000)).__next__,
    )  # fmt: skip
    assert len(once.losses) == len(kept.rows) == scored_positions(64)
    np.testing.assert_allclose(again.losses, once.losses, atol=1e-3)
    np.testing.assert_allclose(kept.rows, whole.rows, atol=1e-2)
    assert again.steps_s == (1,) * -(-64 // min(step_tokens or 48, 48))
    assert model.forward.cells.n_free == free


def test_perplexity_is_of_all_windows(model: Any, tokenizer: Tokenizer) -> None:
    """As its definition has it, and running."""
    *_, last = running = list(
        perplexity(model.forward, model.gather, tokenizer, TEXT, Scope(64, windows=3))
    )
    assert [figure.chunks for figure in running] == [1, 2, 3]
    assert last.tokens == 3 * scored_positions(64)
    losses = np.log([2.0, 8.0])
    assert Perplexity.of([Window(losses, ())]).ppl == pytest.approx(4)
    assert 0 < last.stderr < last.ppl


def test_the_reference(open_model: Any, demo_model: Path, shared_dir: Path) -> None:
    """The first window of WikiText-2, as llama.cpp with f32 weights scores it."""
    text = (shared_dir / "data" / "wikitext2_valid_head.txt").read_text()
    model = open_model(demo_model, cells=512, max_tokens=128, threads=2)
    tokenizer = Tokenizer.from_gguf(model.gguf.metadata)
    (found,) = perplexity(model.forward, model.gather, tokenizer, text, Scope(512, windows=1))
    assert found.ppl == pytest.approx(16.3567, rel=0.01)
