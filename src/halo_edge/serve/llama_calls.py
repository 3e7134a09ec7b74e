"""Calls as Llama 3.1 to 3.3 make them: an answer is one call, and nothing else, or it is text.

    {"name": "weather", "parameters": {"city": "Paris"}}

What begins with a brace is a call. Without that rule small models write the likes of
{"type": "function", ...}, which is neither. Their tools in Python (`<|python_tag|>`) are not
offered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from halo_edge.model.chat_template import ToolCall
from halo_edge.serve.chat_schemas import FunctionDefinition
from halo_edge.serve.tool_calls import Calls, object_rules, parsed

KEY: Final = "parameters"
_BEGIN: Final = "{"


class LlamaFormat:
    """A `CallFormat`."""

    def grammar(self, functions: Sequence[FunctionDefinition], calls: Calls) -> str:
        return "\n".join(
            [
                "%llguidance {}",
                "start: object" if calls is Calls.ONE else "start: (object | TEXT)?",
                r"TEXT: /\s*[^{\s](.|\n)*/",
                *object_rules(functions, KEY),
            ]
        )

    def reader(self) -> LlamaReader:
        return LlamaReader()


class LlamaReader:
    """A `CallReader`."""

    def __init__(self) -> None:
        self._held = ""
        self._is_text = False

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        self._held += text
        if self._is_text or not self._held.startswith(_BEGIN):
            self._is_text = self._is_text or bool(self._held)
            return self.flush(), []
        call = parsed(self._held, KEY) if "}" in text else None
        if call is None:
            return "", []
        self._held, self._is_text = "", True
        return "", [call]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held
