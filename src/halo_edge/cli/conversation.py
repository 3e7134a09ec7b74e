"""What was said in a chat, how much of it fits into the context, and its file.

Knows nothing of models but that a chat becomes tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from halo_edge.cli.prompt import text_file
from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message

MAX_MESSAGES: Final = 10_000
_USER: Final = "user"
_ASSISTANT: Final = "assistant"


class _SavedMessage(msgspec.Struct, frozen=True):
    role: str
    content: str


class _Saved(msgspec.Struct, frozen=True):
    """OpenAI's shape of a chat."""

    messages: Annotated[list[_SavedMessage], msgspec.Meta(max_length=MAX_MESSAGES)]


class Conversation:
    """`system`: the system message; None: the usual one.

    `messages` are the user's and the assistant's, in turn. The first `left_out` of them are not
    sent any more.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.messages: list[Message] = []
        self.left_out = 0
        self._own_files: set[Path] = set()  # which may be written over

    def say(self, text: str) -> None:
        """The user's turn."""
        self.messages.append(Message(_USER, text))

    def answered(self, text: str) -> None:
        """The assistant's."""
        self.messages.append(Message(_ASSISTANT, text))

    def take_back(self) -> str | None:
        """Forget the user's last turn and what came after it: what it was, None without any."""
        while self.messages:
            message = self.messages.pop()
            self.left_out = min(self.left_out, len(self.messages))
            if message.role == _USER:
                return message.content
        return None

    def clear(self) -> None:
        """Forget all that was said."""
        self.messages.clear()
        self.left_out = 0

    def fit(
        self,
        tokens_of: Callable[[list[Message]], list[int]],
        context: int,
        max_tokens: int | None,
    ) -> list[int]:
        """The tokens of what is sent, with room for an answer in a context of so many tokens.

        Leaves out the oldest turns until half of the context is free: what stays has to be
        computed anew, which should not be so for every turn that follows. The newest stays, even
        without room. Raises `HaloError` as `tokens_of` does.
        """
        room = min(context // 4, max_tokens or context)
        tokens = tokens_of(self.messages[self.left_out :])
        if len(tokens) + room <= context:
            return tokens
        before = self.left_out
        while len(tokens) > context // 2 and (following := self._next_turn()) is not None:
            self.left_out = following
            tokens = tokens_of(self.messages[self.left_out :])
        if len(tokens) >= context:  # it will be refused, and is no reason to leave out others
            self.left_out = before
        return tokens

    def _next_turn(self) -> int | None:
        """The second turn of the user of those that are sent."""
        for i in range(self.left_out + 1, len(self.messages)):
            if self.messages[i].role == _USER:
                return i
        return None

    def save(self, path: Path) -> None:
        """As JSON, readable by the user only. Raises `HaloError`, also for a file of others."""
        system = [Message("system", self.system)] if self.system is not None else []
        messages = [_SavedMessage(m.role, m.content) for m in (*system, *self.messages)]
        data = msgspec.json.format(msgspec.json.encode(_Saved(messages)), indent=2)
        how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        if path.absolute() not in self._own_files:
            how |= os.O_EXCL
        try:
            with os.fdopen(os.open(path, how, 0o600), "wb") as file:
                file.write(data + b"\n")
        except FileExistsError:
            raise HaloError(f"{path} is there already; choose another name") from None
        except OSError as error:
            raise HaloError(f"cannot write {path}: {error.strerror}") from None
        self._own_files.add(path.absolute())

    def load(self, path: Path) -> None:
        """What was saved takes the place of what was said. Raises `HaloError`."""
        try:
            saved = msgspec.json.decode(text_file(path), type=_Saved)
        except msgspec.DecodeError as error:
            raise HaloError(f"{path} is not a saved chat: {error}") from None
        system, messages = _in_turn(path, saved.messages)
        self.system, self.messages, self.left_out = system, messages, 0
        self._own_files.add(path.absolute())


def _in_turn(path: Path, saved: Sequence[_SavedMessage]) -> tuple[str | None, list[Message]]:
    """The system message, and whole turns of user and assistant: templates want no others."""
    system = None
    if saved and saved[0].role == "system":
        system, saved = saved[0].content, saved[1:]
    wanted = (_USER, _ASSISTANT)
    if len(saved) % 2 or any(m.role != wanted[i % 2] for i, m in enumerate(saved)):
        raise HaloError(f"{path} is not a saved chat: user and assistant do not take turns")
    return system, [Message(message.role, message.content) for message in saved]
