"""Calls in <tool_call>: found in a text, and the grammar of answers."""

from __future__ import annotations

from typing import Any

import pytest

from halo_edge.model.chat_template import ToolCall
from halo_edge.serve.chat_schemas import FunctionDefinition
from halo_edge.serve.constraint import Grammars
from halo_edge.serve.hermes_calls import HermesFormat, HermesReader
from halo_edge.serve.tool_calls import Calls

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
FUNCTIONS = [
    FunctionDefinition(name="weather", parameters={**CITY, "additionalProperties": False}),
    FunctionDefinition(name="time"),
]
CALL = '<tool_call>\n{"name": "time", "arguments": {"zone": "UTC"}}\n</tool_call>'
ROME = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_calls_are_found_wherever_the_text_is_cut(step: int) -> None:
    text = f"a <tool b {CALL}{CALL} c"
    reader, shown, calls = HermesReader(), "", []
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
        '<tool_call>{"name": "f", "parameters": {}}</tool_call>',
        "<tool_call>" + "[" * 10_000 + "</tool_call>",
        '<tool_call>{"name": "f", "argu',
        "ends with <tool_ca",
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    reader = HermesReader()
    shown, calls = reader.push(text)
    assert shown + reader.flush() == text
    assert not calls


def follows(api: Any, calls: Calls, text: str) -> bool:
    """Whether the grammar lets this come, and end there."""
    tokenizer = api.served.tokenizer
    constraint = Grammars(api.served).matching(HermesFormat().grammar(FUNCTIONS, calls))
    for token in tokenizer.encode(text, add_special=False):
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.allowed()[tokenizer.eos_id])


@pytest.mark.parametrize(
    ("text", "how_many"),
    [
        ("", 0),
        ("hello < you", 0),
        ('{"name": "time"}', 0),
        (CALL, 1),
        (f"so: {ROME}", 1),
        (f"so: {CALL} and {CALL}", 2),
        (CALL + ROME, 2),
    ],
)
def test_what_may_come(api: Any, text: str, how_many: int) -> None:
    assert follows(api, Calls.ANY, text)
    assert follows(api, Calls.ONE_AT_MOST, text) == (how_many <= 1)
    assert follows(api, Calls.ONE, text) == (text in (CALL, ROME))


@pytest.mark.parametrize("calls", Calls)
@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        CALL.replace("time", "clock"),
        ROME.replace("Rome", "Oslo"),
        ROME.replace("arguments", "parameters"),
        ROME.removesuffix("</tool_call>"),
    ],
)
def test_what_may_not(api: Any, text: str, calls: Calls) -> None:
    assert not follows(api, calls, text)
