"""Texts against an undisturbed one."""

from __future__ import annotations

import pytest

from halo_edge.bench.decoding import Decoding
from halo_edge.bench.texts import TIE, Texts, same_text


def text(*tokens: int, margin: float = 1.0) -> Decoding:
    return Decoding((10.0,) * len(tokens), tokens=tokens, margins=(margin,) * len(tokens))


UNDISTURBED = text(1, 2, 3, 4, 5, 6)


def test_the_same() -> None:
    found = same_text(UNDISTURBED, [text(1, 2), text(3, 4, 5, 6)], lost=True)
    assert found == Texts(runs=1, identical=1, disturbed=1, tokens=6)
    assert str(found).startswith("1 of 1 texts identical")


def test_what_was_cut_short_is_compared_as_far_as_it_goes() -> None:
    found = same_text(UNDISTURBED, [text(1, 2), text(3)], lost=False)
    assert found == Texts(runs=1, identical=1, disturbed=0, tokens=3)


@pytest.mark.parametrize("margin", [TIE / 2, 2.0])
def test_what_differs_differs_at_a_tie_or_not(margin: float) -> None:
    """The larger margin counts: at a tie both have to be small. What comes later counts too."""
    other = text(1, 2, 9, 4, 5, 9, margin=margin)
    before = Decoding((10.0,) * 6, tokens=(1, 2, 3, 4, 5, 6), margins=(1.0, 1.0, 0.01, 1, 1, 0.02))
    found = same_text(before, [other], lost=True)
    assert found == Texts(runs=1, disturbed=1, tokens=6, margins=(margin, margin))
    assert f"{2 * int(margin < TIE)} of them below" in str(found)


def test_sums() -> None:
    found = Texts(1, 1, 1, 6) + Texts(1, 0, 0, 2, (0.3,)) + Texts(1, 0, 1, 4, (0.01,))
    assert found == Texts(3, 1, 2, 12, (0.3, 0.01))
    assert "2 of 12 tokens another, with margins of 0.300 at the most, 1 of them" in str(found)
