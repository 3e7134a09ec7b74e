"""What the model says to be calibrated on."""

from __future__ import annotations

from halo_edge.calibrate.own_words import BATCH, LENGTH, OwnWords
from halo_edge.engine.load import LoadedModel


def test_a_batch_is_the_same_by_itself(loaded: LoadedModel) -> None:
    words = OwnWords(loaded, seed=1)
    assert words.size == loaded.context // LENGTH == 3 < BATCH
    first, second = words.batch(0), words.batch(1)
    assert first != second
    assert OwnWords(loaded, seed=1).batch(1) == second
    assert OwnWords(loaded, seed=2).batch(1) != second


def test_texts_differ_and_are_bounded(loaded: LoadedModel) -> None:
    texts = OwnWords(loaded, seed=1).batch(0)
    assert len({tuple(text) for text in texts}) == 3
    for text in texts:
        assert 1 < len(text) <= LENGTH
        assert all(0 <= token < 512 for token in text)


def test_it_leaves_the_cache_empty(loaded: LoadedModel) -> None:
    OwnWords(loaded, seed=1).batch(0)
    assert loaded.forward.cells.n_free == loaded.context
