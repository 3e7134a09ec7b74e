"""Whether a text is what it would have been without some trouble, but for ties.

Where others compute for a device, partials are rounded elsewhere, so the logits differ in their
last bits, and a greedy text may go on otherwise where the two best tokens are as good as each
other. So that not all is lost with the first of those, both texts go on with the same token
whatever was best, and are compared place by place.
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
    """`runs`: texts that were compared, `identical` of which were the same at every place;
    `disturbed`: of which a device was lost that was at work. `tokens`: places, in all. `margins`:
    of those that differ, how far the best two logits were apart."""

    runs: int = 0
    identical: int = 0
    disturbed: int = 0
    tokens: int = 0
    margins: tuple[float, ...] = ()

    def __add__(self, other: Texts) -> Texts:
        return Texts(
            self.runs + other.runs,
            self.identical + other.identical,
            self.disturbed + other.disturbed,
            self.tokens + other.tokens,
            self.margins + other.margins,
        )

    def __str__(self) -> str:
        words = (
            f"{self.identical} of {self.runs} texts identical ({self.disturbed} lost a worker that "
            f"was at work); {len(self.margins)} of {self.tokens:,} tokens another"
        )
        if self.margins:
            ties = sum(margin < TIE for margin in self.margins)
            words += (
                f", with margins of {max(self.margins):.3f} at the most, {ties} of them below {TIE}"
            )
        return words


def same_text(undisturbed: Decoding, parts: Sequence[Decoding], *, lost: bool) -> Texts:
    """Of a text that came in `parts`, and followed the undisturbed one; `lost`: a device that was
    at work. Both have the same logits but for their last bits; the larger of their margins is
    taken."""
    tokens = [token for part in parts for token in part.tokens]
    margins = [margin for part in parts for margin in part.margins]
    compared = list(zip(undisturbed.tokens, tokens, undisturbed.margins, margins, strict=False))
    others = tuple(max(one, other) for a, b, one, other in compared if a != b)
    return Texts(1, int(not others), int(lost), len(compared), others)
