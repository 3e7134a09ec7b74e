"""The text that a model is calibrated on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from halo_edge.calibrate.corpus import (
    HELD_OUT_EVERY,
    WINDOW,
    Sources,
    Text,
    collect,
    mixed,
)
from halo_edge.engine.load import LoadedModel
from halo_edge.errors import HaloError
from halo_edge.model.tokenizer import Tokenizer

FILES_ONLY = {"python": False, "generated": False}


@pytest.fixture
def tokenizer(loaded: LoadedModel) -> Tokenizer:
    return loaded.tokenizer


def said() -> Iterator[list[int]]:
    while True:
        yield [0] * 100


def text_of(sources: Sources, tokenizer: Tokenizer, tokens: int = 8192, seed: int = 0) -> Text:
    return collect(sources, tokenizer, said, tokens, WINDOW, seed, lambda _: None)


def total(text: Text) -> int:
    return sum(map(len, [*text.learned, *text.held_out]))


def test_as_many_tokens_as_wanted_in_equal_parts(tokenizer: Tokenizer) -> None:
    told: list[int] = []
    found = collect(Sources(), tokenizer, said, 8192, WINDOW, 0, told.append)
    assert 8192 - 128 <= total(found) == sum(told) <= 8192
    assert max(map(len, found.learned)) == WINDOW
    pieces = [*found.learned, *found.held_out]
    own = sum(len(piece) for piece in pieces if set(piece) == {0})
    assert abs(own - 4096) <= 128


def test_pieces_fit_into_a_small_context(tokenizer: Tokenizer) -> None:
    sources = Sources(generated=False)
    found = collect(sources, tokenizer, said, 4096, 100, 0, lambda _: None)
    assert max(map(len, [*found.learned, *found.held_out])) == 100


def test_some_of_every_part_is_held_out(tokenizer: Tokenizer) -> None:
    found = text_of(Sources(), tokenizer)
    own = [set(piece) == {0} for piece in found.held_out]
    assert own[:2] in ([True, False], [False, True])  # in turn
    share = sum(map(len, found.held_out)) / total(found)
    assert 0.3 / HELD_OUT_EVERY < share < 1.7 / HELD_OUT_EVERY


def test_the_same_seed_gives_the_same(tokenizer: Tokenizer) -> None:
    assert text_of(Sources(), tokenizer) == text_of(Sources(), tokenizer)
    assert text_of(Sources(), tokenizer) != text_of(Sources(), tokenizer, seed=1)


def test_parts_can_be_left_out(tokenizer: Tokenizer) -> None:
    only_own = text_of(Sources(python=False), tokenizer)
    assert all(set(piece) == {0} for piece in only_own.learned)
    only_python = text_of(Sources(generated=False), tokenizer)
    assert all(set(piece) != {0} for piece in only_python.learned)


def test_files_are_read_and_held_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("x" * 100_000)
    found = text_of(Sources(files=(path,), **FILES_ONLY), tokenizer)
    (token,) = set(found.learned[0][1:])  # all but the first are x
    assert all(set(piece[1:]) == {token} for piece in (*found.learned, *found.held_out))
    assert Sources(files=(path,)).names == ["Python standard library", "own generations", "text"]


def test_what_files_lack_the_model_makes_up_for(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("short, but long enough to be a piece of text by itself, if only just so. " * 2)
    found = text_of(Sources(python=False, files=(path,)), tokenizer)
    assert total(found) >= 8192 - 128


def test_a_single_piece_is_learned_from_and_measured_on(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "text"
    path.write_text("y" * 300)
    found = text_of(Sources(files=(path,), **FILES_ONLY), tokenizer)
    assert len(found.learned) == 1
    assert found.held_out == found.learned


def test_no_text_is_an_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for sources in (Sources(**FILES_ONLY), Sources(files=(tmp_path / "empty",), **FILES_ONLY)):
        (tmp_path / "empty").write_text("")
        with pytest.raises(HaloError, match="no text"):
            text_of(sources, tokenizer)


def test_files_that_cannot_be_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"text \xff\xfe")
    for name, message in (
        ("missing", "cannot read"),
        ("binary", "not UTF-8"),
        (".", "cannot read"),
    ):
        with pytest.raises(HaloError, match=message):
            text_of(Sources(files=(tmp_path / name,)), tokenizer)


def test_mixing_loses_nothing() -> None:
    parts = [[[part, i] for i in range(20)] for part in range(3)]
    found = mixed(parts, 0)
    pieces = [*found.learned, *found.held_out]
    assert sorted(pieces) == sorted(piece for part in parts for piece in part)
    assert [piece[0] for piece in found.held_out] == [0, 1, 2, 0, 1, 2]
    assert [piece[0] for piece in found.learned] != sorted(piece[0] for piece in found.learned)
