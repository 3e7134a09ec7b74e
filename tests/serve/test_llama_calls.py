"""Calls that are an answer by themselves: found in a text, and the grammar of answers."""

from __future__ import annotations

from typing import Any

import pytest

from halo_edge.model.chat_template import ToolCall
from halo_edge.serve.chat_schemas import FunctionDefinition
from halo_edge.serve.constraint import Grammars
from halo_edge.serve.llama_calls import LlamaFormat, LlamaReader
from halo_edge.serve.tool_calls import Calls

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
FUNCTIONS = [
    FunctionDefinition(name="weather", parameters={**CITY, "additionalProperties": False}),
    FunctionDefinition(name="time"),
]
CALL = '{"name": "time", "parameters": {"zone": {"name": "}"}}}'
ROME = '{"name": "weather", "parameters": {"city": "Rome"}}'


def read(text: str, step: int) -> tuple[str, list[ToolCall]]:
    reader, shown, calls = LlamaReader(), "", []
    for at in range(0, len(text), step):
        more, new = reader.push(text[at : at + step])
        shown, calls = shown + more, calls + new
    return shown + reader.flush(), calls


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_a_call_is_found_wherever_the_text_is_cut(step: int) -> None:
    assert read(CALL, step) == ("", [ToolCall("", "time", {"zone": {"name": "}"}})])


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        f"so: {CALL}",
        f"\n{CALL}",
        '{"name": "time"}',
        '{"name": "time", "arguments": {}}',
        '{"name": "time", "parameters": {}',
        '{"name": 1, "parameters": {}}',
        "{" * 10_000 + "}",
    ],
)
def test_what_is_no_call_is_text(text: str, step: int) -> None:
    assert read(text, step) == (text, [])


def test_text_is_shown_at_once() -> None:
    reader = LlamaReader()
    assert reader.push("") == ("", [])
    assert reader.push("so ") == ("so ", [])
    assert reader.push("{") == ("{", [])
    assert reader.flush() == ""


def follows(api: Any, calls: Calls, text: str) -> bool:
    """Whether the grammar lets this come, and end there."""
    tokenizer = api.served.tokenizer
    constraint = Grammars(api.served).matching(LlamaFormat().grammar(FUNCTIONS, calls))
    for token in tokenizer.encode(text, add_special=False):
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.allowed()[tokenizer.eos_id])


@pytest.mark.parametrize("calls", Calls)
@pytest.mark.parametrize("text", [CALL, ROME, "", "hello", f"so: {CALL}", "a\nb {"])
def test_what_may_come(api: Any, text: str, calls: Calls) -> None:
    assert follows(api, calls, text) == (calls is not Calls.ONE or text in (CALL, ROME))


@pytest.mark.parametrize("calls", Calls)
@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        CALL.replace("time", "clock"),
        ROME.replace("Rome", "Oslo"),
        ROME.replace("parameters", "arguments"),
        '{"type": "function", "name": "time", "parameters": {}}',
        f"{CALL}{CALL}",
        f"{CALL}; {CALL}",
        f" {CALL}",
    ],
)
def test_what_may_not(api: Any, text: str, calls: Calls) -> None:
    assert not follows(api, calls, text)
