"""How much of a calibration is done, in the order of its stages."""

from __future__ import annotations

import pytest

from halo_edge.calibrate.work import FIRST_PASS_SHARE, SPECIAL_LAYERS, SWEEP_TOKENS, Settings, Work


def test_all_stages_come_to_the_whole() -> None:
    seen: list[tuple[str, float]] = []
    settings = Settings(tokens=8000)
    work = Work(settings, 3, lambda name, done: seen.append((name, done)))
    tokens = {
        "text": 8000,
        "first pass": 7000 * FIRST_PASS_SHARE,
        "second pass": 7000,
        "held-out text": 1000,
        "sweep": (3 + SPECIAL_LAYERS) * SWEEP_TOKENS,
        "check": 2 * SWEEP_TOKENS,
    }
    for stage, n in tokens.items():
        progress = work.stage(stage)
        begun = seen[-1]
        assert begun[0] == stage
        progress(int(n) // 2)
        progress(int(n))  # more than was thought to be the stage's
    done = [share for _, share in seen]
    assert done == sorted(done)
    assert done[0] == 0.0
    assert done[-1] == pytest.approx(1.0)
    work.end()
    assert seen[-1] == ("done", 1.0)


def test_a_stage_ends_where_the_next_begins() -> None:
    seen: list[float] = []
    work = Work(Settings(tokens=8000), 3, lambda _, done: seen.append(done))
    work.stage("text")(8000)
    work.stage("first pass")
    assert seen[-1] == seen[-2] > 0
