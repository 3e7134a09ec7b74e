"""Token by token gives what decoding at once gives, and never half a character."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.errors import HaloError
from halo_edge.model.detokenizer import Detokenizer
from halo_edge.model.tokenizer import Tokenizer

DATA = Path(__file__).parent / "data"
KINDS = ["bpe", "spm_plain"]
id_lists = st.lists(st.integers(0, 600))  # every id of either vocabulary's lower part


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    found = {}
    for name in KINDS:
        data = json.loads((DATA / f"{name}_cases.json").read_text(encoding="utf-8"))
        keys = ("tokens", "token_type", "merges", "scores")
        metadata = {f"tokenizer.ggml.{key}": data[key] for key in keys if key in data}
        metadata["tokenizer.ggml.model"] = "gpt2" if name == "bpe" else "llama"
        found[name] = Tokenizer.from_gguf(metadata)
    return found


def stream(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*map(detokenizer.push, ids), detokenizer.flush()]


@pytest.mark.parametrize("kind", KINDS)
@given(ids=id_lists)
def test_any_tokens_give_the_text_of_all_their_bytes(
    tokenizers: dict[str, Tokenizer], kind: str, ids: list[int]
) -> None:
    tokenizer = tokenizers[kind]
    pieces = [tokenizer.token_bytes(i) for i in ids]
    if kind == "spm_plain" and pieces:
        pieces[0] = pieces[0].removeprefix(b" ")
    text = b"".join(pieces).decode("utf-8", "replace")
    assert "".join(stream(tokenizer.detokenizer(), ids)) == text == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd\u2581")))
def test_text_is_never_shown_by_half_characters(
    tokenizers: dict[str, Tokenizer], kind: str, text: str
) -> None:
    tokenizer = tokenizers[kind]
    shown = stream(tokenizer.detokenizer(), tokenizer.encode(text, add_special=False))
    assert "".join(shown) == text
    assert "\ufffd" not in "".join(shown)
    assert shown[-1] == ""


def test_a_character_is_shown_when_its_last_byte_comes() -> None:
    pieces = {0: b"a\xf0\x9f", 1: b"\x98", 2: b"\x80b"}
    detokenizer = Detokenizer(pieces.__getitem__, strip_space=False)
    assert [detokenizer.push(i) for i in (0, 1, 2)] == ["a", "", "\U0001f600b"]
    assert detokenizer.flush() == ""


def test_a_character_that_never_ends_is_replaced() -> None:
    detokenizer = Detokenizer({0: b"a\xf0\x9f"}.__getitem__, strip_space=False)
    assert detokenizer.push(0) == "a"
    assert detokenizer.flush() == "\ufffd"


def test_only_the_first_space_of_the_first_token_is_stripped(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["spm_plain"]
    ids = tokenizer.encode("the the", add_special=False)
    assert tokenizer.token_bytes(ids[0]).startswith(b" ")
    assert "".join(stream(tokenizer.detokenizer(), ids)) == "the the"
    assert "".join(stream(tokenizer.detokenizer(continues=True), ids)) == " the the"


def test_byte_level_text_keeps_its_first_space(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bpe"]
    assert "".join(stream(tokenizer.detokenizer(), tokenizer.encode(" the"))) == " the"


def test_no_such_token(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(HaloError):
        tokenizers["bpe"].detokenizer().push(10**6)
