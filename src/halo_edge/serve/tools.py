"""Tool calls, for models whose template describes tools and has them called as Hermes and Qwen do:

    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call>

Of other models' ways none is guessed at. Calls are under a grammar (`constraint`), so that every
one names a tool that there is, with arguments of its schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from llguidance import StructTag

from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message, ToolCall
from halo_edge.serve.chat_schemas import FunctionDefinition, NamedTool, Tool
from halo_edge.serve.constraint import bounded
from halo_edge.serve.served import Served

_BEGIN: Final = "<tool_call>"
_END: Final = "</tool_call>"
_PROBE: Final = "halo_probe"
_WHITESPACE: Final = r"\x20?"
"""As models are trained to write calls."""


def why_no_tools(served: Served) -> str | None:
    """Why this model can be given no tools, or None if it can."""
    if served.template is None:
        return f"{served.name} has no chat template"
    probe = {"type": "function", "function": {"name": _PROBE, "description": "", "parameters": {}}}
    try:
        text = served.template.render([Message("user", "hello")], tools=[probe])
    except HaloError as error:
        return str(error)
    if _PROBE not in text:
        return f"the chat template of {served.name} knows no tools"
    if _BEGIN not in text or not _is_text(served, _BEGIN) or not _is_text(served, _END):
        return f"{served.name} calls tools in a way that this server does not read"
    return None


def _is_text(served: Served, mark: str) -> bool:
    """Whether it is seen in what the model says: control tokens are not."""
    tokens = served.tokenizer.encode(mark, add_special=False, parse_special=True)
    return mark in served.tokenizer.decode(tokens)


def tool_variables(tools: Sequence[Tool]) -> list[Mapping[str, object]]:
    """As templates know them."""
    return [tool.model_dump(exclude_none=True) for tool in tools]


def grammar(tools: Sequence[Tool], choice: str | NamedTool) -> str:
    """Of an answer: for "auto" text, with calls in it; for "required" one call, for a named tool
    one of that. Raises `HaloError` for a name that is not among `tools`."""
    functions = [tool.function for tool in tools]
    if isinstance(choice, NamedTool):
        functions = [each for each in functions if each.name == choice.function.name]
        if not functions:
            raise HaloError(f"there is no tool {choice.function.name!r} among the tools")
    if choice == "auto":
        tags = [
            StructTag(
                trigger=_BEGIN,
                begin=f"{_BEGIN}\n{_call_begin(function)}",
                grammar=_arguments(function),
                end=f"}}\n{_END}",
            )
            for function in functions
        ]
        return str(StructTag.to_grammar(tags, assume_special=False))
    calls = [
        f"{json.dumps(_call_begin(each))} %json {json.dumps(_arguments(each))}"
        for each in functions
    ]
    return "\n".join(
        [
            f"start: {json.dumps(_BEGIN + chr(10))} call {json.dumps('}' + chr(10) + _END)}",
            f"call: {' | '.join(f'call_{i}' for i in range(len(calls)))}",
            *(f"call_{i}: {call}" for i, call in enumerate(calls)),
        ]
    )


def _call_begin(function: FunctionDefinition) -> str:
    return f'{{"name": {json.dumps(function.name)}, "arguments": '


def _arguments(function: FunctionDefinition) -> dict[str, object]:
    return bounded({"type": "object", **(function.parameters or {})}, _WHITESPACE)


class ToolReader:
    """Takes the text of an answer piece by piece, and finds the calls in it."""

    def __init__(self) -> None:
        self._held = ""
        self._calling = False

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """The text that is certainly none of a call, and the calls that are complete."""
        self._held += text
        shown, calls = "", []
        while True:
            mark = _END if self._calling else _BEGIN
            at = self._held.find(mark)
            if at < 0:
                break
            before, self._held = self._held[:at], self._held[at + len(mark) :]
            if not self._calling:
                shown += before
            elif (call := _parsed(before)) is not None:
                calls.append(call)
            else:  # nothing that the grammar lets pass; let it be seen
                shown += _BEGIN + before + _END
            self._calling = not self._calling
        if not self._calling:
            cut = len(self._held) - _begun(self._held)
            shown, self._held = shown + self._held[:cut], self._held[cut:]
        return shown, calls

    def flush(self) -> str:
        """What was held: the answer has ended, and this will be no call."""
        held, self._held = self._held, ""
        return _BEGIN + held if self._calling else held


def _begun(text: str) -> int:
    """Characters at the end of `text` that a call may begin with."""
    return next((n for n in range(len(_BEGIN) - 1, 0, -1) if text.endswith(_BEGIN[:n])), 0)


def _parsed(text: str) -> ToolCall | None:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments")
    return ToolCall("", call["name"], arguments) if isinstance(arguments, dict) else None
