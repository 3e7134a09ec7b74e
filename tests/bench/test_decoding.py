"""Decoding against a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from halo_edge.bench.decoding import Decoder, Decoding, gap_percentile
from halo_edge.bench.median import Reading
from halo_edge.cluster.session import SessionOptions, open_session
from halo_edge.errors import HaloError


def test_tpot_and_percentiles() -> None:
    whole = Decoding((10.0, 20.0, 30.0))
    assert whole.tpot == Reading(20.0)
    stopped = Decoding((10.0, 20.0), waited_ms=300.0)
    assert stopped.tpot == Reading(110.0, cut_short=True)
    assert str(stopped) == "over 110 ms a token (2 in time)"
    assert gap_percentile([whole, stopped], 100) == 300.0
    assert gap_percentile([whole, stopped], 50) == 20.0


def test_a_decode_ends_when_its_time_is_up(tiny_model: Path) -> None:
    """By this clock each reading is a second after the last."""
    seconds = iter(range(10_000))
    with open_session(SessionOptions(tiny_model, 1, 128)) as session:
        decoder = Decoder(session, 128, clock=lambda: float(next(seconds)))
        decoder.prepare()
        assert decoder.decode(3, limit_s=60).gaps_ms == (1000.0, 1000.0, 1000.0)
        decoder.prepare()
        stopped = decoder.decode(100, limit_s=5.5)
        assert stopped.gaps_ms == (1000.0,) * 5
        assert stopped.waited_ms == pytest.approx(500.0)
        with pytest.raises(HaloError, match="too many for a context of 128"):
            decoder.decode(128, limit_s=1)


def test_tokens_and_their_margins(tiny_model: Path) -> None:
    """The same each time, and one for each gap."""
    with open_session(SessionOptions(tiny_model, 1, 128)) as session:
        decoder = Decoder(session, 128)
        decoder.prepare()
        first = decoder.decode(5, limit_s=60, settle=2)
        decoder.prepare()
        decoder.decode(2, limit_s=60)
        again = decoder.decode(5, limit_s=60)
    assert len(first.tokens) == len(first.margins) == 5
    assert first.tokens == again.tokens
    assert first.margins == again.margins
    assert all(margin >= 0 for margin in first.margins)
    assert first.switched == ()


def test_a_text_that_is_followed(tiny_model: Path) -> None:
    """Each choice has the text before it, whatever was chosen there."""
    with open_session(SessionOptions(tiny_model, 1, 128)) as session:
        decoder = Decoder(session, 128)
        decoder.prepare()
        free = decoder.decode(5, limit_s=60)
        decoder.prepare(free.text)
        assert decoder.decode(5, limit_s=60) == replace(free, gaps_ms=ANY)
        another = [(token + 1) % 32 for token in free.text]
        decoder.prepare(another)
        followed = decoder.decode(5, limit_s=60)
        assert followed.text == tuple(another)
        assert followed.tokens != followed.text[-5:]
        further = decoder.decode(2, limit_s=60)
    assert further.text[:-2] == followed.text
    assert further.tokens == further.text[-2:]


def test_tokens_that_settle_do_not_count_but_their_time_does(tiny_model: Path) -> None:
    seconds = iter(range(10_000))
    with open_session(SessionOptions(tiny_model, 1, 128)) as session:
        decoder = Decoder(session, 128, clock=lambda: float(next(seconds)))
        decoder.prepare()
        assert decoder.decode(2, limit_s=60, settle=3).gaps_ms == (1000.0,) * 2
        decoder.prepare()
        stopped = decoder.decode(2, limit_s=2.5, settle=3)
        assert (stopped.gaps_ms, stopped.waited_ms) == ((), 2500.0)
        decoder.prepare()
        assert decoder.decode(10, limit_s=4.5, settle=3).gaps_ms == (1000.0,)
        free = session.model.forward.cells.n_free
        decoder.release()
        assert session.model.forward.cells.n_free > free
        decoder.release()
