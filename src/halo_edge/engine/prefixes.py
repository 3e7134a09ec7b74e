"""What ended sequences have left in the KV cache, for whoever begins with the same tokens.

A conversation's next turn, another question to the same system prompt. It knows tokens and whose
cells hold them; the cells are the engine's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as SequenceOf
from typing import Final

import numpy as np

from halo_edge.engine.kv_cells import SequenceId

MIN_REUSE: Final = 16
"""Fewer tokens are sooner computed than looked for; many prompts have a few in common."""

MAX_KEPT: Final = 64
"""Bounds what a new prompt is compared with."""


class Prefixes:
    """Tokens whose keys and values are kept, by the sequence that computed them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[SequenceId, list[int]] = OrderedDict()  # the longest unused first

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def n_tokens(self) -> int:
        """Of all, and so many cells."""
        return sum(map(len, self._kept.values()))

    def keep(self, sequence: SequenceId, tokens: list[int]) -> None:
        """`tokens`, all computed, stay in the cells of `sequence`."""
        self._kept[sequence] = tokens

    def length(self, sequence: SequenceId) -> int:
        """How many tokens are kept there; 0 if it is not."""
        return len(self._kept.get(sequence, ()))

    def use(self, sequence: SequenceId) -> None:
        """It proved useful, so keep it longer."""
        self._kept.move_to_end(sequence)

    def drop(self, sequence: SequenceId) -> bool:
        """Forget it; whether it was kept."""
        return self._kept.pop(sequence, None) is not None

    def drop_oldest(self) -> SequenceId:
        """Forget the one that was not of use for longest."""
        return self._kept.popitem(last=False)[0]

    def longest(self, tokens: SequenceOf[int]) -> tuple[SequenceId, int] | None:
        """Who has most of the beginning of `tokens`, and how much; None below MIN_REUSE."""
        found = [(common_prefix(kept, tokens), id) for id, kept in self._kept.items()]
        length, sequence = max(found, default=(0, SequenceId(0)))
        return (sequence, length) if length else None


def common_prefix(a: SequenceOf[int], b: SequenceOf[int]) -> int:
    """With how many equal tokens both begin; 0 below MIN_REUSE."""
    if len(a) < MIN_REUSE or a[:MIN_REUSE] != b[:MIN_REUSE]:  # so it is nearly always
        return 0
    length = min(len(a), len(b))
    differ = np.flatnonzero(np.array(a[:length]) != np.array(b[:length]))
    return int(differ[0]) if len(differ) else length
