"""How fast a device computes its neurons in decode, lately: from the rounds themselves."""

from __future__ import annotations

from typing import Final

# The weight of a new round: a mean over some 64, a few tokens.
_NEWEST: Final = 1 / 64
# So many rounds come before there is an estimate.
MIN_ROUNDS: Final = 64


class DecodeSpeed:
    """Of a device that holds so many neurons of each layer. Times are of one token's FFN, with
    everything that kept the device from computing it."""

    def __init__(self, neurons: int) -> None:
        self._neurons = neurons
        self._mean_s = 0.0
        self._rounds = 0

    def sample(self, took_s: float) -> None:
        """A round of one token."""
        self._rounds += 1
        # A plain mean at first: each round so far counts alike.
        self._mean_s += max(_NEWEST, 1 / self._rounds) * (took_s - self._mean_s)

    @property
    def neurons_per_s(self) -> float:
        """0 while it is not known. Any thread may ask."""
        if self._rounds < MIN_ROUNDS or self._mean_s <= 0:
            return 0.0
        return self._neurons / self._mean_s
