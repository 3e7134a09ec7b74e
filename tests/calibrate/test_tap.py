"""A tapped model computes what the model does, and what is done to it has an effect."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from halo_edge.calibrate.tap import Floats, Replay, TappedModel
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.load import LoadedModel

Pieces = Callable[..., list[list[int]]]
LENGTH = 200  # two steps


def logits(tapped: TappedModel, window: list[int], **taps: object) -> Floats:
    parts: list[Floats] = []
    tapped.run(window, judge=lambda _, rows: parts.append(rows.copy()), **taps)  # type: ignore[arg-type]
    return np.concatenate(parts)


def test_untouched_it_is_the_model(
    loaded: LoadedModel, tapped: TappedModel, pieces: Pieces
) -> None:
    (window,) = pieces(1, LENGTH)
    found = logits(tapped, window)
    forward, gather, expected = loaded.forward, loaded.local_ffn(), []
    for start in range(0, LENGTH, forward.max_tokens):
        part = window[start : start + forward.max_tokens]
        rows = [Rows(SequenceId(0), part, start, len(part))]
        expected.append(forward.step(rows, gather).copy())
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-4, atol=1e-4)


def test_it_is_told_of_every_layer_and_row(tapped: TappedModel, pieces: Pieces) -> None:
    (window,) = pieces(1, LENGTH)
    seen = np.zeros((3, LENGTH), int)

    def look(layer: int, positions: slice, x: Floats, a: Floats, out: Floats) -> None:
        seen[layer, positions] += 1
        assert (x.shape[1], a.shape[1], out.shape[1]) == (128, 512, 128)
        assert len(x) == len(a) == len(out) == positions.stop - positions.start
        expected = a @ tapped.down(layer).T
        assert np.abs(out - expected).max() < 0.05 * np.abs(expected).max()

    tapped.run(window, look=look)
    assert (seen == 1).all()


def test_spoilt_activations_are_missing_from_then_on(tapped: TappedModel, pieces: Pieces) -> None:
    (window,) = pieces(1, LENGTH)

    def spoil(layer: int, positions: slice, _: Floats, activations: Floats) -> None:
        if layer == 1 and positions.start <= 150 < positions.stop:
            activations[150 - positions.start] = 0.0

    before, after = logits(tapped, window), logits(tapped, window, spoil=spoil)
    changed = np.abs(before - after).max(axis=1) > 0
    assert not changed[:150].any()
    assert changed[150]
    assert (logits(tapped, window) == before).all()


def test_replayed_layers_change_nothing(tapped: TappedModel, pieces: Pieces) -> None:
    (window,) = pieces(1, LENGTH)
    outputs = np.zeros((3, LENGTH, 128), np.float32)
    looked = set()

    def keep(layer: int, positions: slice, _: Floats, __: Floats, out: Floats) -> None:
        outputs[layer, positions] = out

    def look(layer: int, *_: object) -> None:
        looked.add(layer)

    before = logits(tapped, window, look=keep)
    again = logits(tapped, window, look=look, replay=Replay(outputs, 2))
    assert looked == {2}
    assert (before == again).all()
