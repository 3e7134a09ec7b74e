"""Trains of datagrams: over loopback, and what is made of how they come."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from halo_edge.cluster.packet_train import (
    DATAGRAM_BYTES,
    TRAIN,
    Arrival,
    TrainTask,
    bytes_per_s,
    loss,
    receive_train,
    send_train,
)
from halo_edge.errors import HaloError

LOOPBACK = "127.0.0.1"
FRAME_BYTES = DATAGRAM_BYTES + 42


def test_all_of_it_over_loopback() -> None:
    arrivals = receive_train(LOOPBACK, send_train)
    assert sorted(arrival.index for arrival in arrivals) == list(range(TRAIN))
    assert [a.index for a in sorted(arrivals, key=lambda a: a.at_s)] == list(range(TRAIN))
    assert loss([arrivals]) == 0


@pytest.mark.parametrize(
    "forge",
    [
        lambda data: data[:-1],
        lambda data: bytes(16) + data[16:],
        lambda data: data[:16] + b"\xff\xff" + data[18:],
        lambda _: b"",
    ],
)
def test_what_is_none_of_it_does_not_count(forge: Callable[[bytes], bytes]) -> None:
    """Nor does what comes twice."""

    def ask(task: TrainTask) -> None:
        head = task.token + (7).to_bytes(2, "little")
        datagram = head + bytes(DATAGRAM_BYTES - len(head))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for data in (forge(datagram), datagram, datagram):
                sock.sendto(data, (task.address, task.port))

    assert [arrival.index for arrival in receive_train(LOOPBACK, ask)] == [7]


def test_a_worker_that_does_not_answer() -> None:
    def ask(_: TrainTask) -> None:
        raise HaloError("no answer")

    with pytest.raises(HaloError, match="no answer"):
        receive_train(LOOPBACK, ask)


def arrivals(rate: float, indices: range) -> list[Arrival]:
    return [Arrival(index, 1e9 + index * FRAME_BYTES / rate) for index in indices]


def test_the_rate_is_that_of_most_trains() -> None:
    """Not that of one that was held up, nor of one that came in one frame, nor of the few that are
    left of another; and what is lost in between took its time, too."""
    usual, gaps = arrivals(1e6, range(TRAIN)), arrivals(1e6, range(0, TRAIN, 3))
    slow, at_once, few = arrivals(1e4, range(TRAIN)), arrivals(1e12, range(TRAIN)), usual[:3]
    trains = [usual, gaps, slow, at_once, few]
    assert bytes_per_s(trains) == pytest.approx(1e6, rel=0.01)
    assert loss(trains) == pytest.approx(1 - (3 * TRAIN + len(gaps) + 3) / (5 * TRAIN))


def test_too_few_to_tell() -> None:
    assert bytes_per_s([arrivals(1e6, range(3)), []]) is None
    assert loss([[]]) == 1
