"""Tools: whether a model can be given any, in which way it calls them, and what its answer may be.

A model's way is seen in what its template makes of a call in the history of a chat, which is what
the model was trained to write. Of ways that are not known none is guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message, ToolCall
from halo_edge.serve import hermes_calls, llama_calls
from halo_edge.serve.chat_schemas import NamedTool, Tool
from halo_edge.serve.served import Served
from halo_edge.serve.tool_calls import CallFormat, Calls

_PROBE: Final = "halo_probe"
_TOOL: Final = {
    "type": "function",
    "function": {"name": _PROBE, "description": "", "parameters": {}},
}
_NO_PARAMETERS: Final = {"type": "object", "properties": {}}
_ID: Final = "000000000"  # of the form that Mistral's templates insist on
_ASKED: Final = Message("user", "hello")
_CALLED: Final = (
    Message("assistant", "", tool_calls=(ToolCall(_ID, _PROBE, {_PROBE: 1}),)),
    Message("tool", "done", tool_call_id=_ID),
)


def format_of(served: Served) -> CallFormat:
    """In which way the model calls tools. Raises `HaloError`, which says why, if it can be given
    none."""
    name, template = served.name, served.template
    if template is None:
        raise HaloError(f"{name} has no chat template")
    if _PROBE not in template.render([_ASKED], tools=[_TOOL]):
        raise HaloError(f"the chat template of {name} knows no tools")
    try:
        text = template.render([_ASKED, *_CALLED], tools=[_TOOL])
    except HaloError:
        text = ""
    if f"{hermes_calls.BEGIN}{_object(hermes_calls.KEY)}" in "".join(text.split()):
        if all(_is_text(served, mark) for mark in (hermes_calls.BEGIN, hermes_calls.END)):
            return hermes_calls.HermesFormat()
    elif f"\n{_object(llama_calls.KEY)}" in text.replace(" ", ""):
        return llama_calls.LlamaFormat()
    raise HaloError(
        f"{name} calls tools in a way that this server does not read; it reads <tool_call>, as of "
        f"Qwen and Hermes, and Llama 3's JSON"
    )


def _object(key: str) -> str:
    """The probe's call, without spaces."""
    return json.dumps({"name": _PROBE, key: {_PROBE: 1}}, separators=(",", ":"))


def _is_text(served: Served, mark: str) -> bool:
    """Whether it is seen in what the model says: control tokens are not."""
    tokens = served.tokenizer.encode(mark, add_special=False, parse_special=True)
    return mark in served.tokenizer.decode(tokens)


def tool_variables(tools: Sequence[Tool]) -> list[Mapping[str, object]]:
    """As templates know them: some fail without what OpenAI's API lets one leave out."""
    functions = [tool.function for tool in tools]
    return [
        {
            "type": "function",
            "function": {
                "name": function.name,
                "description": function.description or "",
                "parameters": function.parameters or _NO_PARAMETERS,
            },
        }
        for function in functions
    ]


def grammar(way: CallFormat, tools: Sequence[Tool], choice: str | NamedTool, calls: Calls) -> str:
    """Of an answer: for "auto" text and so many `calls`; for "required" one call, for a named tool
    one of that. Raises `HaloError` for a name that is not among `tools`."""
    functions = [tool.function for tool in tools]
    if isinstance(choice, NamedTool):
        functions = [each for each in functions if each.name == choice.function.name]
        if not functions:
            raise HaloError(f"there is no tool {choice.function.name!r} among the tools")
    return way.grammar(functions, calls if choice == "auto" else Calls.ONE)
