"""Turns from lines."""

from __future__ import annotations

import io

import pytest

from halo_edge.cli.chat_input import PipedInput, is_complete, turn_of
from halo_edge.errors import HaloError


def turns(data: bytes) -> list[str]:
    lines = PipedInput(io.BytesIO(data))
    return list(iter(lines.read, None))


@pytest.mark.parametrize(
    ("typed", "turn"),
    [
        ("hello", "hello"),
        ("  hello \n", "hello"),
        ('"""a\nb"""', "a\nb"),
        ('"""\na\n\nb\n"""', "a\n\nb"),
        ('""""""', ""),
        ("a\\\nb", "a\nb"),
        ('say """ now', 'say """ now'),
    ],
)
def test_a_turn(typed: str, turn: str) -> None:
    assert is_complete(typed.strip())
    assert turn_of(typed) == turn


@pytest.mark.parametrize("typed", ['"""', '"""a', '"""a\nb', "a\\", '"""a\\', '"""""'])
def test_more_belongs_to_it(typed: str) -> None:
    assert not is_complete(typed)


def test_lines_of_a_pipe() -> None:
    data = b'one\n\n"""\ntwo\n  three\n"""\nfour\\\nfive\n/exit'
    assert turns(data) == ["one", "two\n  three", "four\nfive", "/exit"]


def test_a_pipe_that_ends_in_the_middle() -> None:
    assert turns(b'"""one\ntwo\n') == ["one\ntwo"]


def test_what_is_no_text() -> None:
    with pytest.raises(HaloError, match="not UTF-8"):
        turns(b"one\n\xff\xfe\n")


def test_a_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_edge.cli.chat_input.MAX_TEXT_BYTES", 1 << 20)
    with pytest.raises(HaloError, match="longer than 1 MB"):
        turns(b"x" * (1 << 20) + b"y\n")
    with pytest.raises(HaloError, match="longer than 1 MB"):
        turns(b'"""' + b"x\n" * (1 << 20))
