"""Whole clusters of real processes on loopback: as one device, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.cluster.holdings import Holdings
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.compute.wire import Wire
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.errors import HaloError
from halo_edge.lab.impairment import ImpairedLink
from halo_edge.lab.link import LinkSettings

# Long enough for several prefill steps of 128 tokens and a remainder.
PROMPT = [(7 * i) % 250 for i in range(300)]
F16 = RoundsOptions(wire=Wire.F16)
ALONE = RelaxOptions(take_over=False, max_copies=1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Shards of these tests go into a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HALO_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def logits(session: Session, prompt: list[int]) -> NDArray[np.float32]:
    """f32[2, vocab]: after the prompt, and after one more token."""
    forward, sequence, found = session.model.forward, SequenceId(0), []
    for start in range(0, len(prompt), forward.max_tokens):
        part = prompt[start : start + forward.max_tokens]
        last = start + len(part) == len(prompt)
        found.append(forward.step([Rows(sequence, part, start, int(last))], session.gather).copy())
    step = forward.step([Rows(sequence, [5], len(prompt), 1)], session.gather)
    forward.cells.release(sequence)
    return np.concatenate([found[-1], step])


@contextmanager
def cluster(
    model: Path,
    workers: int,
    rounds: RoundsOptions = F16,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Session]:
    options = SessionOptions(model, 1, 512, workers, None, rounds)
    with open_session(options, progress) as session:
        yield session


@pytest.fixture(scope="module")
def f32_model(make_model: Callable[..., Path]) -> Path:
    """Without quantisation, whose rounding would hide small mistakes."""
    return make_model(quantization="f32")


@pytest.fixture(scope="module")
def alone(f32_model: Path) -> NDArray[np.float32]:
    with cluster(f32_model, 0, RoundsOptions()) as session:
        return logits(session, PROMPT)


@pytest.mark.parametrize(
    ("workers", "rounds"),
    [
        pytest.param(1, F16, id="2 devices"),
        pytest.param(2, F16, id="3 devices"),
        pytest.param(4, F16, id="5 devices"),
        pytest.param(6, F16, id="7 devices"),
        pytest.param(
            3, RoundsOptions(wire=Wire.F16, split=[0, 5, 1, 2]), id="root without a share"
        ),
        pytest.param(2, RoundsOptions(wire=Wire.F16, split=[3, 0, 1]), id="worker without a share"),
        pytest.param(3, RoundsOptions(wire=Wire.F16, transport=Transport.TCP), id="tcp"),
        pytest.param(3, RoundsOptions(), id="mixed"),
    ],
)
def test_as_one_device(
    f32_model: Path, alone: NDArray[np.float32], workers: int, rounds: RoundsOptions
) -> None:
    """Measured: f16 0.004, mixed 0.04, of logits up to 3; without the partials of one layer 2."""
    with cluster(f32_model, workers, rounds) as session:
        found = logits(session, PROMPT)
    np.testing.assert_allclose(found, alone, atol=0.01 if rounds.wire is Wire.F16 else 0.08)


def test_loss_delay_and_reordering_change_nothing(tiny_model: Path) -> None:
    """What is lost comes again, so the result is the same to the last bit."""
    settings = LinkSettings(loss=0.2, delay_ms=0.5, jitter_ms=1, reorder=1)
    with cluster(tiny_model, 3) as session:
        clean = logits(session, PROMPT)
    with cluster(
        tiny_model,
        3,
        RoundsOptions(wire=Wire.F16, wrap_link=lambda link: ImpairedLink(link, settings, 3)),
    ) as session:
        found = logits(session, PROMPT)
        assert session.cluster is not None
        assert session.cluster.statistics.retransmissions > 20
    np.testing.assert_array_equal(found, clean)


def test_a_second_start_transfers_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))
    rounds = RoundsOptions(shards=tmp_path / "of the root")  # or they would find everything there
    sent: list[int] = []
    with cluster(tiny_model, 3, rounds, sent.append):
        shards = sorted((tmp_path / "shards").iterdir())
        assert sum(sent) == sum(shard.stat().st_size for shard in shards) > 0
    sent.clear()
    with cluster(tiny_model, 3, rounds, sent.append):
        assert not sent
    shards[0].write_bytes(shards[0].read_bytes()[::-1])  # damaged on disk
    with cluster(tiny_model, 3, rounds, sent.append):
        assert sum(sent) == shards[0].stat().st_size


def test_foreign_datagrams_change_nothing(tiny_model: Path) -> None:
    """Garbage from outside arrives at every worker's port, UDP and TCP, while rounds run."""
    with cluster(tiny_model, 2) as session:
        assert session.cluster is not None
        clean = logits(session, PROMPT[:40])
        ports = [worker.port for worker in session.cluster.workers.values()]
        done = threading.Event()

        def disturb() -> None:
            rng = np.random.default_rng(1)
            for port in ports:
                with socket.create_connection(("127.0.0.1", port), 5) as tcp:
                    tcp.sendall(rng.bytes(100))
            while not done.is_set():
                for port in ports:
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                        udp.sendto(rng.bytes(int(rng.integers(0, 1300))), ("127.0.0.1", port))

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            found = [logits(session, PROMPT[:40]) for _ in range(5)]
        finally:
            done.set()
            thread.join(10)
    for disturbed in found:
        np.testing.assert_array_equal(disturbed, clean)


