"""Completions over HTTP, on a tiny model."""

from __future__ import annotations

from typing import Any

import pytest


def test_answer_has_openais_shape(api: Any) -> None:
    body = api.answer("completions", prompt="hello", temperature=0)
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert body["usage"]["completion_tokens"] == 16, "OpenAI's default"
    assert body["halo"]["devices"] == 1


def test_several_prompts_and_choices(api: Any) -> None:
    fields = {"temperature": 0, "max_tokens": 4, "n": 2}
    body = api.answer("completions", prompt=["one", "another"], **fields)
    texts = [choice["text"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    alone = [api.answer("completions", prompt=prompt, **fields) for prompt in ("one", "another")]
    prompt_tokens = sum(each["usage"]["prompt_tokens"] for each in alone)
    assert body["usage"]["prompt_tokens"] == prompt_tokens
    assert [each["choices"][0]["text"] for each in alone] == [texts[0], texts[2]]


def test_prompts_in_tokens(api: Any) -> None:
    tokens = api.served.tokenizer.encode("hello")
    fields = {"temperature": 0, "max_tokens": 4}
    texts = {
        api.answer("completions", prompt=prompt, **fields)["choices"][0]["text"]
        for prompt in ("hello", tokens, [tokens])
    }
    assert len(texts) == 1


def test_echo(api: Any) -> None:
    fields = {"prompt": "hello", "temperature": 0, "max_tokens": 3}
    text = api.answer("completions", **fields)["choices"][0]["text"]
    assert api.answer("completions", **fields, echo=True)["choices"][0]["text"] == "hello" + text
    chunks = api.events("completions", **fields, echo=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "hello" + text


def test_logprobs(api: Any) -> None:
    fields = {"prompt": "hello", "temperature": 0, "max_tokens": 6, "logprobs": 2}
    (choice,) = api.answer("completions", **fields)["choices"]
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == 6
    for token, value, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == value == max(top.values())
    offsets = [0]
    for token in logprobs["tokens"]:
        offsets.append(offsets[-1] + len(token))
    assert logprobs["text_offset"] == offsets[:-1]
    chunks = [chunk["choices"][0]["logprobs"] for chunk in api.events("completions", **fields)]
    for field in ("tokens", "token_logprobs", "text_offset"):
        assert [value for chunk in chunks for value in chunk[field]] == logprobs[field]
    only = api.answer("completions", **{**fields, "logprobs": 0})["choices"][0]["logprobs"]
    assert only["top_logprobs"] is None
    assert only["token_logprobs"] == logprobs["token_logprobs"]


def test_stream_says_what_the_whole_says(api: Any) -> None:
    fields = {"prompt": ["a", "b"], "max_tokens": 7, "seed": 3}
    whole = api.answer("completions", **fields)
    chunks = api.events("completions", **fields, stream_options={"include_usage": True})
    for index in (0, 1):
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert "".join(choice["text"] for choice in mine) == whole["choices"][index]["text"]
        assert mine[-1]["finish_reason"] == whole["choices"][index]["finish_reason"]
    assert chunks[-1]["choices"] == []
    for field in ("prompt_tokens", "completion_tokens"):
        assert chunks[-1]["usage"][field] == whole["usage"][field]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1 << 30]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
        ({"best_of": 4, "n": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused(api: Any, fields: Any, param: str) -> None:
    status, error = api.refusal("completions", **{"prompt": "hello", **fields})
    assert status == 400, error
    assert error["param"].startswith(param)
