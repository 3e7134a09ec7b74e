"""Whether a text is what it would have been without some trouble, but for ties.

Where devices change, partials are added in another order and rounded elsewhere, so the logits
differ in their last bits. A greedy text may then go on otherwise where the two best tokens are as
good as each other; from there on it is another text, and nothing more can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from halo_edge.bench.decoding import Decoding

TIE: Final = 0.05
"""Logits that differ by less are a tie."""


@dataclass(frozen=True)
class Texts:
    """`runs`: texts that were compared, `disturbed` of which lost a device that was at work.
    `tokens`: compared in all, up to the first difference. `margins`: at the first difference of
    each of those that differ, how far the best two logits were apart."""

    runs: int = 0
    disturbed: int = 0
    tokens: int = 0
    margins: tuple[float, ...] = ()

    @property
    def identical(self) -> int:
        return self.runs - len(self.margins)

    def __add__(self, other: Texts) -> Texts:
        return Texts(
            self.runs + other.runs,
            self.disturbed + other.disturbed,
            self.tokens + other.tokens,
            self.margins + other.margins,
        )

    def __str__(self) -> str:
        words = (
            f"{self.identical} of {self.runs} texts identical ({self.tokens:,} tokens compared; "
            f"{self.disturbed} lost a worker that was at work)"
        )
        if self.margins:
            ties = sum(margin < TIE for margin in self.margins)
            words += (
                f", the largest margin at a first difference {max(self.margins):.3f} "
                f"({ties} of {len(self.margins)} below {TIE})"
            )
        return words


def same_text(undisturbed: Decoding, parts: Sequence[Decoding], *, at_work: bool) -> Texts:
    """Of a text that came in `parts`. At a first difference both have the same logits but for
    their last bits; the larger of their margins is taken."""
    tokens = [token for part in parts for token in part.tokens]
    margins = [margin for part in parts for margin in part.margins]
    compared = zip(undisturbed.tokens, tokens, undisturbed.margins, margins, strict=False)
    found, place = Texts(1, int(at_work)), 0
    for ours, theirs, our_margin, their_margin in compared:
        if ours != theirs:
            return found + Texts(tokens=place, margins=(max(our_margin, their_margin),))
        place += 1
    return found + Texts(tokens=place)
