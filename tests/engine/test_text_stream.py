"""Stop strings over any split of a text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.engine.text_stream import TextStream


def shown(stream: TextStream, pieces: list[str]) -> list[str]:
    return [stream.push(piece) for piece in pieces] + [stream.flush()]


def test_without_stop_strings_everything_passes() -> None:
    stream = TextStream()
    assert shown(stream, ["a", "", "bc"]) == ["a", "", "bc", ""]
    assert not stream.stopped


@pytest.mark.parametrize(
    ("stop", "pieces", "expected"),
    [
        # Held back while it may become the stop string, and no longer.
        (["END"], ["aE", "N", "x", "b"], ["a", "", "ENx", "b", ""]),
        (["END"], ["aE", "N", "D", "b"], ["a", "", "", "", ""]),
        # The text ends in the middle of one.
        (["END"], ["aEN"], ["a", "EN"]),
        # Inside one piece.
        (["END"], ["one END two END"], ["one ", ""]),
        # A false start that holds a true one.
        (["aab"], ["aa", "ab"], ["", "a", ""]),
        (["abac"], ["aba", "bac"], ["", "ab", ""]),
        # The stop string is all there is.
        (["\n\n"], ["\n", "\n"], ["", "", ""]),
        # The one that begins first, where neither is part of the other.
        (["b", "d"], ["abcd"], ["a", ""]),
        # Complete first: "b" ends the text before "abc" could, whether or not c is there already.
        (["abc", "b"], ["a", "b", "c"], ["", "a", "", ""]),
        (["abc", "b"], ["abc"], ["a", ""]),
        # Complete at the same character: the longer one.
        (["c", "abc"], ["ab", "c"], ["", "", ""]),
        # One is the beginning of the other: the shorter is complete first.
        (["ab", "abc"], ["xabc"], ["x", ""]),
        (["é🙂"], ["aé", "🙂b"], ["a", "", ""]),
    ],
)
def test_by_hand(stop: list[str], pieces: list[str], expected: list[str]) -> None:
    assert shown(TextStream(stop), pieces) == expected


def test_stopped() -> None:
    stream = TextStream(["xy"])
    stream.push("ax")
    assert not stream.stopped
    stream.push("y")
    assert stream.stopped
    assert shown(stream, ["more"]) == ["", ""]


def test_flush_gives_what_is_held_once() -> None:
    stream = TextStream(["xy"])
    stream.push("x")
    assert [stream.flush(), stream.flush()] == ["x", ""]


def cut(text: str, stop: list[str]) -> str:
    """The text before the stop string that is complete first; of several, the longest."""
    for end in range(1, len(text) + 1):
        matching = [s for s in stop if text[:end].endswith(s)]
        if matching:
            return text[: end - max(map(len, matching))]
    return text


# Two or three letters, so that stop strings overlap each other and themselves.
letters = st.text("ab", max_size=30) | st.text("abc", max_size=30)
stops = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


@given(text=letters, stop=stops, edges=st.lists(st.integers(0, 30), max_size=30))
def test_any_split_gives_the_text_up_to_the_first_stop(
    text: str, stop: list[str], edges: list[int]
) -> None:
    bounds = [0, *sorted(min(edge, len(text)) for edge in edges), len(text)]
    pieces = [text[a:b] for a, b in pairwise(bounds)]
    stream = TextStream(stop)
    assert "".join(shown(stream, pieces)) == cut(text, stop)
    assert stream.stopped == any(s in text for s in stop)


@given(text=letters, stop=stops)
def test_holds_back_only_what_may_begin_a_stop_string(text: str, stop: list[str]) -> None:
    stream = TextStream(stop)
    given_out = ""
    for count, letter in enumerate(text, start=1):
        given_out += stream.push(letter)
        if stream.stopped:
            return
        held = text[len(given_out) : count]
        assert not held or any(s.startswith(held) and s != held for s in stop)
