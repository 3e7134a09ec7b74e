"""Learning: exact without forgetting, harmless with anything, and bounded in what it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.groups import learning, sketch
from halo_edge.groups.damage import DamageModel
from halo_edge.groups.learning import Learner, rows_bytes, weights_bytes
from halo_edge.groups.profile import Profile
from halo_edge.groups.surrogate import Fill, Surrogate

HIDDEN, DEVICES, EXTENSION = 24, (1, 2), 5
SHARES = (range(0, 2), range(2, 5), range(5, 8))
Floats = NDArray[np.float32]


class Served:
    """A learner, what it improves, and text of which each partial is a linear map of the features.

    `truth`: that map, by device, [H, features + 1]; `noise`: what no map tells.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        fill: Fill = Fill.SKETCH,
        extension: int = 0,
        noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.profile = profile
        self.damage = DamageModel(profile, SHARES, fill)
        shape = (len(profile.layers), HIDDEN, profile.rank + 1)
        self.first = {d: 0.1 * self.rng.standard_normal(shape).astype(np.float32) for d in DEVICES}
        self.surrogates = {
            d: Surrogate.of(fill, weights.copy(), profile) for d, weights in self.first.items()
        }
        self.learner = Learner(profile, self.surrogates, self.damage, extension)
        self.features = profile.rank + extension
        self.truth = {
            d: 0.1 * self.rng.standard_normal((HIDDEN, self.features + 1)) for d in DEVICES
        }
        self.noise = noise

    def text(self, rows: int) -> tuple[Floats, dict[int, Floats]]:
        features = self.rng.standard_normal((rows, self.features)).astype(np.float32)
        ones = np.concatenate([features, np.ones((rows, 1))], axis=1)
        noise = self.noise * self.rng.standard_normal((len(DEVICES), rows, HIDDEN))
        partials = {
            d: (ones @ self.truth[d].T + noise[i]).astype(np.float32) for i, d in enumerate(DEVICES)
        }
        return features, partials

    def step(self, features: Floats, partials: dict[int, Floats]) -> None:
        """The same text in every layer."""
        rows = len(features)
        for layer in range(len(self.profile.layers)):
            if self.learner.wants(layer, rows):
                before = features[:, : self.profile.rank]
                for device, partial in partials.items():
                    self.learner.observe(layer, device, features, before, partial)
        self.learner.end_step(rows)

    def left(self, device: int, rows: int = 500) -> float:
        """Of the energy of partials of new text, the share that the fill of layer 0 misses."""
        features, partials = self.text(rows)
        out = np.empty((rows, HIDDEN), np.float32)
        self.surrogates[device].fill(0, features, out)
        return float(((partials[device] - out) ** 2).sum() / (partials[device] ** 2).sum())


@pytest.fixture
def profile(make_profile: Any) -> Profile:
    made: Profile = make_profile(n_layers=2, hidden=HIDDEN)
    return made


def test_what_it_takes_of_memory(profile: Profile) -> None:
    served = Served(profile, extension=min(sketch.EXTENSION, HIDDEN))
    for _ in range(100):
        served.step(*served.text(8))
    shape, learner = (2, HIDDEN, profile.rank), served.learner
    for surrogate in served.surrogates.values():
        assert surrogate.weights.nbytes == weights_bytes(*shape)
    arrays = [learner._features, learner._before, learner._partials, *learner._moments]
    found = sum(array.nbytes for array in arrays if array is not None)
    assert found == rows_bytes(*shape, len(DEVICES))


