"""What a root tells a worker without waiting for an answer."""

from __future__ import annotations

import queue
import select
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zenoh
from tests.cluster.worker_infos import info

from halo_edge.cluster import control
from halo_edge.cluster.link_probe import LinkProbe
from halo_edge.cluster.messages import Coming, LeftOut, Tile, TraceReply, encode
from halo_edge.cluster.profile_message import BenchmarkReply, BenchmarkTask
from halo_edge.cluster.worker import Worker
from halo_edge.cluster.worker_control import WorkerControl
from halo_edge.errors import HaloError

DEADLINE_S = 20.0
KEY = control.worker_key("test", "w")


def benchmark(_: BenchmarkTask) -> BenchmarkReply:
    raise HaloError("it has none")


class Told:
    """A worker on the control plane, and a root's session."""

    def __init__(self, directory: Path) -> None:
        endpoint = f"unixsock-stream/{directory}/control"
        self.root: zenoh.Session = control.open_control(
            control.ControlOptions("test", listen=(endpoint,), multicast=False)
        )
        self.coming: queue.Queue[Coming] = queue.Queue()
        info: Any = SimpleNamespace(worker="w")
        self.worker = WorkerControl(
            control.open_control(
                control.ControlOptions("test", connect=(endpoint,), multicast=False)
            ),
            "test",
            lambda: info,
            TraceReply,
            lambda _: b"",
            lambda *_: b"",
            benchmark,
            self.coming.put,
        )
        deadline = time.monotonic() + DEADLINE_S
        while not control.alive(self.root, KEY):
            assert time.monotonic() < deadline

    def event(self) -> Any:
        assert select.select((self.worker.wake_fd,), (), (), DEADLINE_S)[0]
        return self.worker.next_event()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    found = Told(tmp_path)
    yield found
    found.worker.close()
    found.root.close()  # type: ignore[no-untyped-call]


def test_what_is_coming(told: Told) -> None:
    """What is malformed is not heard of."""
    coming = Coming("s", 3, 128, [Tile(64, 2, 2, 2, "0" * 64)])
    told.root.put(f"{KEY}/coming", b"{}")
    told.root.put(f"{KEY}/coming", encode(coming))
    assert told.coming.get(timeout=DEADLINE_S) == coming
    assert told.coming.empty()


def test_its_link_is_probed(told: Told) -> None:
    """With datagrams that it sends when it is asked, to where it is told."""
    link = LinkProbe(told.root, "test").link(info("w"))
    assert link.up.loss == 0
    assert link.up.bytes_per_s > 1e4
    with pytest.raises(HaloError, match="malformed TrainTask"):
        control.ask(told.root, f"{KEY}/packet-train", b"{}", DEADLINE_S)


def test_nobody_answers_in_time(told: Told) -> None:
    """Neither where nobody is, nor where somebody is and says nothing."""
    key = "halo/test/nobody"
    with pytest.raises(control.NoAnswerError):
        control.ask(told.root, key, b"", 0.05)
    held: list[zenoh.Query] = []
    silent = told.root.declare_queryable(key, held.append)
    with pytest.raises(control.NoAnswerError):
        control.ask(told.root, key, b"", 0.05)
    silent.undeclare()  # type: ignore[no-untyped-call]


def test_who_is_left_out_lets_go_after_a_while(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_edge.cluster.worker_control.LET_GO_AFTER_S", 0.0)
    told.root.put(f"{KEY}/left-out", b"{}")
    told.root.put(f"{KEY}/left-out", encode(LeftOut("s", 2)))
    assert told.event() == LeftOut("s", 2)


def test_the_last_that_was_told_counts(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Any] = []

    class Timer:
        def __init__(self, *_: Any) -> None:
            self.cancelled = False
            timers.append(self)

        def start(self) -> None:
            pass

        def cancel(self) -> None:
            self.cancelled = True

    monkeypatch.setattr("halo_edge.cluster.worker_control.threading.Timer", Timer)
    for epoch in (1, 2):
        told.root.put(f"{KEY}/left-out", encode(LeftOut("s", epoch)))
    deadline = time.monotonic() + DEADLINE_S
    while [timer.cancelled for timer in timers] != [True, False]:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("newest_epoch", "loading", "lets_go"), [(1, None, True), (2, None, False), (1, "next", False)]
)
def test_only_what_no_plan_wants_is_let_go(
    newest_epoch: int, loading: str | None, lets_go: bool
) -> None:
    """It was left out of epoch 2."""
    done: list[str] = []

    def let_go() -> int:
        done.append("let go")
        return 1_000_000

    session: Any = SimpleNamespace(newest_epoch=newest_epoch, let_go=let_go)
    worker: Any = SimpleNamespace(
        _loading=loading, _end_replicas=lambda: done.append("replicas"), _tell=done.append
    )
    Worker._let_go(worker, session, 2)
    assert done[:2] == (["replicas", "let go"] if lets_go else [])
    assert len(done) == (3 if lets_go else 0)
