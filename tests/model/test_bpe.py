"""Byte-level BPE against llama.cpp.

`data/bpe_cases.json` holds a small vocabulary, trained without a pre-tokenizer so that its merges
cross every boundary a pre-tokenizer may draw, and the ids that llama.cpp (llama-cpp-python 0.3.36,
`vocab_only`) gave for it under each `tokenizer.ggml.pre`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halo_edge.errors import HaloError
from halo_edge.model.bpe import ByteLevelBpe, pre_tokenizer
from halo_edge.model.tokenizer import Tokenizer

DATA: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "bpe_cases.json").read_text(encoding="utf-8")
)


def tokenizer(pre: str | None) -> Tokenizer:
    names = ("tokens", "token_type", "merges", "bos_token_id", "eos_token_id")
    metadata = {f"tokenizer.ggml.{name}": DATA[name] for name in names}
    metadata["tokenizer.ggml.model"] = "gpt2"
    if pre is not None:
        metadata["tokenizer.ggml.pre"] = pre
    return Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "qwen2", "default"])
def test_ids_are_those_of_llama_cpp(pre: str) -> None:
    subject = tokenizer(pre)
    for case in DATA["cases"]:
        ids = case["ids"] if "ids" in case else case["ids_by_pre"][pre]
        assert subject.encode(case["text"], add_special=False) == ids, case["text"]


def test_special_tokens_are_those_of_llama_cpp() -> None:
    subject = tokenizer("smollm")
    cases = [case for case in DATA["cases"] if "ids_parse_special" in case]
    assert len(cases) > 10
    for case in cases:
        ids = subject.encode(case["text"], add_special=False, parse_special=True)
        assert ids == case["ids_parse_special"], case["text"]


@pytest.mark.parametrize(
    ("alias", "name"),
    [("llama3", "llama-bpe"), ("llama-v3", "llama-bpe"), ("deepseek-r1-qwen", "qwen2"),
     (None, "default")],
)  # fmt: skip
def test_other_names_of_a_pre_tokenizer(alias: str | None, name: str) -> None:
    one, other = tokenizer(alias), tokenizer(name)
    for case in DATA["cases"]:
        assert one.encode(case["text"]) == other.encode(case["text"])


def test_llama_bpe_begins_with_bos_unless_the_file_says_otherwise() -> None:
    assert tokenizer("llama-bpe").encode("")[:1] == [DATA["bos_token_id"]]
    assert tokenizer("qwen2").encode("") == []


def test_unknown_pre_tokenizer_names_the_known_ones() -> None:
    with pytest.raises(HaloError, match=r"'tekken'.*default, smollm, qwen2.*llama-bpe"):
        tokenizer("tekken")


@pytest.mark.parametrize("merge", ["ab", "a b c", " a", "a ", "", "a missing", "b a"])
def test_unusable_merge(merge: str) -> None:
    ids = {"a": 0, "b": 1, "ab": 2}
    with pytest.raises(HaloError, match="merges") as caught:
        ByteLevelBpe(ids, ["a b", merge], pre_tokenizer("default"))
    assert "\n" not in str(caught.value)


def test_a_merge_listed_twice_has_its_first_rank() -> None:
    ids = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4}
    subject = ByteLevelBpe(ids, ["a b", "b c", "a b"], pre_tokenizer("default"))
    assert subject.encode("abc", after_special=True) == [3, 2]


def test_token_that_is_not_spelled_in_the_byte_alphabet_stands_for_itself() -> None:
    subject = ByteLevelBpe({"a": 0}, [], pre_tokenizer("default"))
    assert subject.token_bytes("\u0120a\u010a") == b" a\n"
    assert subject.token_bytes("a b") == b"a b"
    assert subject.token_bytes("\u4e2d") == "\u4e2d".encode()
