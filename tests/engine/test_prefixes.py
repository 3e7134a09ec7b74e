"""What is kept for whoever begins alike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.prefixes import MIN_REUSE, Prefixes, common_prefix

A, B, C = SequenceId(1), SequenceId(2), SequenceId(3)
tokens = st.lists(st.integers(0, 1), max_size=40)


@given(tokens, tokens, tokens)
def test_common_prefix(shared: list[int], a: list[int], b: list[int]) -> None:
    a, b = shared + a, shared + b
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(a, b) == (expected if expected >= MIN_REUSE else 0)


def test_the_longest_is_found_and_the_least_used_dropped() -> None:
    prefixes, base = Prefixes(), list(range(100))
    prefixes.keep(A, base[:30])
    prefixes.keep(B, [*base[:60], 7])
    prefixes.keep(C, base[50:])
    assert prefixes.longest(base) == (B, 60)
    assert prefixes.longest(base[:20]) is not None
    assert prefixes.longest([5, 6, 7]) is None
    assert (len(prefixes), prefixes.n_tokens) == (3, 141)
    prefixes.use(A)
    assert prefixes.drop_oldest() == B
    assert prefixes.longest(base) == (A, 30)
    assert prefixes.drop(A)
    assert not prefixes.drop(A)
    assert prefixes.length(A) == 0
    assert prefixes.drop_oldest() == C
