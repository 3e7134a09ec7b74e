"""A device that answers nothing for long has left; whoever is back is heard of."""

from __future__ import annotations

from halo_edge.plan.silence import ASK_AGAIN_S, SILENT_S, Silence


def test_only_who_is_silent_all_the_time() -> None:
    silence = Silence()
    for now in range(200):
        away = {1} if now % 10 else set()
        assert not silence.gone(away, float(now))


def test_it_is_found_once_and_asked_now_and_then() -> None:
    silence = Silence()
    assert not silence.gone({1, 2}, 100.0)
    assert not silence.gone({1}, 100.0 + SILENT_S / 2)  # 2 is there again
    assert silence.gone({1, 2}, 100.0 + SILENT_S) == [1]
    assert not silence.gone({1}, 101.0 + SILENT_S)
    assert not silence.to_ask(100.0 + SILENT_S + ASK_AGAIN_S - 1)
    assert silence.to_ask(100.0 + SILENT_S + ASK_AGAIN_S) == [1]
    assert not silence.to_ask(101.0 + SILENT_S + ASK_AGAIN_S)


def test_it_may_leave_again() -> None:
    silence = Silence()
    silence.gone({1}, 0.0)
    assert silence.gone({1}, SILENT_S) == [1]
    silence.back(1)
    assert not silence.gone({1}, SILENT_S + 1)
    assert silence.gone({1}, 2 * SILENT_S + 1) == [1]
    silence.back(1)
    assert not silence.to_ask(1e6)
