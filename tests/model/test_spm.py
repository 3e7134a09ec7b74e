"""SentencePiece-style encoding against llama.cpp.

`data/spm_*_cases.json` hold what llama.cpp (llama-cpp-python 0.3.36, `vocab_only`) gave for: a
small SentencePiece BPE model with byte fallback (`plain`); the same without the space prefix and
with an end-of-text token (`noprefix`); and one with many equal scores and with merges whose parts
are no tokens (`ties`). `text_back` is its `llama_detokenize`, where that is not the text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halo_edge.model.spm import SentencePiece
from halo_edge.model.tokenizer import Tokenizer


def load(name: str) -> dict[str, Any]:
    path = Path(__file__).parent / "data" / f"spm_{name}_cases.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def tokenizer(name: str) -> Tokenizer:
    data = load("plain" if name == "noprefix" else name)
    metadata = {
        f"tokenizer.ggml.{key}": data[key] for key in ("tokens", "scores", "token_type")
    } | {"tokenizer.ggml.model": "llama"}
    if name == "noprefix":
        metadata["tokenizer.ggml.add_space_prefix"] = False
        metadata["tokenizer.ggml.add_bos_token"] = False
        metadata["tokenizer.ggml.add_eos_token"] = True
    return Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize("name", ["plain", "noprefix", "ties"])
def test_ids_and_texts_are_those_of_llama_cpp(name: str) -> None:
    subject, data = tokenizer(name), load(name)
    assert subject.eog_ids == set(data["eog_ids"])
    for case in data["cases"]:
        text, special = case["text"], case.get("ids_parse_special", case["ids"])
        assert subject.encode(text, add_special=False) == case["ids"], text
        assert subject.encode(text, add_special=False, parse_special=True) == special, text
        assert subject.decode(special) == case.get("text_back", text), text


def test_what_is_put_around_a_text() -> None:
    bos, eos = 1, 2
    assert tokenizer("plain").encode("") == [bos]
    assert tokenizer("noprefix").encode("") == [eos]
    assert tokenizer("noprefix").encode("", add_special=False) == []


def encoder(scores: dict[str, float]) -> SentencePiece:
    ids = {text: i for i, text in enumerate(scores)}
    return SentencePiece(ids, list(scores.values()), unknown_id=0, add_space_prefix=False)


def test_highest_score_first_then_leftmost() -> None:
    tokens = {"<unk>": 0.0, "a": 0.0, "b": 0.0, "ab": -2.0, "ba": -1.0}
    assert encoder(tokens).encode("aba", after_special=True) == [1, 4]
    assert encoder({**tokens, "ab": -1.0}).encode("aba", after_special=True) == [3, 1]


def test_parts_need_not_be_tokens_to_merge() -> None:
    assert encoder({"<unk>": 0.0, "xy": -1.0}).encode("xyx", after_special=True) == [1, 0]


def test_bytes_without_a_token_are_unknown() -> None:
    subject = encoder({"<unk>": 0.0, "<0xC3>": 0.0})
    assert subject.encode("\u00e9", after_special=True) == [1, 0]
