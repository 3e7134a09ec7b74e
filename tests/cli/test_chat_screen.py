"""What is on a terminal while an answer comes, and what stays: on a small terminal of our own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.cli import chat_screen
from halo_edge.cli.chat_screen import PlainScreen, TerminalScreen, harmless

WIDTH, HEIGHT = 20, 5
SEQUENCE = re.compile(r"\x1b(?:\[([\d;]*)([A-Za-z])|([78D]))")


class Terminal:
    """As much of a VT100 as is used: its screen, and what has scrolled off it."""

    def __init__(self) -> None:
        self.gone: list[str] = []
        self.screen = [[" "] * WIDTH for _ in range(HEIGHT)]
        self.row = self.column = 0
        self.saved = (0, 0)

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            match = SEQUENCE.match(text, at)
            if match is not None:
                self._obey(match[1], match[2] or match[3])
                at = match.end()
                continue
            self._put(text[at])
            at += 1

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":  # as the line discipline has it
            self.column = 0
            self._down()
        else:
            if self.column == WIDTH:
                self.column = 0
                self._down()
            self.screen[self.row][self.column] = character
            self.column += 1

    def _down(self) -> None:
        if self.row < HEIGHT - 1:
            self.row += 1
            return
        self.gone.append("".join(self.screen.pop(0)).rstrip())
        self.screen.append([" "] * WIDTH)

    def _obey(self, numbers: str | None, action: str) -> None:
        if action in "ABD78J":  # a movement forgets that the next character goes into the next line
            self.column = min(self.column, WIDTH - 1)
        if action == "A":
            self.row = max(0, self.row - 1)
        elif action == "B":
            self.row = min(HEIGHT - 1, self.row + 1)
        elif action == "D":
            self._down()
        elif action == "7":
            self.saved = (self.row, self.column)
        elif action == "8":
            self.row, self.column = self.saved
        elif action == "J":
            self.screen[self.row][self.column :] = [" "] * (WIDTH - self.column)
            for row in range(self.row + 1, HEIGHT):
                self.screen[row] = [" "] * WIDTH
        else:
            assert action == "m" and numbers is not None

    @property
    def lines(self) -> list[str]:
        """Everything, without the empty lines at the end."""
        shown = [*self.gone, *("".join(row).rstrip() for row in self.screen)]
        while shown and not shown[-1]:
            shown.pop()
        return shown


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return fresh(monkeypatch)


def fresh(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("LINES", str(HEIGHT))
    made = Terminal()
    monkeypatch.setattr(chat_screen, "print_piece", made.feed)
    return made


def test_the_status_is_below_the_text(terminal: Terminal) -> None:
    screen = TerminalScreen()
    screen.status("4 devices")
    assert terminal.lines == ["", "4 devices"]
    screen.piece("Paris is")
    assert terminal.lines == ["Paris is", "4 devices"]
    screen.piece(" a town in France,")
    assert terminal.lines == ["Paris is a town in F", "rance,", "4 devices"]
    screen.end()
    assert terminal.lines == ["Paris is a town in F", "rance,"]
    assert (terminal.row, terminal.column) == (2, 0)


def test_what_happens_meanwhile_is_in_a_line_of_its_own(terminal: Terminal) -> None:
    screen = TerminalScreen()
    screen.status("4 devices")
    screen.piece("Paris")
    screen.note("pi-2 has left")
    screen.piece(" is a town.\n")
    screen.note("pi-2 is back")
    assert terminal.lines[:4] == ["Paris", "pi-2 has left", " is a town.", "pi-2 is back"]
    assert terminal.lines[-1] == "4 devices"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("piece"), st.text("ab \n", max_size=50)),
            st.tuples(st.just("status"), st.text("xyz", min_size=1, max_size=30)),
        )
    )
)
def test_nothing_of_the_status_stays(steps: list[tuple[str, str]]) -> None:
    """Whatever comes, the text is as if it had been written to the terminal at once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        shown, wanted, screen = fresh(monkeypatch), Terminal(), TerminalScreen()
        for kind, text in steps:
            if kind == "piece":
                screen.piece(text)
                wanted.feed(text)
            else:
                screen.status(text)
        screen.end()
        assert shown.lines == wanted.lines


def test_wide_characters_and_tabs_count(terminal: Terminal) -> None:
    """At the right edge there is no status for a moment: drawing it would lose the edge."""
    screen = TerminalScreen()
    screen.status("S")
    screen.piece("a\tb\t語語")  # 16 columns and two wide ones
    assert terminal.lines[-1] != "S"
    screen.piece("c")
    assert terminal.lines[-1] == "S"


def test_a_model_cannot_command_the_terminal(terminal: Terminal) -> None:
    screen = TerminalScreen()
    screen.piece("\x1b[2J\x07\x9bmgo\r\x7f on")
    assert terminal.lines[0] == "\ufffd[2J\ufffd\ufffdmgo\ufffd\ufffd on"
    assert harmless("語\u00e9\u200d\n\t") == "語\u00e9\u200d\n\t"


def test_plain(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    screen.end()
    screen.status("4 devices")
    screen.piece("Par")
    screen.piece("is")
    screen.end()
    screen.note("noted")
    screen.complain("not [bold] so")
    out, err = capsys.readouterr()
    assert out == "Paris\n"
    assert err.splitlines() == ["noted", "halo: not [bold] so"]
