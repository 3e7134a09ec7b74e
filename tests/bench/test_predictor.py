"""The predictor's experiment: measures of agreement, and that it runs and reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from halo_edge.bench.experiment import Settings, Size, measure
from halo_edge.bench.group_energies import Observed, Observer
from halo_edge.bench.predictor import Method, judged, predictor, recall
from halo_edge.bench.result import document, rows_of
from halo_edge.calibrate import own_words
from halo_edge.engine.load import load
from halo_edge.errors import HaloError

Floats = NDArray[np.float64]


@given(st.permutations(range(12)), st.permutations(range(12)))
def test_recall(true: list[int], guess: list[int]) -> None:
    """Against sets."""
    best, thought = (set(np.argsort(x)[-3:]) for x in (true, guess))
    share = recall(np.array([true], np.float32), np.array([guess], np.float32))
    assert share[0] == pytest.approx(len(best & thought) / 3)


def observed(energies: Floats) -> Observed:
    """Of one layer, from f[T, G]."""
    tokens = np.zeros(len(energies), np.int64)
    return Observed(tokens, np.zeros((1, len(energies), 1), "f4"), energies[None].astype("f4"))


def test_judged() -> None:
    """Only second halves count, and only the order; recall also among the workers' groups."""
    up = np.arange(8.0)
    energies = np.array([up, up, up, up[::-1]])
    seen = observed(energies)
    perfect = judged(lambda _, piece: np.exp(piece.energies[0]), [seen])
    assert (perfect.spearman, perfect.recall, perfect.recall_remote) == (1, 1, 1)
    assert perfect.tokens == 2
    half_right = judged(lambda _, piece: np.tile(up, (4, 1)), [seen])
    assert half_right.spearman == pytest.approx(0)
    assert half_right.recall == 0.5
    # The workers have groups 2 ... 7; the best 2 of 6 are 6, 7 and 2, 3.
    assert half_right.recall_remote == 0.5


def test_true_energies(tiny_model: Path, random_profile: Any) -> None:
    """Against the definition: what each group contributes to the output, squared."""
    model, profile = load(tiny_model, threads=1), random_profile(tiny_model)
    observer = Observer(model, profile)
    seen = observer.observe(range(10, 40))
    assert seen.energies.shape == (3, 30, 8)
    assert seen.sketches.shape == (3, 30, 4)
    tapped = observer._tapped
    layer, found = 1, []

    def look(at: int, rows: slice, x: Any, activations: Any, out: Any) -> None:
        if at == layer:
            permutation = profile.layers[layer].permutation
            down = tapped.down(layer)[:, permutation]
            parts = [
                activations[:, permutation][:, g : g + 64] @ down[:, g : g + 64].T
                for g in range(0, 512, 64)
            ]
            found.append(np.stack([(part**2).sum(axis=1) for part in parts], axis=1))
            np.testing.assert_allclose(
                seen.sketches[layer, rows], x @ profile.layers[layer].basis.T, rtol=1e-4, atol=1e-4
            )

    tapped.run(range(10, 40), look=look)
    np.testing.assert_allclose(seen.energies[layer], np.concatenate(found), rtol=1e-3)


def test_experiment(tiny_model: Path, random_profile: Any, tmp_path: Path) -> None:
    """A profile that knows nothing is no better than chance; what learned from the text is."""
    text = tmp_path / "numbers"
    text.write_text(" ".join(f"the number {i % 7} follows {i % 7 - 1}." for i in range(200)))
    profile = tmp_path / "profile"
    random_profile(tiny_model).save(profile)
    experiment = predictor(text)
    small = replace(
        experiment,
        cases=lambda s: [case for case in experiment.cases(s) if case.text != "own words"],
    )
    settings = Settings(tiny_model, Size(1, 240, 30.0), quick=True, profile=profile)
    told: list[str] = []
    result = document(small, settings, measure(small, settings, told.append))
    rows = rows_of(result, small)
    assert len(rows) == len(told) == 2 * len(Method)
    assert experiment.table(rows).count("\n") == len(rows) + 1
    scores = {(row.text, row.method): row for row in rows}
    for name in ("Python source", "numbers"):
        oracle = scores[name, Method.ORACLE.value]
        assert (oracle.spearman, oracle.recall, oracle.recall_remote) == (1, 1, 1)
        assert oracle.tokens == 60
        assert abs(scores[name, Method.PREDICTOR.value].spearman) < 0.4
    assert scores["numbers", Method.EMBEDDING.value].spearman > 0.4


def test_own_words(
    tiny_model: Path, random_profile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_words, "LENGTH", 20)
    profile = tmp_path / "profile"
    random_profile(tiny_model).save(profile)
    experiment = predictor()
    small = replace(
        experiment, cases=lambda s: [c for c in experiment.cases(s) if c.text == "own words"][:2]
    )
    settings = Settings(tiny_model, Size(1, 60, 30.0), quick=True, profile=profile)
    rows = measure(small, settings, lambda _: None).rows
    assert [row.method for row in rows] == ["predictor", "static"]
    assert rows[0].tokens > 0


def test_without_a_profile(tiny_model: Path) -> None:
    settings = Settings(tiny_model, Size(1, 60, 30.0), quick=True)
    with pytest.raises(HaloError, match="halo calibrate"):
        measure(predictor(), settings, lambda _: None)


def test_too_few_tokens(tiny_model: Path, random_profile: Any, tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    random_profile(tiny_model).save(profile)
    settings = Settings(tiny_model, Size(1, 2, 30.0), quick=True, profile=profile)
    with pytest.raises(HaloError, match="too few"):
        measure(predictor(), settings, lambda _: None)
