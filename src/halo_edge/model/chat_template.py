"""From the messages of a chat to the prompt that its model was trained on.

The template comes with the model, in Jinja; it is untrusted and runs in `template_sandbox`. What
it finds there is what Hugging Face's `apply_chat_template` gives it. Knows nothing of tokens but
the texts of the two that begin and end a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from jinja2.exceptions import TemplateError

from halo_edge.errors import HaloError
from halo_edge.model.template_sandbox import BoundedTemplate
from halo_edge.model.tokenizer import Tokenizer

_KEY: Final = "tokenizer.chat_template"
_MAX_COMPLAINT: Final = 200  # characters of an error that the template's author wrote


@dataclass(frozen=True)
class ToolCall:
    """What the model asked a tool. `arguments`: of JSON's types."""

    id: str
    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True)
class Message:
    """One turn of a chat. `role` is the template's to know: system, user, assistant, tool.

    `tool_calls`: of an assistant; `tool_call_id`: which of them a tool's message answers.
    """

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def variables(self) -> dict[str, object]:
        """As templates know it: some ask whether a key is there."""
        calls: list[object] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in self.tool_calls
        ]
        optional = {
            "name": self.name,
            "tool_calls": calls or None,
            "tool_call_id": self.tool_call_id,
        }
        given = {key: value for key, value in optional.items() if value is not None}
        return {"role": self.role, "content": self.content, **given}


class ChatTemplate:
    """Renders chats for one model. Safe to share between threads."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        """Raises `HaloError` if `source` is no template."""
        try:
            self._template = BoundedTemplate(
                source, {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
            )
        except Exception as error:  # the source is untrusted: whatever it brings about is its fault
            raise _complaint(error) from None
        self._bos = _text_of(tokenizer, tokenizer.bos_id)
        self._eos = _text_of(tokenizer, tokenizer.eos_id)
        self._strip_bos = tokenizer.add_bos
        self._strip_eos = tokenizer.add_eos

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object], tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template in a GGUF's `metadata`, `None` if it has none.

        Raises `HaloError` if it does not compile.
        """
        source = metadata.get(_KEY)
        if source is None:
            return None
        if not isinstance(source, str):
            raise HaloError(f"unusable chat template: {_KEY} is not a text; prompt without it")
        return cls(source, tokenizer)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] = (),
    ) -> str:
        """The prompt for `messages`; with `add_generation_prompt`, up to where the answer begins.
        `tools`: that the model may call, as OpenAI's API describes them.

        To be encoded with `add_special` and `parse_special`: a beginning- or end-of-text token that
        `encode` would put there again is left out, as llama.cpp does. Raises `HaloError` if the
        template fails, refuses the messages, or does too much.
        """
        variables = {
            "messages": [message.variables() for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": list(tools) or None,
            "documents": None,
        }
        try:
            text = self._template.render(variables)
        except Exception as error:  # as above
            raise _complaint(error) from None
        if self._strip_bos:
            text = text.removeprefix(self._bos)
        if self._strip_eos:
            text = text.removesuffix(self._eos)
        return text


def _text_of(tokenizer: Tokenizer, token_id: int | None) -> str:
    return "" if token_id is None else tokenizer.decode([token_id], skip_special=False)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout[:64])  # some directives pad to a width


def _complaint(error: Exception) -> HaloError:
    words = " ".join(str(error).split()) or type(error).__name__
    printable = "".join(c if c.isprintable() else "\ufffd" for c in words[:_MAX_COMPLAINT])
    return HaloError(f"the model's chat template failed: {printable}; prompt without it")
