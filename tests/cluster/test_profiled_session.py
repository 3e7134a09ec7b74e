"""Clusters with a profile: permuted neurons compute the same, and fills come to the root."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from halo_edge.cluster.fill_fetch import fetch_fills
from halo_edge.cluster.links import RootLink
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.cluster.root import Cluster, RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.compute.wire import Wire
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.errors import HaloError
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.placement import Placement, placed
from halo_edge.groups.profile import Profile
from halo_edge.lab.impairment import ImpairedLink
from halo_edge.lab.link import LinkSettings
from halo_edge.model.gguf_file import GgufFile
from halo_edge.sync.ids import DeviceId

PROMPT = [(7 * i) % 250 for i in range(40)]
DEADLINE_S = 30.0
MakeProfile = Callable[..., Profile]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))


@pytest.fixture(autouse=True)
def fills_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody asks for a step."""
    monkeypatch.setattr("halo_edge.cluster.first_step.IDLE_S", 0.0)


@pytest.fixture(scope="module")
def f32_model(make_model: Callable[..., Path]) -> Path:
    """Without quantisation, whose rounding would hide small mistakes."""
    return make_model(quantization="f32")


@pytest.fixture
def profile(f32_model: Path, random_profile: MakeProfile) -> Profile:
    return random_profile(f32_model)


@contextmanager
def two_workers(model: Path, profile: Profile, **options: Any) -> Iterator[Session]:
    rounds = RoundsOptions(wire=Wire.F16, profile=profile, **options)
    with open_session(SessionOptions(model, 1, 512, 2, None, rounds)) as session:
        yield session


def relaxable(session: Session) -> Cluster:
    """Its cluster, when the fills are there."""
    assert session.cluster is not None
    deadline = time.monotonic() + DEADLINE_S
    while not session.cluster.relaxable:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # it looks again; nothing is expected of how long that takes
    return session.cluster


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[dict[DeviceId, NDArray[np.float16]]]:
    """The fills that roots got from their workers."""
    found = []

    def fetch(*arguments: Any) -> dict[DeviceId, NDArray[np.float16]]:
        found.append(fetch_fills(*arguments))
        return found[-1]

    monkeypatch.setattr("halo_edge.cluster.epochs.fetch_fills", fetch)
    return found


def logits(session: Session) -> NDArray[np.float32]:
    rows = [Rows(SequenceId(0), PROMPT, 0, 1)]
    found = session.model.forward.step(rows, session.gather).copy()
    session.model.forward.cells.release(SequenceId(0))
    return found


@pytest.mark.parametrize("placement", Placement)
def test_as_one_device(f32_model: Path, profile: Profile, placement: Placement) -> None:
    """Measured: 0.004, of logits up to 3; without the partials of one layer 2."""
    with open_session(SessionOptions(f32_model, 1, 512, 0)) as session:
        alone = logits(session)
    with two_workers(f32_model, profile, placement=placement) as session:
        np.testing.assert_allclose(logits(session), alone, atol=0.01)


def test_fills_and_neurons_are_those_of_the_placed_profile(
    f32_model: Path, profile: Profile, fetched: list[dict[DeviceId, NDArray[np.float16]]]
) -> None:
    shares = {"placement": Placement.RANDOM, "split": [2, 1, 1]}
    with two_workers(f32_model, profile, **shares) as session:
        cluster = relaxable(session)
        packing, plan = cluster.packing, cluster.plan
    neurons = [packing.partition.neuron_range(share) for share in plan.shares]
    shuffled = placed(profile, Placement.RANDOM)
    assert packing.profile is not None
    assert neurons == [range(256), range(256, 384), range(384, 512)]
    for found, of in zip(packing.profile.layers, shuffled.layers, strict=True):
        np.testing.assert_array_equal(found.permutation, of.permutation)
    source = FfnSource(GgufFile.open(f32_model), [of.permutation for of in shuffled.layers])
    (fills,) = fetched
    assert set(fills) == {1, 2}
    for device, fill in fills.items():
        assert fill.shape == (3, 128, 5)
        held = neurons[device]
        for layer, of in enumerate(shuffled.layers):
            down = source.cut(layer, held).down
            matrix = dequantize(down.bytes_2d(), GGMLQuantizationType(down.ggml_type))
            exact = matrix @ of.regression[held.start : held.stop]
            np.testing.assert_allclose(fill[layer], exact, rtol=2e-3, atol=2e-3 * exact.std())


def lossy(link: RootLink) -> RootLink:
    return ImpairedLink(link, LinkSettings(loss=0.3), seed=5)


def test_strict_is_exact_however_much_is_lost(f32_model: Path, profile: Profile) -> None:
    with two_workers(f32_model, profile) as session:
        clean = logits(session)
    with two_workers(f32_model, profile, wrap_link=lossy) as session:
        cluster = relaxable(session)
        for _ in range(5):
            np.testing.assert_allclose(logits(session), clean, atol=1e-3)
        spent = cluster.spent
    assert spent.chunks_filled == spent.nats == spent.strict_rounds == 0
    assert spent.chunks_recovered + spent.chunks_taken_over > 0


