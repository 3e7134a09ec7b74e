"""A number that is known from samples, and how well."""

from __future__ import annotations

import math
from typing import Final

BELIEVED: Final = 512
"""What was assumed at first counts as much as so many samples, some twenty tokens, and so does,
later, all that was known before: a new value is not believed too fast, nor an old one for long."""


class Estimate:
    """`value` is what was assumed, until there are samples."""

    def __init__(self, assumed: float) -> None:
        self.value = assumed
        self.samples = 0

    def sample(self, mean: float, count: int) -> None:
        """So many new samples. What is not a number above 0 is not one."""
        if not 0 < mean < math.inf or count <= 0:
            return
        self.samples += count
        self.value += count / (count + BELIEVED) * (mean - self.value)
