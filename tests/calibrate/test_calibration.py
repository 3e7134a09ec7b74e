"""A whole calibration of a tiny model, straight through and with interruptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halo_edge.calibrate.calibration import Calibration, Findings, _special_layers
from halo_edge.calibrate.checkpoint import Checkpoint
from halo_edge.calibrate.corpus import Sources
from halo_edge.calibrate.second_pass import SecondPass
from halo_edge.calibrate.work import SPECIAL_LAYERS, Settings
from halo_edge.engine.load import load
from halo_edge.groups.profile import Profile
from halo_edge.model.fingerprint import fingerprint

SETTINGS = Settings(tokens=1600, group_size=64, rank=16, sources=Sources())
Tell = Callable[[str, float], None]


class Killed(Exception):
    pass


class Clock:
    """A minute passes between any two looks at it, so that every chance to save is taken."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 60.0
        return self.now_s


def calibrate(
    model: Path, output: Path, tell: Tell = lambda *_: None, settings: Settings = SETTINGS
) -> tuple[Profile, Findings]:
    loaded = load(model, threads=1)
    checkpoint = Checkpoint(output, "key")
    calibration = Calibration(loaded, settings, checkpoint, tell, Clock())
    return calibration.run(fingerprint(loaded.gguf), {"command": "test"})


@pytest.fixture(scope="module")
def straight(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Profile, Findings]:
    return calibrate(tiny_model, tmp_path_factory.mktemp("straight") / "p")


def assert_same(a: Profile, b: Profile) -> None:
    assert (a.fingerprint, a.group_size, a.special) == (b.fingerprint, b.group_size, b.special)
    assert a.about == b.about
    for mine, other in zip(a.layers, b.layers, strict=True):
        for name, value in vars(mine).items():
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


def test_the_profile_is_of_the_model_and_sound(
    straight: tuple[Profile, Findings],
) -> None:
    profile, findings = straight
    profile.check_fits(profile.fingerprint, 3, 128, 512)
    assert profile.rank == 16
    assert profile.about["command"] == "test"
    assert int(profile.about["tokens"]) > 1000
    for layer in profile.layers:
        assert (layer.energy > 0).all()
        assert (layer.residual <= layer.energy).all()
        assert layer.sensitivity > 0
        # The groups of a model of random weights answer independently of one another.
        assert layer.energy.sum() == pytest.approx(layer.total, rel=0.3)
    assert -1 <= findings.spearman <= 1
    assert findings.zero.measured > 0
    assert findings.sketch.measured > 0


def test_what_is_stored_is_what_was_measured(
    straight: tuple[Profile, Findings], tmp_path: Path
) -> None:
    """Basis, regression and predictor are the same after saving, as if nothing were rounded."""
    profile, _ = straight
    profile.save(tmp_path / "p")
    for mine, read in zip(profile.layers, Profile.load(tmp_path / "p").layers, strict=True):
        for name in ("basis", "regression", "predictor", "permutation", "mean"):
            np.testing.assert_allclose(getattr(read, name), getattr(mine, name), rtol=1e-6)


def test_killed_again_and_again_it_makes_the_same(
    straight: tuple[Profile, Findings], tiny_model: Path, tmp_path: Path
) -> None:
    """It is killed in every stage, each time where the stage before was through at the earliest."""
    output = tmp_path / "p"
    stages: list[str] = []
    for stage in ("text", "first pass", "second pass", "held-out text", "sweep", "check"):
        calls = 0

        def tell(name: str, _: float, stage: str = stage) -> None:
            nonlocal calls
            stages.append(name)
            calls += name == stage
            if calls > 1:
                raise Killed

        with pytest.raises(Killed):
            calibrate(tiny_model, output, tell)
    assert len([path for path in tmp_path.iterdir() if "resume" in path.name]) == 1
    profile, findings = calibrate(tiny_model, output)
    assert_same(profile, straight[0])
    assert findings == straight[1]


def test_what_was_done_is_not_done_again(tiny_model: Path, tmp_path: Path) -> None:
    def killed(name: str, _: float) -> None:
        if name == "held-out text":
            raise Killed

    with pytest.raises(Killed):
        calibrate(tiny_model, tmp_path / "p", killed)
    told: list[tuple[str, float]] = []

    def tell(name: str, done: float) -> None:
        told.append((name, done))
        if name == "held-out text":
            raise Killed

    with pytest.raises(Killed):
        calibrate(tiny_model, tmp_path / "p", tell)
    # Text and first pass are not gone through, the second pass only in name.
    assert [name for name, _ in told].count("text") == 1
    assert [name for name, _ in told].count("first pass") == 1


def test_progress_only_rises_and_ends(tiny_model: Path, tmp_path: Path) -> None:
    told: list[float] = []
    calibrate(tiny_model, tmp_path / "p", lambda _, done: told.append(done))
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == 1


def test_groups_that_do_not_divide_the_layer(tiny_model: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, group_size=96, sources=Sources(generated=False), tokens=1100)
    profile, _ = calibrate(tiny_model, tmp_path / "p", settings=settings)
    profile.save(tmp_path / "p")
    assert Profile.load(tmp_path / "p").layers[0].energy.shape == (6,)


def test_a_model_of_a_small_context(make_model: Callable[..., Path], tmp_path: Path) -> None:
    profile, _ = calibrate(make_model(context=100), tmp_path / "p")
    assert int(profile.about["tokens"]) > 1000


def test_special_positions_are_those_often_out_of_the_ordinary(
    straight: tuple[Profile, Findings],
) -> None:
    class Counted:
        outliers = np.zeros((6, 40), np.int64)
        excess = np.zeros((6, 40))
        pieces = 10

    Counted.outliers[:, 0] = 10
    Counted.excess[:, 0] = [5, 1, 2, 9, 3, 4]
    Counted.outliers[2, 7] = 5
    Counted.outliers[3, 9] = 4  # not often enough
    counted: SecondPass = Counted()  # type: ignore[assignment]
    assert _special_layers(counted) == {0: [3, 0, 5, 4][:SPECIAL_LAYERS], 7: [2]}
