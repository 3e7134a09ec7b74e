"""Calls as Hermes and Qwen 2.5 and 3 make them, any number of them, anywhere in an answer:

<tool_call>
{"name": "weather", "arguments": {"city": "Paris"}}
</tool_call>
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from halo_edge.model.chat_template import ToolCall
from halo_edge.serve.chat_schemas import FunctionDefinition
from halo_edge.serve.tool_calls import Calls, object_rules, parsed

BEGIN: Final = "<tool_call>"
END: Final = "</tool_call>"
KEY: Final = "arguments"
_START: Final = {
    Calls.ANY: "said_and_called* said",
    Calls.ONE_AT_MOST: "said_and_called | said",
    Calls.ONE: f"{json.dumps(BEGIN)} call",
}


class HermesFormat:
    """A `CallFormat`."""

    def grammar(self, functions: Sequence[FunctionDefinition], calls: Calls) -> str:
        return "\n".join(
            [
                "%llguidance {}",
                f"start: {_START[calls]}",
                "said: TEXT",
                "said_and_called: begun call",
                f"begun[lazy]: TEXT {json.dumps(BEGIN)}",  # ends with the first
                "TEXT: /(.|\\n)*/",
                f'call: "\\n" object {json.dumps(chr(10) + END)}',
                *object_rules(functions, KEY),
            ]
        )

    def reader(self) -> HermesReader:
        return HermesReader()


class HermesReader:
    """A `CallReader`."""

    def __init__(self) -> None:
        self._held = ""
        self._calling = False

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        self._held += text
        shown, calls = "", []
        while True:
            mark = END if self._calling else BEGIN
            at = self._held.find(mark)
            if at < 0:
                break
            before, self._held = self._held[:at], self._held[at + len(mark) :]
            if not self._calling:
                shown += before
            elif (call := parsed(before, KEY)) is not None:
                calls.append(call)
            else:  # nothing that the grammar lets pass; let it be seen
                shown += BEGIN + before + END
            self._calling = not self._calling
        if not self._calling:
            cut = len(self._held) - _begun(self._held)
            shown, self._held = shown + self._held[:cut], self._held[cut:]
        return shown, calls

    def flush(self) -> str:
        held, self._held = self._held, ""
        return BEGIN + held if self._calling else held


def _begun(text: str) -> int:
    """Characters at the end of `text` that a call may begin with."""
    return next((n for n in range(len(BEGIN) - 1, 0, -1) if text.endswith(BEGIN[:n])), 0)
