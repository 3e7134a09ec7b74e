"""How a chat's answers are shown while they come.

On a terminal one line below the text tells the status. It is drawn with the cursor where the text
ends and erased before more comes, so nothing of it stays behind: neither in what one scrolls back
to, nor if this process is killed. Elsewhere there is only the text.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final, Protocol

from rich.cells import cell_len, set_cell_size

from halo_edge.cli.console import notes, print_piece

_DIM: Final = "\x1b[2m"
_NORMAL: Final = "\x1b[0m"
_ERASE_BELOW: Final = "\x1b[J"
# Down and up again, in the same column: at the bottom of the screen that scrolls.
_LINE_BELOW: Final = "\x1bD\x1b[A"
_SAVE: Final = "\x1b7"
_RESTORE: Final = "\x1b8"
_TAB: Final = 8


class Screen(Protocol):
    """`note` may be called in any thread."""

    interactive: bool

    def piece(self, text: str) -> None:
        """More of the answer."""
        ...

    def status(self, line: str) -> None:
        """How things are while it comes."""
        ...

    def note(self, line: str) -> None:
        """Something that happened, or is to be known."""
        ...

    def complain(self, line: str) -> None:
        """What could not be done."""
        ...

    def end(self) -> None:
        """The answer is over."""
        ...

    def unechoed(self) -> AbstractContextManager[None]:
        """In which keys that are pressed do not show amid the answer."""
        ...


class PlainScreen:
    """For files and pipes."""

    interactive = False

    def __init__(self) -> None:
        self._answering = False

    def piece(self, text: str) -> None:
        """To standard output."""
        self._answering = True
        print_piece(text)

    def status(self, line: str) -> None:
        """Not shown."""

    def note(self, line: str) -> None:
        """To standard error."""
        notes.print(line, style="dim", markup=False, soft_wrap=True)

    def complain(self, line: str) -> None:
        """To standard error."""
        notes.print(f"halo: {line}", style="red", markup=False, soft_wrap=True)

    def end(self) -> None:
        """The line ends."""
        if self._answering:
            print_piece("\n")
        self._answering = False

    def unechoed(self) -> AbstractContextManager[None]:
        """See `Screen`."""
        return contextlib.nullcontext()


class TerminalScreen:
    """For a terminal that knows what VT100 knew."""

    interactive = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answering = False
        self._column = 0  # where the text ends
        self._status = ""
        self._shown = False  # whether the status is on the screen

    def piece(self, text: str) -> None:
        """See `Screen`. What a terminal would obey is not passed on to it."""
        with self._lock:
            self._answering = True
            print_piece(self._erased() + self._placed(harmless(text)) + self._drawn())

    def status(self, line: str) -> None:
        """See `Screen`."""
        with self._lock:
            self._answering = True
            self._status = harmless(line)
            print_piece(self._erased() + self._drawn())

    def note(self, line: str) -> None:
        """See `Screen`. While an answer comes, on a line of its own in between."""
        with self._lock:
            if not self._answering:
                notes.print(line, style="dim", markup=False, soft_wrap=True)
                return
            begin = "\n" if self._column else ""
            text = f"{begin}{_DIM}{harmless(line)}{_NORMAL}\n"
            erased = self._erased()
            self._column = 0
            print_piece(erased + text + self._drawn())

    def complain(self, line: str) -> None:
        """See `Screen`."""
        notes.print(f"halo: {line}", style="red", markup=False, soft_wrap=True)

    def end(self) -> None:
        """See `Screen`."""
        with self._lock:
            if self._answering:
                print_piece(self._erased() + ("\n" if self._column else ""))
            self._answering, self._column, self._status = False, 0, ""

    @contextlib.contextmanager
    def unechoed(self) -> Iterator[None]:
        """See `Screen`. They are there for the next prompt."""
        terminal = sys.stdin.fileno()
        try:
            before = termios.tcgetattr(terminal)
        except termios.error:  # it is gone; so will be this process
            yield
            return
        quiet = termios.tcgetattr(terminal)
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
        try:
            yield
        finally:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    def _placed(self, text: str) -> str:
        """The same, after having noted where it ends."""
        lines = text.rsplit("\n", 1)
        column = 0 if len(lines) == 2 else self._column
        before, *after = lines[-1].split("\t")
        column += cell_len(before)
        for part in after:
            column += _TAB - column % _TAB + cell_len(part)
        self._column = column
        return text

    def _drawn(self) -> str:
        """The status below the text. At the right edge the next character will be in the next line,
        which cursor movements would make the terminal forget."""
        width = shutil.get_terminal_size().columns
        if not self._status or (self._column and self._column % width == 0):
            return ""
        self._shown = True
        line = set_cell_size(self._status, max(1, width - 1)).rstrip()
        return f"{_LINE_BELOW}{_SAVE}\r\x1b[B{_DIM}{line}{_NORMAL}{_RESTORE}"

    def _erased(self) -> str:
        if not self._shown:
            return ""
        self._shown = False
        return _ERASE_BELOW


def harmless(text: str) -> str:
    """Without control characters but line breaks and tabs: a model may have learned escape
    sequences."""
    return "".join(c if c.isprintable() or c in "\n\t" else _shown_instead(c) for c in text)


def _shown_instead(character: str) -> str:
    """Marks without width, such as joiners of emoji, and odd spaces are none of our business."""
    return "\ufffd" if ord(character) < 0xA0 else character
