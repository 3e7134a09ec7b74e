"""From what the user typed to token ids."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from halo_edge.engine.load import LoadedModel
from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message

# No context holds as much text; a bound so that `halo run - < /dev/zero` ends.
MAX_TEXT_BYTES: Final = 64 << 20
# Without a system message some templates put in their own; the demo model, whose template does,
# answers "The capital of France is" with nonsense then, and with Paris to this one.
DEFAULT_SYSTEM: Final = "You are a helpful assistant."


def text_argument(argument: str) -> str:
    """The argument itself, or standard input for `-`. Raises `HaloError` if that is not UTF-8."""
    if argument != "-":
        return argument
    return _decode(sys.stdin.buffer.read(MAX_TEXT_BYTES + 1), "standard input")


def text_file(path: Path) -> str:
    """A text file, or standard input for `-`. Raises `HaloError` where it cannot be read."""
    if str(path) == "-":
        return text_argument("-")
    try:
        with path.open("rb") as file:
            return _decode(file.read(MAX_TEXT_BYTES + 1), str(path))
    except FileNotFoundError:
        raise HaloError(f"no such file: {path}") from None
    except OSError as error:
        raise HaloError(f"cannot read {path}: {error.strerror}") from None


def _decode(data: bytes, source: str) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise HaloError(f"{source} is longer than {MAX_TEXT_BYTES >> 20} MB; give a part of it")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise HaloError(f"{source} is not UTF-8 text (byte {error.start}); convert it") from None


def prompt_tokens(model: LoadedModel, text: str) -> list[int]:
    """A prompt as it stands."""
    return model.tokenizer.encode(text, add_special=True)


def chat_tokens(model: LoadedModel, system: str | None, messages: Sequence[Message]) -> list[int]:
    """A chat through the model's template, ready for the assistant's turn.

    `system` None is the default message, where the template takes one; "" is none. Raises
    `HaloError` if the model has no template, or one that cannot render this.
    """
    if model.template is None:
        raise HaloError("this model has no chat template; use `halo run --raw`")
    text = None
    if system is None:
        with contextlib.suppress(HaloError):  # some templates refuse system messages
            text = model.template.render([Message("system", DEFAULT_SYSTEM), *messages])
    if text is None:
        opening = [Message("system", system)] if system else []
        text = model.template.render([*opening, *messages])
    return model.tokenizer.encode(text, add_special=True, parse_special=True)