@pytest.mark.parametrize("split", [None, [1, 0, 1]])
def test_what_is_gone_without_is_filled_and_counted(
    f32_model: Path, profile: Profile, split: list[float] | None
) -> None:
    layers = tuple(replace(layer, sensitivity=1e-6) for layer in profile.layers)
    gentle = replace(profile, layers=layers, special=())  # nothing is too dear to go without
    relax = RelaxOptions(recovery=False)  # so that nothing but fills can take its place
    rounds = {"wrap_link": lossy, "relax": relax, "split": split}
    with two_workers(f32_model, gentle, **rounds) as session:
        cluster = session.cluster
        assert cluster is not None
        assert cluster.relaxable
        for _ in range(5):
            assert np.isfinite(logits(session)).all()
        first = cluster.spent
        cluster.relax(RelaxOptions())
        logits(session)
        rest = cluster.spent.since(first)
    assert first.rounds == 5 * 3
    assert first.chunks_filled == sum(first.filled_by_device.values()) > 0
    assert first.nats == pytest.approx(sum(first.nats_by_layer.values()))
    assert first.nats > 0
    # Who holds no neurons takes no part.
    assert set(first.filled_by_device) == ({1, 2} if split is None else {2})
    assert first.chunks_taken_over == 0
    assert rest.chunks_filled == rest.nats == 0


class Held:
    """The root's asking for fills: not before it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def __call__(self, *arguments: Any) -> dict[DeviceId, NDArray[np.float16]]:
        assert self.let.wait(DEADLINE_S)
        return fetch_fills(*arguments)


@pytest.mark.parametrize("on_request", [False, True])
def test_the_first_tokens_do_not_wait_for_fills(
    f32_model: Path, profile: Profile, monkeypatch: pytest.MonkeyPatch, on_request: bool
) -> None:
    """They are strict, whoever asks for what; later ones are not."""
    layers = tuple(replace(layer, sensitivity=1e-6) for layer in profile.layers)
    gentle = replace(profile, layers=layers, special=())
    held = Held()
    monkeypatch.setattr("halo_edge.cluster.epochs.fetch_fills", held)
    nats = 0.0 if on_request else 1.0
    relax = RelaxOptions(kl_budget=nats, take_over=False, max_copies=1)
    with two_workers(f32_model, gentle) as session:
        exact = logits(session)
        held.let.set()
    held.let.clear()
    with two_workers(f32_model, gentle, wrap_link=lossy, relax=relax) as session:
        cluster = session.cluster
        assert cluster is not None
        if on_request:
            cluster.open_account(0, 1.0)
        for _ in range(3):
            np.testing.assert_allclose(logits(session), exact, atol=1e-3)
        assert not cluster.relaxable
        strict = cluster.spent
        assert cluster.overview().budget_fullness == 1.0
        held.let.set()
        relaxable(session)
        for _ in range(8):
            logits(session)
        spent = cluster.spent
    assert strict.chunks_filled == strict.nats == 0
    assert strict.strict_rounds == spent.strict_rounds == strict.rounds == 9
    assert spent.chunks_filled > 0
    assert spent.nats > 0


def test_over_tcp_fills_are_waited_for(f32_model: Path, profile: Profile) -> None:
    """There is no other epoch to have them in."""
    with two_workers(f32_model, profile, transport=Transport.TCP) as session:
        assert session.cluster is not None
        assert session.cluster.relaxable


def test_a_sequence_with_a_budget_of_its_own_and_a_strict_one_beside_it(
    f32_model: Path, profile: Profile
) -> None:
    """The first is filled where the cluster is strict; the other stays exact, also beside it."""
    layers = tuple(replace(layer, sensitivity=1e-6) for layer in profile.layers)
    gentle = replace(profile, layers=layers, special=())
    relax = RelaxOptions(take_over=False, max_copies=1)
    with two_workers(f32_model, gentle) as session:
        exact = logits(session)[0]
    with two_workers(f32_model, gentle, wrap_link=lossy, relax=relax) as session:
        cluster, forward = relaxable(session), session.model.forward

        def errors(*sequences: int) -> list[float]:
            """Of each: how far, at most, its logits are from what they should be."""
            worst = np.zeros(len(sequences))
            for _ in range(10):
                rows = [Rows(SequenceId(id), PROMPT, 0, 1) for id in sequences]
                found = forward.step(rows, session.gather)
                worst = np.maximum(worst, np.abs(found - exact).max(axis=1))
                for id in sequences:
                    forward.cells.release(SequenceId(id))
            return worst.tolist()

        assert max(errors(0)) < 0.01
        cluster.open_account(1, 1.0)
        cluster.open_account(2, 0.0)
        own, strict = errors(1, 2)
        assert own > 0.1
        assert strict < 0.01
        assert cluster.close_account(1) > 0
        assert cluster.close_account(2) == 0
        assert max(errors(1)) < 0.01  # now as all others


def test_a_budget_of_its_own_takes_a_profile(tiny_model: Path) -> None:
    with open_session(SessionOptions(tiny_model, 1, 512, 1)) as session:
        assert session.cluster is not None
        session.cluster.open_account(1, 0.0)
        with pytest.raises(HaloError, match="takes a profile"):
            session.cluster.open_account(2, 0.01)


def test_relaxing_takes_a_profile(tiny_model: Path) -> None:
    rounds = RoundsOptions(relax=RelaxOptions(kl_budget=0.005))
    with (
        pytest.raises(HaloError, match="takes a profile"),
        open_session(SessionOptions(tiny_model, 1, 512, 1, None, rounds)),
    ):
        pass


def test_a_worker_without_neurons_has_no_fill(
    f32_model: Path, profile: Profile, fetched: list[dict[DeviceId, NDArray[np.float16]]]
) -> None:
    with two_workers(f32_model, profile, split=[1, 0, 1]) as session:
        relaxable(session)
    (fills,) = fetched
    assert set(fills) == {2}


def test_the_profile_of_another_model_is_refused(
    f32_model: Path, tiny_model: Path, random_profile: MakeProfile
) -> None:
    with (
        pytest.raises(HaloError, match="profile was made from another model"),
        two_workers(f32_model, random_profile(tiny_model)),
    ):
        pass
