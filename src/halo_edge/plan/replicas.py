"""Who holds whose neuron groups as well, in spare memory, and what becomes of a plan when somebody
is gone.

Every device has consecutive groups. So those of a worker that is gone can go on with its two
neighbours in the order of groups, and with nobody else, without moving anything between the others:
the neighbour before it takes the first of them, the one behind it the last. That is what they hold
replicas of. The root is nobody's neighbour: it stands in from its disk, but to have more for good
it would have to load it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from halo_edge.plan.plan import Plan

MAX_REPLICAS: Final = 2
"""Nobody has more neighbours."""


def replicas(
    shares: Sequence[range], capacity: Sequence[int], tile_groups: int, copies: int = 1
) -> tuple[tuple[range, ...], ...]:
    """What each device holds beside its share, within its `capacity`, in groups: of every worker's
    groups all `copies` times or, where there is no room for that, once, or not at all. Those of the
    workers with the most critical groups come first.

    `tile_groups`: so many are kept in one piece, from the first group on. With one copy the
    neighbours share a worker's groups as they share work: in proportion to what they have.
    """
    spare = [max(0, fits - len(share)) for share, fits in zip(shares, capacity, strict=True)]
    held: list[list[range]] = [[] for _ in shares]
    for d in sorted(_workers(shares), key=lambda d: shares[d].start):
        share = shares[d]
        before, behind = _neighbours(shares, d, ())
        sides = [side for side in (before, behind) if side is not None]
        if copies > 1 and sides and all(spare[side] >= len(share) for side in sides):
            parts = [(side, share) for side in sides]
        elif copies:
            least = share.stop - (spare[behind] if behind is not None else 0)
            most = share.start + (spare[before] if before is not None else 0)
            if least > most:
                continue
            cut = _cut(shares, d, before, behind, tile_groups)
            cut = min(max(cut, least), most)
            ends = ((before, range(share.start, cut)), (behind, range(cut, share.stop)))
            parts = [(side, part) for side, part in ends if side is not None and part]
        else:
            continue
        for side, part in parts:
            spare[side] -= len(part)
            held[side].append(part)
    return tuple(tuple(each) for each in held)


def inherited(plan: Plan, gone: Collection[int], tile_groups: int) -> Plan | None:
    """`plan` without the devices that are gone, whose groups their neighbours have, and nobody
    anything that it did not hold; None where that cannot be. It has no replicas."""
    shares = list(plan.shares)
    for d in sorted((d for d in gone if shares[d]), key=lambda d: shares[d].start):
        share = shares[d]
        before, behind = _neighbours(shares, d, gone)
        most = share.start + _held_from(plan, before, share)
        least = share.stop - _held_to(plan, behind, share)
        if least > most:
            return None
        cut = min(max(_cut(shares, d, before, behind, tile_groups), least), most)
        if before is not None:
            shares[before] = range(shares[before].start, cut)
        if behind is not None:
            shares[behind] = range(cut, shares[behind].stop)
        shares[d] = range(cut, cut)
    resident = tuple(
        plan.resident_on(d) if share == plan.shares[d] else share for d, share in enumerate(shares)
    )
    return replace(plan, shares=tuple(shares), resident=resident, replicas=())


def _workers(shares: Sequence[range]) -> list[int]:
    return [d for d, share in enumerate(shares) if d and share]


def _neighbours(
    shares: Sequence[range], d: int, gone: Collection[int]
) -> tuple[int | None, int | None]:
    """The workers whose groups end where those of `d` begin, and begin where they end."""
    others = [other for other in _workers(shares) if other != d and other not in gone]
    before = next((o for o in others if shares[o].stop == shares[d].start), None)
    behind = next((o for o in others if shares[o].start == shares[d].stop), None)
    return before, behind


def _cut(
    shares: Sequence[range], d: int, before: int | None, behind: int | None, tile_groups: int
) -> int:
    """The first group of those of `d` that its neighbour behind takes."""
    share = shares[d]
    one = len(shares[before]) if before is not None else 0
    other = len(shares[behind]) if behind is not None else 0
    wanted = share.start + len(share) * one / max(1, one + other)
    if behind is None:
        return share.stop
    if before is None:
        return share.start
    return min(max(round(wanted / tile_groups) * tile_groups, share.start), share.stop)


def _held_from(plan: Plan, device: int | None, share: range) -> int:
    """How many groups the device holds replicas of, from the first of `share` on."""
    held = _replicas(plan, device)
    return next((i for i, group in enumerate(share) if group not in held), len(share))


def _held_to(plan: Plan, device: int | None, share: range) -> int:
    """The same from the last one on, backwards."""
    held = _replicas(plan, device)
    return next((i for i, group in enumerate(reversed(share)) if group not in held), len(share))


def _replicas(plan: Plan, device: int | None) -> set[int]:
    if device is None:
        return set()
    return {group for run in plan.replicas_on(device) for group in run}
