"""The budget: how many nats of KL each sequence may still lose by going on without chunks.

A token bucket for each sequence. Every token computed adds `nats_per_token`; what is not used is
kept up to a few tokens' worth, so that a burst of loss can be ridden out but a long quiet time does
not buy a bad sentence. Nothing here knows what the damage is of; it is charged as predicted.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NewType

SequenceKey = NewType("SequenceKey", int)
"""Names a sequence: an id of the engine's."""

K_CAP_TOKENS: Final = 8
"""A bucket holds so many tokens' worth. At 0.005 nats a token that is 0.04: about the damage of
going without one device in a few layers of one token."""

K_MAX_SEQUENCES: Final = 4096
"""Beyond it the longest unused account is closed."""


class Account:
    """One sequence's bucket and what it has spent. `nats_per_token`: what it earns; `own`: whether
    that was asked for by its owner. `level`, `spent`: nats."""

    __slots__ = ("level", "nats_per_token", "own", "spent")

    def __init__(self, nats_per_token: float, *, own: bool) -> None:
        self.nats_per_token = nats_per_token
        self.own = own
        self.level = 0.0
        self.spent = 0.0

    @property
    def fidelity(self) -> float:
        """exp(-nats spent): 1 is what the model would have said by itself."""
        return math.exp(-self.spent)


class Budget:
    """The accounts of all sequences. `nats_per_token`: of those that have no other; 0: nothing is
    ever covered."""

    def __init__(self, nats_per_token: float) -> None:
        self.nats_per_token = _checked(nats_per_token)
        self._accounts: OrderedDict[SequenceKey, Account] = OrderedDict()

    def open(self, sequence: SequenceKey, nats_per_token: float) -> Account:
        """A new account, which earns what its owner wants and not what most do."""
        return self._put(sequence, Account(_checked(nats_per_token), own=True))

    def change(self, nats_per_token: float) -> None:
        """From now on this is what accounts earn that have no other; their buckets are empty."""
        self.nats_per_token = _checked(nats_per_token)
        for account in self._accounts.values():
            if not account.own:
                account.nats_per_token, account.level = nats_per_token, 0.0

    def close(self, sequence: SequenceKey) -> float:
        """The sequence has ended; what it has spent, in nats."""
        account = self._accounts.pop(sequence, None)
        return account.spent if account is not None else 0.0

    def account(self, sequence: SequenceKey) -> Account:
        """Opened when it is first asked for."""
        account = self._accounts.get(sequence)
        if account is None:
            return self._put(sequence, Account(self.nats_per_token, own=False))
        self._accounts.move_to_end(sequence)
        return account

    def earn(self, sequence: SequenceKey, tokens: int) -> None:
        """A step computes so many of the sequence's tokens. They may all be spent in that step."""
        account = self.account(sequence)
        cap = account.nats_per_token * max(K_CAP_TOKENS, tokens)
        account.level = min(cap, account.level + account.nats_per_token * tokens)

    def covers(self, charges: Mapping[SequenceKey, float]) -> bool:
        """Whether every sequence can pay its nats."""
        return all(nats <= self.account(sequence).level for sequence, nats in charges.items())

    def charge(self, charges: Mapping[SequenceKey, float]) -> None:
        """Take the nats, also where they are not covered: the level never falls below 0."""
        for sequence, nats in charges.items():
            account = self.account(sequence)
            account.level = max(0.0, account.level - nats)
            account.spent += nats

    def fullness(self, charges: Mapping[SequenceKey, float]) -> float:
        """How full the emptiest bucket of these sequences is, 0 ... 1; 0 if one may never spend."""
        return min((_fullness(self.account(sequence)) for sequence in charges), default=1.0)

    def _put(self, sequence: SequenceKey, account: Account) -> Account:
        self._accounts[sequence] = account
        self._accounts.move_to_end(sequence)
        if len(self._accounts) > K_MAX_SEQUENCES:
            self._accounts.popitem(last=False)
        return account


def _fullness(account: Account) -> float:
    cap = account.nats_per_token * K_CAP_TOKENS
    return account.level / cap if cap else 0.0


def _checked(nats_per_token: float) -> float:
    if not (0 <= nats_per_token < math.inf):
        raise ValueError(f"a budget of {nats_per_token} nats a token")
    return nats_per_token
