"""Damaged vocabularies give one-line errors; special ids are found as llama.cpp finds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.errors import HaloError
from halo_edge.model.tokenizer import Tokenizer
from halo_edge.model.vocabulary import Vocabulary, byte_value

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
KEYS = ("model", "tokens", "token_type", "scores", "merges", "pre", "bos_token_id", "eos_token_id",
        "eot_token_id", "unknown_token_id", "add_bos_token", "add_eos_token",
        "add_space_prefix")  # fmt: skip


def metadata(kind: str, **changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "model": kind,
        "tokens": ["<unk>", "<s>", "</s>", "<0x0A>", "a", "b", "ab"],
        "token_type": np.array([UNKNOWN, CONTROL, CONTROL, BYTE, NORMAL, NORMAL, NORMAL], np.int32),
        "scores": np.array([0, 0, 0, 0, -1, -2, -3], np.float32),
        "merges": ["a b"],
        "pre": "default",
    } | changes
    return {f"tokenizer.ggml.{k}": v for k, v in values.items() if v is not None}


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_the_undamaged_one(model: str) -> None:
    tokenizer = Tokenizer.from_gguf(metadata(model, add_space_prefix=False))
    assert tokenizer.encode("aba", add_special=False) == [6, 4]


@pytest.mark.parametrize("model", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "change",
    [
        {"model": None}, {"model": "bert"}, {"model": 7},
        {"tokens": None}, {"tokens": []}, {"tokens": "abc"}, {"tokens": [1, 2, 3]},
        {"tokens": ["a"] * 7}, {"tokens": np.zeros(7)},
        {"tokens": ["<unk>", "<s>", "</s>", "<0xZZ>", "a", "b", "ab"]},
        {"token_type": [1, 1]}, {"token_type": ["normal"] * 7}, {"token_type": 1},
        {"token_type": np.ones(7, np.float32)}, {"token_type": [[1], [1, 2]]},
        {"token_type": np.ones((7, 7), np.int32)},
        {"bos_token_id": 7}, {"bos_token_id": -1}, {"bos_token_id": "1"}, {"bos_token_id": True},
        {"eos_token_id": 10**30}, {"eot_token_id": 7}, {"unknown_token_id": 7},
        {"fim_pad_token_id": 7}, {"suffix_token_id": 7},
        {"add_bos_token": "yes"}, {"add_eos_token": 1},
    ],
)  # fmt: skip
def test_damage_is_a_one_line_error(model: str, change: dict[str, object]) -> None:
    changed = metadata(model, **change)
    with pytest.raises(HaloError) as caught:
        Tokenizer.from_gguf(changed)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("gpt2", {"merges": None}), ("gpt2", {"merges": "a b"}), ("gpt2", {"merges": [("a", "b")]}),
        ("gpt2", {"merges": ["ab"]}), ("gpt2", {"merges": ["b a"]}), ("gpt2", {"pre": 3}),
        ("llama", {"scores": None}), ("llama", {"scores": [0.0]}), ("llama", {"scores": ["0"] * 7}),
        ("llama", {"scores": [float("nan")] * 7}), ("llama", {"add_space_prefix": 1}),
    ],
)  # fmt: skip
def test_damage_to_one_kind(model: str, change: dict[str, object]) -> None:
    with pytest.raises(HaloError, match=next(iter(change))) as caught:
        Tokenizer.from_gguf(metadata(model, **change))
    assert "\n" not in str(caught.value)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
values = scalars | st.lists(scalars, max_size=9) | st.lists(st.text(max_size=3), max_size=9)


@given(st.sampled_from(["gpt2", "llama"]), st.dictionaries(st.sampled_from(KEYS), values))
def test_any_damage_is_an_error_for_people_or_none(model: str, changes: dict[str, Any]) -> None:
    try:
        tokenizer = Tokenizer.from_gguf(metadata(model, **changes))
    except HaloError as error:
        assert "\n" not in str(error)
    else:
        tokenizer.decode(tokenizer.encode("ab a\n"))


def test_end_of_generation_is_known_by_text_or_by_key() -> None:
    tokens = ["x", "<|im_end|>", "<|endoftext|>", "y", "<|repo_name|>", "<|fim_prefix|>", "z"]
    vocabulary = Vocabulary.from_gguf(
        metadata("gpt2", tokens=tokens, token_type=[NORMAL] * 7, eos_token_id=3, eot_token_id=6)
    )
    assert vocabulary.eog_ids == {1, 2, 3, 4, 6}
    # What looks like a control token is one, whatever the file says.
    assert [i for i, kind in enumerate(vocabulary.kinds) if kind == CONTROL] == [1, 2, 4, 5]


def test_a_key_overrules_the_texts_of_fill_in_middle_tokens() -> None:
    tokens = ["x", "<|fim_pad|>", "<|file_sep|>"]
    vocabulary = Vocabulary.from_gguf(
        metadata("gpt2", tokens=tokens, token_type=[NORMAL] * 3, fim_pad_token_id=0)
    )
    assert vocabulary.eog_ids == {0, 2}


def test_missing_kinds_and_empty_texts_are_tolerated_as_llama_cpp_does() -> None:
    tokens = ["", "a", ""]
    vocabulary = Vocabulary.from_gguf(metadata("gpt2", tokens=tokens, token_type=None))
    assert vocabulary.texts == ["[EMPTY_0]", "a", "[EMPTY_2]"]
    assert set(vocabulary.kinds) == {NORMAL}
    assert vocabulary.bos_id is None


def test_sentence_piece_has_its_own_default_ids() -> None:
    vocabulary = Vocabulary.from_gguf(metadata("llama"))
    assert (vocabulary.unknown_id, vocabulary.bos_id, vocabulary.eos_id) == (0, 1, 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [("<0x0A>", 10), ("<0xff>", 255), ("<0x0A", None), ("<0x >a", None), ("<0x  >", None),
     ("<0x0G>", None), ("[0x0A]", None), ("", None)],
)  # fmt: skip
def test_byte_value(text: str, value: int | None) -> None:
    assert byte_value(text) == value
