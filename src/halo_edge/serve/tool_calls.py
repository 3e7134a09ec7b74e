"""What the ways in which models call tools have in common.

A model says its calls in the text of its answer, in a way that it was trained on. Each way that is
known here is a `CallFormat`, in a file of its own: the grammar that an answer is kept to, so that
every call names a tool that there is, with arguments of its schema; and the reader that finds the
calls in the text. Which way a model has is `tools`' business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from typing import Final, Protocol

from halo_edge.model.chat_template import ToolCall
from halo_edge.serve.chat_schemas import FunctionDefinition
from halo_edge.serve.constraint import bounded

_WHITESPACE: Final = r"\x20?"
"""As models are trained to write calls."""


class Calls(Enum):
    """How many there are to be in an answer. ONE: and nothing else."""

    ANY = "any"
    ONE_AT_MOST = "one at most"
    ONE = "one"


class CallReader(Protocol):
    """Takes the text of an answer piece by piece, and finds the calls in it."""

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """The text that is certainly none of a call, and the calls that are complete."""
        ...

    def flush(self) -> str:
        """What was held: the answer has ended, and this will be no call."""
        ...


class CallFormat(Protocol):
    """One way of calling tools."""

    def grammar(self, functions: Sequence[FunctionDefinition], calls: Calls) -> str:
        """Of an answer, as llguidance has it."""
        ...

    def reader(self) -> CallReader: ...


def object_rules(functions: Sequence[FunctionDefinition], key: str) -> list[str]:
    """Of a grammar: `object` is {"name": one of `functions`, `key`: arguments of its schema}."""
    rules = [f'object: ({" | ".join(f"call_{i}" for i in range(len(functions)))}) "}}"']
    for i, function in enumerate(functions):
        begin = f'{{"name": {json.dumps(function.name)}, {json.dumps(key)}: '
        schema = bounded({"type": "object", **(function.parameters or {})}, _WHITESPACE)
        rules.append(f"call_{i}: {json.dumps(begin)} %json {json.dumps(schema)}")
    return rules


def parsed(text: str, key: str) -> ToolCall | None:
    """The call that such an object is; None if it is none."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get(key)
    return ToolCall("", call["name"], arguments) if isinstance(arguments, dict) else None