def test_a_killed_worker_is_computed_for(tiny_model: Path) -> None:
    with cluster(tiny_model, 3) as session:
        assert session.cluster is not None
        whole = logits(session, PROMPT[:40])
        os.kill(session.local_pids[1], signal.SIGKILL)
        for _ in range(3):
            np.testing.assert_allclose(logits(session, PROMPT[:40]), whole, atol=1e-3)
        spent = session.cluster.spent
    assert spent.chunks_taken_over > 0
    assert spent.taken_over_by_device[2] > 0
    assert spent.chunks_filled == 0


def test_a_stopped_worker_is_computed_for_and_gets_its_work_back(tiny_model: Path) -> None:
    with cluster(tiny_model, 2) as session:
        assert session.cluster is not None
        whole = logits(session, PROMPT[:40])
        os.kill(session.local_pids[0], signal.SIGSTOP)
        np.testing.assert_allclose(logits(session, PROMPT[:40]), whole, atol=1e-3)
        os.kill(session.local_pids[0], signal.SIGCONT)
        deadline = time.monotonic() + 30
        while True:  # it answers what it was sent meanwhile, is probed, and trusted again
            before = session.cluster.spent
            np.testing.assert_allclose(logits(session, PROMPT[:40]), whole, atol=1e-3)
            if not session.cluster.spent.since(before).taken_over_by_device.get(1):
                break
            assert time.monotonic() < deadline


def test_a_killed_worker_is_named_where_nobody_may_take_over(tiny_model: Path) -> None:
    """And over TCP there is no other plan."""
    with cluster(tiny_model, 3, RoundsOptions(relax=ALONE, transport=Transport.TCP)) as session:
        logits(session, PROMPT[:40])
        os.kill(session.local_pids[1], signal.SIGKILL)
        with pytest.raises(HaloError, match=r"worker worker-2 left in the middle of a generation"):
            for _ in range(100):
                logits(session, PROMPT[:40])


def test_a_stopped_worker_is_named_where_nobody_may_take_over(tiny_model: Path) -> None:
    options = RoundsOptions(stall_timeout_s=0.5, relax=ALONE, transport=Transport.TCP)
    with cluster(tiny_model, 2, options) as session:
        logits(session, PROMPT[:40])
        os.kill(session.local_pids[0], signal.SIGSTOP)
        with pytest.raises(HaloError, match=r"worker worker-1 has not answered"):
            logits(session, PROMPT[:40])
        os.kill(session.local_pids[0], signal.SIGCONT)


def test_a_worker_stays_within_its_share_and_60_mb(demo_model: Path) -> None:
    with open_session(SessionOptions(demo_model, 1, 512, 3)) as session:
        logits(session, PROMPT)
        assert session.cluster is not None
        packing, plan = session.cluster.packing, session.cluster.plan
        shards = Holdings(packing, plan).shards()
        for pid, device in zip(session.local_pids, session.cluster.workers, strict=True):
            held = [tile.sha256 for layer in shards[device].resident for tile in layer]
            share = sum(packing.store.packed(sha256).nbytes for sha256 in held)
            assert share > 10e6
            peak_kib = next(
                int(line.split()[1])
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if line.startswith("VmHWM")
            )
            assert peak_kib * 1024 - share < 60e6


def test_everything_is_gone_afterwards(tiny_model: Path) -> None:
    with cluster(tiny_model, 2) as session:
        pids = session.local_pids
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("workers", "rounds", "message"),
    [
        (2, RoundsOptions(split=[1, 1]), r"--split names 2 shares, but there are 3 devices"),
        (1, RoundsOptions(split=[0, 0]), r"--split needs"),
        (0, RoundsOptions(split=[1]), r"--impair and --split need workers"),
    ],
)
def test_refused(tiny_model: Path, workers: int, rounds: RoundsOptions, message: str) -> None:
    with pytest.raises(HaloError, match=message), cluster(tiny_model, workers, rounds):
        pass
