"""Tools: which models have them, calls found in a text, and calls over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halo_edge.model.chat_template import ToolCall
from halo_edge.serve.chat_schemas import Tool
from halo_edge.serve.constraint import Grammars
from halo_edge.serve.tools import ToolReader, grammar, why_no_tools

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
HELLO = [{"role": "user", "content": "hello"}]
CALL = '<tool_call>\n{"name": "time", "arguments": {"zone": "UTC"}}\n</tool_call>'


def test_why_no_tools(api: Any, tools_api: Any) -> None:
    assert "knows no tools" in why_no_tools(api.served)
    assert why_no_tools(tools_api.served) is None


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_calls_are_found_wherever_the_text_is_cut(step: int) -> None:
    text = f"a <tool b {CALL}{CALL} c"
    reader, shown, calls = ToolReader(), "", []
    for at in range(0, len(text), step):
        more, new = reader.push(text[at : at + step])
        shown, calls = shown + more, calls + new
    assert shown + reader.flush() == "a <tool b  c"
    assert calls == [ToolCall("", "time", {"zone": "UTC"})] * 2


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nno JSON\n</tool_call>",
        '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": []}</tool_call>',
        "<tool_call>" + "[" * 10_000 + "</tool_call>",
        '<tool_call>{"name": "f", "argu',
        "ends with <tool_ca",
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    reader = ToolReader()
    shown, calls = reader.push(text)
    assert shown + reader.flush() == text
    assert not calls


def follows(api: Any, text: str) -> bool:
    """Whether the grammar for "auto" lets this come, and end there."""
    tokenizer = api.served.tokenizer
    tools = [Tool.model_validate(tool) for tool in (WEATHER, TIME)]
    constraint = Grammars(api.served).matching(grammar(tools, "auto"))
    for token in tokenizer.encode(text, add_special=False):
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.allowed()[tokenizer.eos_id])


def test_what_may_come_of_itself(tools_api: Any) -> None:
    rome = '{"name": "weather", "arguments": {"city": "Rome", "days": 2}}'
    for text in (
        "",
        "hello < you",
        CALL,
        f"so: {CALL} and {CALL}",
        f"<tool_call>\n{rome}\n</tool_call>",
    ):
        assert follows(tools_api, text), text
    for text in (
        "<tool_call>",
        CALL.replace("time", "clock"),
        f"<tool_call>\n{rome.replace('Rome', 'Oslo')}\n</tool_call>",
        f"<tool_call>\n{rome}",
    ):
        assert not follows(tools_api, text), text


@pytest.mark.parametrize("seed", range(3))
def test_required_calls_are_exact(tools_api: Any, seed: int) -> None:
    body = tools_api.answer(
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


def test_a_named_tool_streamed(tools_api: Any) -> None:
    chunks = tools_api.events(
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


def test_the_model_is_told_of_tools_and_results(tools_api: Any) -> None:
    def prompt_tokens(**fields: Any) -> int:
        body = tools_api.answer("chat/completions", **fields, max_tokens=1, temperature=0)
        return int(body["usage"]["prompt_tokens"])

    plain = prompt_tokens(messages=HELLO)
    assert prompt_tokens(messages=HELLO, tools=[TIME]) > plain
    assert prompt_tokens(messages=HELLO, tools=[TIME], tool_choice="none") == plain
    call = {"id": "c", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    told = {"role": "tool", "tool_call_id": "c", "content": "noon"}
    assert prompt_tokens(messages=[*HELLO, asked, told]) > plain


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
