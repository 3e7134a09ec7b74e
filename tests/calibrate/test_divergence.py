"""KL divergence from a window's distributions."""

from __future__ import annotations

import numpy as np

from halo_edge.calibrate.divergence import Reference


def test_it_is_kl_row_by_row() -> None:
    rng = np.random.default_rng(0)
    base = 5 * rng.standard_normal((6, 40), np.float32)
    other = base + rng.standard_normal((6, 40), np.float32)
    reference = Reference(6, 40)
    reference.keep(slice(0, 4), base[:4])
    reference.keep(slice(4, 6), base[4:])
    p, q = (np.exp(x.astype(np.float64)) for x in (base, other))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    expected = (p * np.log(p / q)).sum(axis=1)
    np.testing.assert_allclose(reference.nats(slice(0, 4), other[:4]), expected[:4], rtol=1e-4)
    np.testing.assert_allclose(reference.nats(slice(4, 6), other[4:]), expected[4:], rtol=1e-4)


def test_of_itself_it_is_nothing_and_never_negative() -> None:
    base = 20 * np.random.default_rng(0).standard_normal((3, 5000), np.float32)
    reference = Reference(3, 5000)
    reference.keep(slice(0, 3), base)
    nats = reference.nats(slice(0, 3), base + np.float32(7))  # the same distributions
    assert (nats >= 0).all()
    assert (nats < 1e-5).all()
