"""Tools: which models have them, and in which way; calls over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.serve.tool_templates import (
    ASKED_AND_TOLD,
    HELLO,
    HERMES,
    LLAMA,
    MISTRAL,
    QWEN,
    TIME,
    WEATHER,
)

from halo_edge.errors import HaloError
from halo_edge.model.chat_template import ChatTemplate
from halo_edge.serve.chat_schemas import Tool
from halo_edge.serve.hermes_calls import HermesFormat
from halo_edge.serve.llama_calls import LlamaFormat
from halo_edge.serve.tools import format_of, tool_variables


@pytest.fixture(scope="module", params=[HERMES, QWEN, LLAMA], ids=["hermes", "qwen", "llama"])
def api_with_tools(request: pytest.FixtureRequest, api_of: Any) -> Any:
    return api_of(request.param)


@pytest.mark.parametrize(
    ("template", "way"), [(HERMES, HermesFormat), (QWEN, HermesFormat), (LLAMA, LlamaFormat)]
)
def test_ways(api_of: Any, template: str, way: type) -> None:
    assert type(format_of(api_of(template).served)) is way


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ messages[0].content }}", "knows no tools"),
        ("{{ tools | tojson }}<tool_call>", "does not read"),  # calls of the past are left out
        (
            "{{ tools | tojson }}{% for m in messages %}{% for c in m.tool_calls or [] %}"
            "<tool_call>\n<function={{ c.function.name }}></function>\n</tool_call>"
            "{% endfor %}{% endfor %}",
            "does not read",
        ),
        (MISTRAL, "does not read"),
        ("{% if tools %}{{ raise_exception('not here') }}{% endif %}", "not here"),
        (
            "{{ tools | tojson }}{% if messages | length > 1 %}{{ raise_exception('a') }}"
            "{% endif %}",
            "does not read",
        ),
    ],
)
def test_why_there_are_none(api: Any, template: str, why: str) -> None:
    served = replace(api.served, template=ChatTemplate(template, api.served.tokenizer))
    with pytest.raises(HaloError, match=why):
        format_of(served)
    with pytest.raises(HaloError, match="no chat template"):
        format_of(replace(api.served, template=None))


def test_what_is_left_out_is_empty() -> None:
    assert tool_variables([Tool.model_validate(each) for each in (TIME, WEATHER)]) == [
        {
            "type": "function",
            "function": {
                "name": "time",
                "description": "",
                "parameters": {"type": "object", "properties": {}},
            },
        },
        WEATHER,
    ]


def test_models_without_are_told_neither_of_tools_nor_of_calls(api: Any) -> None:
    for fields in ({"messages": HELLO, "tools": [TIME]}, {"messages": [*HELLO, *ASKED_AND_TOLD]}):
        status, error = api.refusal("chat/completions", **fields)
        assert status == 400
        assert error["message"].startswith("no tools: ")


@pytest.mark.parametrize("seed", range(3))
def test_required_calls_are_exact(api_with_tools: Any, seed: int) -> None:
    body = api_with_tools.answer(
        "chat/completions",
        messages=HELLO,
        tools=[WEATHER],
        tool_choice="required",
        temperature=2,
        seed=seed,
    )
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert set(call) == {"id", "type", "function"}
    assert call["function"]["name"] == "weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["city"] in ("Paris", "Rome")
    assert arguments["days"] in (1, 2)


def test_a_named_tool_streamed(api_with_tools: Any) -> None:
    chunks = api_with_tools.events(
        "chat/completions",
        messages=HELLO,
        tools=[TIME, WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
    )
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    (calls,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert not any(delta.get("content") for delta in deltas)
    assert [call["index"] for call in calls] == [0]
    assert calls[0]["function"]["name"] == "weather"
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_model_is_told_of_tools_and_results(api_with_tools: Any) -> None:
    def prompt_tokens(**fields: Any) -> int:
        body = api_with_tools.answer("chat/completions", **fields, max_tokens=1, temperature=0)
        return int(body["usage"]["prompt_tokens"])

    plain = prompt_tokens(messages=HELLO)
    assert prompt_tokens(messages=HELLO, tools=[TIME]) > plain
    assert prompt_tokens(messages=HELLO, tools=[TIME], tool_choice="none") == plain
    assert prompt_tokens(messages=[*HELLO, *ASKED_AND_TOLD]) > plain
    assert prompt_tokens(messages=[*HELLO, *ASKED_AND_TOLD], tools=[TIME]) > plain


@pytest.mark.parametrize("seed", range(2))
def test_what_comes_of_itself_is_text_or_a_call(api_with_tools: Any, seed: int) -> None:
    for fields in ({}, {"parallel_tool_calls": False}):
        body = {"messages": HELLO, "tools": [WEATHER], "max_tokens": 8, "seed": seed, **fields}
        (choice,) = api_with_tools.answer("chat/completions", **body)["choices"]
        assert choice["message"]["content"] or choice["message"]["tool_calls"]


def test_a_template_may_refuse_what_was_called(api_of: Any) -> None:
    """As Llama's does."""
    asked, told = ASKED_AND_TOLD
    twice = {**asked, "tool_calls": asked["tool_calls"] * 2}
    status, error = api_of(LLAMA).refusal("chat/completions", messages=[*HELLO, twice, told])
    assert status == 400
    assert "one call at once" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "no"}}}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]"),
        (
            {"tools": [{**TIME, "function": {"name": "f", "parameters": {"type": "x"}}}]},
            "tools",
        ),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "1", "function": {"name": "f", "arguments": "no JSON"}}
                        ],
                    }
                ]
            },
            "messages[0].tool_calls",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(tools_api: Any, fields: Any, param: str) -> None:
    body = {"messages": HELLO, "tools": [TIME], "max_tokens": 4, **fields}
    status, error = tools_api.refusal("chat/completions", **body)
    assert status == 400, error
    assert error["param"].startswith(param)
