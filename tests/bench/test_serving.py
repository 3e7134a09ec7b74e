"""The cases of serving, and what is shown of them."""

from __future__ import annotations

from halo_edge.bench.http_client import token_ids
from halo_edge.bench.median import Reading
from halo_edge.bench.serving import CASES, SERVING, Case
from halo_edge.bench.streams import Sample

ONE = Case(4, 1)


def test_rows() -> None:
    one = Sample(200, 5, 1.1, run_ms=195, overhead=1.03)
    late = Sample(
        400, 20, 1.2, before_ms=450, during_ms=550, ttft_s=Reading(60, cut_short=True)
    )  # fmt: skip
    alone, many = SERVING.rows({ONE: [one], Case(4, 8, 2000): [late]})
    assert (alone.factor, alone.overhead, alone.added_ms) == (1, 1.03, None)
    assert (many.factor, many.added_ms, many.ttft_s, many.ttft_at_least_s) == (4, 100, None, 60)
    table = SERVING.table([alone, many])
    assert "1.03x" in table
    assert "4.00x" in table
    assert "> 60.0" in table


def test_cases() -> None:
    assert [case.beside_run for case in CASES] == [True, False, False, False, False]
    assert len({case.name for case in CASES}) == len(CASES)


def test_prompts_have_no_beginning_in_common() -> None:
    prompts = [token_ids(number, 12) for number in range(9)]
    assert len({prompt[0] for prompt in prompts}) == 9
    assert all(3 <= token < 256 for token in token_ids(0, 2000))
