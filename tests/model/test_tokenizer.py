"""The tokenizer of the demo model against llama.cpp, and what holds for any tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.tokenizer import Tokenizer

DATA = Path(__file__).parent / "data"


def load(name: str, **settings: object) -> Tokenizer:
    data = json.loads((DATA / f"{name}_cases.json").read_text(encoding="utf-8"))
    keys = ("tokens", "token_type", "merges", "scores", "bos_token_id", "eos_token_id")
    metadata = {f"tokenizer.ggml.{key}": data[key] for key in keys if key in data}
    return Tokenizer.from_gguf(
        metadata | {f"tokenizer.ggml.{key}": value for key, value in settings.items()}
    )


@pytest.fixture(scope="module")
def demo(demo_model: Path) -> Tokenizer:
    return Tokenizer.from_gguf(GgufFile.open(demo_model).metadata)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return load("bpe", model="gpt2", pre="smollm")


@pytest.fixture(scope="module")
def spm() -> Tokenizer:
    return load("spm_plain", model="llama")


def test_reference_strings_of_the_demo_model(demo: Tokenizer, shared_dir: Path) -> None:
    cases = json.loads((shared_dir / "reference" / "tokenize.json").read_text(encoding="utf-8"))
    assert len(cases) > 20
    for case in cases:
        text = case["text"]
        assert demo.encode(text, add_special=False) == case["ids"], text
        special = demo.encode(text, add_special=False, parse_special=True)
        assert special == case["ids_parse_special"], text
        assert demo.decode(special, skip_special=False) == text


def test_special_ids_of_the_demo_model(demo: Tokenizer) -> None:
    assert demo.vocab_size == 49152
    assert (demo.bos_id, demo.eos_id, demo.add_bos) == (1, 2, False)
    assert demo.eog_ids == {0, 2, 4}  # <|endoftext|>, <|im_end|>, <reponame>: llama.cpp's
    assert demo.token_bytes(2) == b""
    assert demo.token_bytes(2, special=True) == b"<|im_end|>"


def test_control_tokens_are_plain_text_unless_asked_for(bpe: Tokenizer) -> None:
    assert bpe.eos_id not in bpe.encode("<|im_end|>")
    assert bpe.encode("<|im_end|>", parse_special=True) == [bpe.eos_id]
    assert bpe.decode([1]) == ""
    assert bpe.decode([1], skip_special=False) == "<|im_end|>"


def test_user_defined_tokens_always_mean_themselves(bpe: Tokenizer, spm: Tokenizer) -> None:
    for tokenizer in (bpe, spm):
        (token,) = tokenizer.encode("user_defined_token", add_special=False)
        assert tokenizer.token_bytes(token) == b"user_defined_token"
        assert tokenizer.decode([token]) == "user_defined_token"


def test_the_longest_special_token_wins_over_the_leftmost() -> None:
    tokenizer = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": ["a", "b", "c", "d", "ab", "bcd"],
            "tokenizer.ggml.token_type": [1, 1, 1, 1, 4, 4],
            "tokenizer.ggml.merges": [],
        }
    )
    assert tokenizer.encode("abcdab") == [0, 5, 4]


@given(text=st.text())
def test_byte_level_text_survives(bpe: Tokenizer, text: str) -> None:
    for parse_special in (False, True):
        ids = bpe.encode(text, parse_special=parse_special)
        assert bpe.decode(ids, skip_special=False) == text


@given(text=st.text().filter(lambda text: "\u2581" not in text))
def test_sentence_piece_text_survives(spm: Tokenizer, text: str) -> None:
    assert spm.decode(spm.encode(text, add_special=False)) == text


def test_after_a_beginning_of_text_token_the_first_space_stays(spm: Tokenizer) -> None:
    ids = spm.encode("the")
    assert ids[0] == spm.bos_id
    assert spm.decode(ids) == " the"  # llama_detokenize's answer too
    assert spm.decode(ids[1:]) == "the"


def test_what_is_no_unicode_is_replaced(bpe: Tokenizer, spm: Tokenizer) -> None:
    argument = b"a\xffb".decode("utf-8", "surrogateescape")  # as Python hands over such an argument
    for tokenizer in (bpe, spm):
        assert tokenizer.decode(tokenizer.encode(argument, add_special=False)) == "a\ufffdb"


@pytest.mark.parametrize("token_id", [-1, 10**9])
def test_no_such_token(bpe: Tokenizer, token_id: int) -> None:
    with pytest.raises(HaloError, match="no token"):
        bpe.decode([token_id])


def test_without_a_bos_token_none_is_added() -> None:
    tokens = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe"}
    tokenizer = Tokenizer.from_gguf(
        tokens | {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.merges": []}
    )
    assert not tokenizer.add_bos
    assert tokenizer.encode("a") == [0]


def test_unsupported_kind_names_the_supported_ones() -> None:
    with pytest.raises(HaloError, match=r"'t5'.*gpt2 and llama"):
        Tokenizer.from_gguf({"tokenizer.ggml.model": "t5"})
