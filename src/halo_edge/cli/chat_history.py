"""What was typed into chats, kept in a file of the user's for the next one: bounded, and readable
by nobody else.

One JSON string a line. Where the file cannot be read or written, there is no history, and no
complaint: nobody's chat depends on it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from prompt_toolkit.history import History

MAX_ENTRIES: Final = 1000
MAX_BYTES: Final = 1 << 20
"""Of the file; what is longer than a quarter of that is not kept."""


def history_file() -> Path:
    """`$XDG_STATE_HOME/halo-edge/chat_history`, else in `~/.local/state`."""
    base = os.environ.get("XDG_STATE_HOME")
    state = Path(base) if base else Path.home() / ".local" / "state"
    return state / "halo-edge" / "chat_history"


class ChatHistory(History):
    """In the file `path`. Several chats at once each append."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """The newest first. Shortens the file when it has grown too long."""
        entries: list[str] = []
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - MAX_BYTES))
                data = file.read(MAX_BYTES)
        except OSError:
            return entries
        lines = data.split(b"\n")
        if size > MAX_BYTES:
            del lines[0]  # a part of one
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):  # torn, or not ours
                entries.append(msgspec.json.decode(line, type=str))
        kept = entries[-MAX_ENTRIES:]
        if size > MAX_BYTES or len(entries) > 2 * MAX_ENTRIES:
            self._rewrite(kept)
        return reversed(kept)

    def store_string(self, string: str) -> None:
        """At the end of the file."""
        line = msgspec.json.encode(string) + b"\n"
        if len(line) > MAX_BYTES // 4:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._append(self._path, line)

    def _rewrite(self, entries: list[str]) -> None:
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._append(new, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
            new.replace(self._path)

    @staticmethod
    def _append(path: Path, data: bytes) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb") as file:
            file.write(data)
