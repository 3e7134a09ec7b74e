"""Chats over HTTP, on a tiny model."""

from __future__ import annotations

from typing import Any

import pytest

# To this the tiny model's first tokens are no ties: they are the same whatever is in the cache.
HELLO = [{"role": "user", "content": "where"}]


def test_answer_has_openais_shape(api: Any) -> None:
    body = api.answer("chat/completions", messages=HELLO, max_tokens=5, temperature=0)
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny"
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["refusal"] is None
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    usage = body["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    expected = {"nats", "fidelity", "recovered", "filled", "taken_over", "devices"}
    assert set(body["halo"]) == expected
    assert body["halo"]["devices"] == 1
    assert body["halo"]["fidelity"] == 1


def test_same_seed_same_text(api: Any) -> None:
    fields = {"messages": HELLO, "max_tokens": 12, "seed": -7, "temperature": 2}
    texts = {
        api.answer("chat/completions", **fields)["choices"][0]["message"]["content"]
        for _ in range(2)
    }
    assert len(texts) == 1
    other = api.answer("chat/completions", **{**fields, "seed": 8})
    assert other["choices"][0]["message"]["content"] not in texts


def test_the_choices_of_one_seed_differ(api: Any) -> None:
    body = api.answer("chat/completions", messages=HELLO, max_tokens=12, seed=1, n=3, temperature=2)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 3
    assert 12 < body["usage"]["completion_tokens"] <= 36
    alone = api.answer("chat/completions", messages=HELLO, max_tokens=12, seed=1, temperature=2)
    assert alone["usage"]["prompt_tokens"] == body["usage"]["prompt_tokens"]


def test_stream_says_what_the_whole_says(api: Any) -> None:
    fields = {"messages": HELLO, "max_tokens": 9, "seed": 5, "n": 2}
    whole = api.answer("chat/completions", **fields)
    chunks = api.events("chat/completions", **fields)
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks)
    assert [i for i, chunk in enumerate(chunks) if "halo" in chunk] == [len(chunks) - 1]
    for index in (0, 1):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert mine[-1]["delta"] == {}
        finish = whole["choices"][index]["finish_reason"]
        assert [c["finish_reason"] for c in mine] == [None] * (len(mine) - 1) + [finish]
        text = "".join(choice["delta"].get("content", "") for choice in mine)
        assert text == whole["choices"][index]["message"]["content"]


def test_usage_comes_last_where_it_is_asked_for(api: Any) -> None:
    options = {"include_usage": True}
    chunks = api.events(
        "chat/completions", messages=HELLO, max_tokens=3, temperature=0, stream_options=options
    )
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert chunks[-1]["halo"]["devices"] == 1


def test_logprobs(api: Any) -> None:
    fields = {"messages": HELLO, "max_tokens": 4, "temperature": 0, "logprobs": True}
    body = api.answer("chat/completions", **fields, top_logprobs=3)
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == 4
    for entry in content:
        assert entry["logprob"] == max(top["logprob"] for top in entry["top_logprobs"]) < 0
        assert len(entry["top_logprobs"]) == 3
        assert bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
    streamed = api.events("chat/completions", **fields)
    entries = [
        entry
        for chunk in streamed
        if chunk["choices"][0]["logprobs"]
        for entry in chunk["choices"][0]["logprobs"]["content"]
    ]
    assert [entry["token"] for entry in entries] == [entry["token"] for entry in content]
    assert all(entry["top_logprobs"] == [] for entry in entries)


def test_content_in_parts_is_text(api: Any) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    fields = {"max_tokens": 1, "temperature": 0}
    body = api.answer("chat/completions", messages=[{"role": "user", "content": parts}], **fields)
    lines = api.answer(
        "chat/completions", messages=[{"role": "user", "content": "hel\nlo"}], **fields
    )
    assert body["choices"] == lines["choices"]
    assert body["usage"]["prompt_tokens"] == lines["usage"]["prompt_tokens"]


def test_an_answer_can_be_sent_back(api: Any) -> None:
    message = api.answer("chat/completions", messages=HELLO, max_tokens=4)["choices"][0]["message"]
    kept = message | {"annotations": None, "audio": None, "function_call": None}
    messages = [*HELLO, kept, *HELLO]
    body = api.answer("chat/completions", messages=messages, max_tokens=1)
    assert body["usage"]["completion_tokens"] == 1


def test_harmless_fields_are_taken(api: Any) -> None:
    fields = {
        "model": "tiny",
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "modalities": ["text"],
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "logit_bias": None,
        "stop": None,
        "tools": None,
        "halo": {"kl_budget": "strict"},
    }
    assert api.answer("chat/completions", messages=HELLO, max_tokens=1, **fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"foo": 1}, "foo"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"store": True}, "store"),
        ({"n": 0}, "n"),
        ({"n": 100}, "n"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stop": ""}, "stop"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"functions": []}, "functions"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"stream_options": {"continuous_usage_stats": True}}, "stream_options"),
        ({"halo": {"kl_budget": -1}}, "halo.kl_budget"),
        ({"halo": {"kl_budget": "lax"}}, "halo.kl_budget"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0]"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "", "tool_call_id": "1"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(api: Any, fields: Any, param: str) -> None:
    status, error = api.refusal("chat/completions", **{"messages": HELLO, **fields})
    assert status == 400, error
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert error["message"]


def test_another_model(api: Any) -> None:
    status, error = api.refusal("chat/completions", messages=HELLO, model="gpt-4")
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize("times", [400, 1_000_000])
def test_too_long(api: Any, times: int) -> None:
    messages = [{"role": "user", "content": "x" * times}]
    status, error = api.refusal("chat/completions", messages=messages)
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == "messages"


def test_stop(api: Any) -> None:
    """Of a text that is known beforehand, as the grammar leaves nothing else."""
    schema = {"name": "words", "schema": {"const": "one two three"}}
    fields = {"response_format": {"type": "json_schema", "json_schema": schema}}
    for stop, text in ((None, '"one two three"'), ("wo", '"one t'), (["x", "e t", "o"], '"')):
        (choice,) = api.answer("chat/completions", messages=HELLO, stop=stop, **fields)["choices"]
        assert choice["message"]["content"] == text
        assert choice["finish_reason"] == "stop"