@pytest.mark.parametrize("rows", [1, 10, 64])
def test_without_forgetting_it_is_ridge_regression(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Of all rows at once, towards the profile's weights as its moments weigh them."""
    monkeypatch.setattr(learning, "FORGETTING", 1.0)
    monkeypatch.setattr(learning, "LAYERS_PER_TOKEN", 2)
    monkeypatch.setattr(learning, "TOKENS_PER_BLOCK", 1)
    monkeypatch.setattr(learning, "RIPE_ROWS", 1)
    served = Served(profile)
    seen: list[tuple[Floats, dict[int, Floats]]] = []
    for _ in range(400 // rows):
        text = served.text(rows)
        seen.append(text)
        served.step(*text)
    for _ in profile.layers:  # what still waits
        served.learner.end_step(1)
    z = np.concatenate([features for features, _ in seen]).astype(np.float64)
    z = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    for layer in range(2):
        mean = np.append(profile.layers[layer].mean, 1)
        prior = np.eye(len(mean))
        prior[-1], prior[:, -1] = mean, mean
        prior *= learning.PRIOR_TOKENS
        for device in DEVICES:
            partial = np.concatenate([partials[device] for _, partials in seen])
            first = served.first[device][layer]
            batch = np.linalg.solve(prior + z.T @ z, prior @ first.T + z.T @ partial).T
            np.testing.assert_allclose(
                served.surrogates[device].weights[layer], batch, rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize("rows", [1, 128])
@pytest.mark.parametrize("extension", [0, EXTENSION])
def test_learns_another_text(profile: Profile, rows: int, extension: int) -> None:
    served = Served(profile, extension=extension)
    before = served.left(1)
    for _ in range(30 if rows > 1 else 3000):
        served.step(*served.text(rows))
    assert before > 0.5
    assert served.left(1) < 0.25


def test_goes_with_the_text(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was true before is forgotten."""
    monkeypatch.setattr(learning, "FORGETTING", 0.995)
    served = Served(profile)
    for _ in range(100):
        served.step(*served.text(128))
    served.truth = {d: -truth for d, truth in served.truth.items()}
    assert served.left(1) > 1
    for _ in range(100):
        served.step(*served.text(128))
    assert served.left(1) < 0.6


def test_a_device_whose_partials_are_lost_keeps_its_weights(profile: Profile) -> None:
    served = Served(profile)
    for _ in range(40):
        features, partials = served.text(128)
        served.step(features, {1: partials[1]})
    np.testing.assert_array_equal(served.surrogates[2].weights, served.first[2])
    assert served.left(1) < 0.5
    lost = Served(profile)  # every second: learns, though later
    for i in range(160):
        features, partials = lost.text(128)
        lost.step(features, partials if i % 2 else {1: partials[1]})
    assert lost.left(2) < 0.5


@pytest.mark.parametrize(
    "spoilt", [lambda p: p * 1e5, lambda p: p * np.nan, lambda p: p * np.inf, lambda p: p * 1e30]
)
def test_attention_sinks_and_numbers_that_are_none_are_left_out(
    profile: Profile, spoilt: Any
) -> None:
    """In the features as in the partials: the others are learned from as if they had not been."""
    clean, other = Served(profile, extension=EXTENSION), Served(profile, extension=EXTENSION)
    for i in range(60):
        features, partials = clean.text(64)
        with np.errstate(all="ignore"):
            mixed = {d: partial.copy() for d, partial in partials.items()}
            mixed_features = features.copy()
            if i:  # the first tells what is usual
                for partial in mixed.values():
                    partial[3] = spoilt(partial[3])
                mixed_features[9] = spoilt(features[9])
                mixed_features[5, -1] = spoilt(features[5, -1])
        clean.step(features, partials)
        other.step(mixed_features, mixed)
    clean_left = clean.left(1)
    assert clean_left < 0.3
    assert other.left(1) == pytest.approx(clean_left, rel=0.2)
    nats = other.damage.nats(0, 1, clean.text(4)[0][:, : profile.rank], np.arange(4, dtype="i4"))
    assert np.isfinite(nats).all()


def test_a_million_updates(make_profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, constants, zeros, few directions only, tiny, large, no numbers: weights stay bounded,
    and when text comes again it is learned again."""
    rows = 2000
    monkeypatch.setattr(learning, "BLOCK_ROWS", rows)
    served = Served(make_profile(n_layers=1, hidden=HIDDEN), extension=EXTENSION)
    rng = np.random.default_rng(3)
    constant = rng.standard_normal(served.features).astype(np.float32)
    texts = [served.text(rows) for _ in range(8)]

    def spoilt(kind: int) -> tuple[Floats, dict[int, Floats]]:
        features, partials = texts[rng.integers(len(texts))]
        features, partials = features.copy(), {d: p.copy() for d, p in partials.items()}
        if kind == 1:
            features[:] = constant
        elif kind == 2:
            features[:] = 0
        elif kind == 3:
            features[:, 1:] = features[:, :1]
        elif kind == 4:
            features *= np.float32(1e-20)
        elif kind == 5:
            features *= np.float32(3)
            partials = {d: partial * np.float32(8) for d, partial in partials.items()}
        elif kind == 6:
            features[::2] = np.nan
            partials[1][1::3] = np.inf
        elif kind == 7:
            partials = {d: -partial for d, partial in partials.items()}
        return features, partials

    largest = 0.0
    for _ in range(10):
        for kind in range(8):
            for _ in range(6):
                served.step(*spoilt(kind))
            weights = [surrogate.weights for surrogate in served.surrogates.values()]
            assert all(np.isfinite(w).all() for w in weights)
            largest = max(largest, *(float(np.abs(w).max()) for w in weights))
    assert largest < 100  # of truths of 0.1, and text eight times as large
    for _ in range(20):
        served.step(*spoilt(0))
    assert served.left(1) < 0.1
    assert served.left(2) < 0.1


@pytest.mark.parametrize("fill", list(Fill))
def test_correction_makes_the_damage_honest(profile: Profile, fill: Fill) -> None:
    """Predicted and measured loss of energy agree on the average, within the correction's bounds,
    whatever is put in the place of a partial."""
    served = Served(profile, fill=fill, noise=0.3)
    for _ in range(150):
        served.step(*served.text(128))
    features, partials = served.text(2000)
    out = np.empty((2000, HIDDEN), np.float32)
    for layer in range(2):
        per_energy = profile.layers[layer].sensitivity / profile.layers[layer].total
        for device in DEVICES:
            served.surrogates[device].fill(layer, features, out)
            measured = ((partials[device] - out) ** 2).sum(axis=1).mean() * per_energy
            positions = np.arange(9, 2009, dtype=np.int32)
            z = features[:, : profile.rank]
            predicted = served.damage.nats(layer, device, z, positions).mean()
            assert predicted == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize("tokens", [1, 3, 128])
def test_bounded_work(make_profile: Any, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Layers take turns in being observed, and are learned from alike, in proportion to tokens."""
    n_layers, steps = 12, 2400 // min(tokens, 30)
    served = Served(make_profile(n_layers=n_layers, hidden=HIDDEN))
    learned: list[int] = []
    learn = served.learner._learn

    def counted(layer: int) -> None:
        learned.append(layer)
        learn(layer)

    monkeypatch.setattr(served.learner, "_learn", counted)
    wanted, text = np.zeros(n_layers), served.text(tokens)
    for _ in range(steps):
        wants = [served.learner.wants(layer, tokens) for layer in range(n_layers)]
        assert sum(wants) <= min(n_layers, learning.LAYERS_PER_TOKEN * tokens)
        wanted += wants
        before = len(learned)
        served.step(*text)
        assert len(learned) - before <= min(n_layers, -(-tokens // learning.TOKENS_PER_BLOCK))
    assert wanted.min() > 0.6 * wanted.max()
    assert len(learned) <= steps * tokens // learning.TOKENS_PER_BLOCK
    counts = np.bincount(learned, minlength=n_layers)
    assert counts.min() > 5
    assert counts.max() - counts.min() <= 1


def test_many_rows_are_sampled_evenly_and_never_too_many(profile: Profile) -> None:
    """And where there is no more room, nothing is kept."""
    served = Served(profile)
    features, partials = served.text(200)
    partials[1][:, 0] = np.arange(200)
    for _ in range(3):
        for device, partial in partials.items():
            served.learner.observe(0, device, features, features[:, : profile.rank], partial)
        served.learner.end_step(1)
    kept = served.learner._partials[0, 0, : served.learner._count[0], 0]
    assert learning.RIPE_ROWS <= len(kept) <= learning.BLOCK_ROWS
    first = kept[: np.argmax(np.diff(kept, append=-1) <= 0) + 1]
    assert len(set(np.diff(first))) == 1
    assert first[-1] > 190
    assert served.learner.wants(0, 128) == (len(kept) < learning.BLOCK_ROWS)


def test_any_mean_of_a_profile(make_profile: Any) -> None:
    """One longer than |z| can be: moments of nothing, but learning goes on."""
    profile: Profile = make_profile(n_layers=1, hidden=HIDDEN)
    profile.layers[0].mean[:] = 1e10
    served = Served(profile, fill=Fill.SKETCH)
    for _ in range(50):
        served.step(*served.text(128))
    assert served.left(1) < 0.3
