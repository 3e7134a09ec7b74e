"""What the user says in a chat: line by line from a pipe, or typed at a terminal.

A turn of several lines stands between two \"\"\", or has a \\ at the end of each line but the last;
or it is pasted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO, Final

from halo_edge.cli.prompt import MAX_TEXT_BYTES
from halo_edge.errors import HaloError

_QUOTES: Final = '"""'


def is_complete(text: str) -> bool:
    """Whether nothing more belongs to a turn."""
    if text.startswith(_QUOTES):
        return len(text) >= 2 * len(_QUOTES) and text.endswith(_QUOTES)
    return not text.endswith("\\")


def turn_of(text: str) -> str:
    """What is meant by a turn as it was typed."""
    text = text.strip()
    if text.startswith(_QUOTES):
        return text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip()
    return text.replace("\\\n", "\n")


class PipedInput:
    """Without a terminal."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self) -> str | None:
        """The next turn or command that is not empty; None at the end. Raises `HaloError` for what
        is no text."""
        while lines := self._lines():
            if turn := turn_of("".join(lines)):
                return turn
        return None

    def _lines(self) -> list[str]:
        lines: list[str] = []
        room = MAX_TEXT_BYTES
        while line := self._stream.readline(room + 1):
            room -= len(line)
            if room < 0:
                raise HaloError(f"a turn is longer than {MAX_TEXT_BYTES >> 20} MB; say less")
            try:
                lines.append(line.decode())
            except UnicodeDecodeError:
                raise HaloError("standard input is not UTF-8 text; convert it") from None
            # Not of the whole turn, which may be a long one.
            if is_complete((lines[0].strip()[:3] if len(lines) > 1 else "") + lines[-1].strip()):
                break
        return lines


class TerminalInput:
    """With editing, a history that is kept, and commands completed by Tab. `toolbar`: a line about
    the devices, shown below while one types."""

    def __init__(self, commands: Sequence[str], toolbar: Callable[[], str]) -> None:
        # Half a second on a small machine: only for those who type.
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

        from halo_edge.cli.chat_history import ChatHistory, history_file

        keys = KeyBindings()

        @keys.add("enter")
        def _enter(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if is_complete(buffer.text.strip()):
                buffer.validate_and_handle()
            else:
                buffer.insert_text("\n")

        @keys.add("escape", "enter")
        def _line_break(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            key_bindings=keys,
            history=ChatHistory(history_file()),
            completer=WordCompleter(commands, sentence=True),
            complete_while_typing=False,
            bottom_toolbar=toolbar,
            refresh_interval=1.0,
            reserve_space_for_menu=0,
        )

    def read(self) -> str | None:
        """The next turn or command that is not empty; None for Ctrl-D."""
        from prompt_toolkit.patch_stdout import patch_stdout

        while True:
            try:
                with patch_stdout(raw=True):  # what others print meanwhile goes above the line
                    typed = self._session.prompt()
            except EOFError:
                return None
            except KeyboardInterrupt:  # forgets the line, as in a shell
                continue
            if turn := turn_of(typed):
                return turn
