"""Text scored for an experiment: kept, and compared with what was kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halo_edge.bench.probe_messages import Base, Score
from halo_edge.bench.scoring import Scorer, read_text
from halo_edge.cluster.relaxation import Spent
from halo_edge.cluster.session import SessionOptions, open_session
from halo_edge.errors import HaloError

CONTEXT = 64


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text"
    path.write_text(" ".join(f"the number {i} is followed by {i + 1}." for i in range(100)))
    return str(path)


@pytest.fixture
def scorer(tiny_model: Path, tmp_path: Path) -> Iterator[Scorer]:
    with open_session(SessionOptions(tiny_model, 1, CONTEXT)) as session:
        yield Scorer(session, tmp_path)


class Counting:
    """A cluster that spends a chunk each time it is looked at."""

    def __init__(self) -> None:
        self._looks = 0

    @property
    def spent(self) -> Spent:
        self._looks += 1
        return Spent(chunks_filled=self._looks)


def test_the_same_windows_are_compared(scorer: Scorer, text: str) -> None:
    cluster: Any = Counting()
    kept = scorer.score(cluster, Score(text, CONTEXT, 3, 2, 1, Base.KEEP))
    assert (len(kept.losses), kept.kls, kept.tokens) == (2 * 31, [], 128)
    assert len(kept.steps_ms) == 128
    assert kept.spent == Spent(chunks_filled=1)
    compared = scorer.score(cluster, Score(text, CONTEXT, 3, 2, 1, Base.COMPARE))
    assert compared.losses == kept.losses
    assert len(compared.kls) == compared.same_top == 62
    assert max(compared.kls) < 1e-6
    for first, step_tokens in ((4, 1), (3, 2)):
        other = Score(text, CONTEXT, first, 2, step_tokens, Base.COMPARE)
        with pytest.raises(HaloError, match="cannot read"):
            scorer.score(cluster, other)


def test_what_cannot_be_scored(scorer: Scorer, text: str, tmp_path: Path) -> None:
    cluster: Any = SimpleNamespace(spent=Spent())
    with pytest.raises(HaloError, match="fewer than 1001 windows of 64"):
        scorer.score(cluster, Score(text, CONTEXT, 1, 1000, 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(HaloError, match="is not text in UTF-8"):
        read_text(tmp_path / "binary")
