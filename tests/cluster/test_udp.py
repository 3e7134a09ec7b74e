"""Both ends of a link over real sockets on loopback."""

from __future__ import annotations

import select
import socket

import pytest

from halo_edge.cluster import udp
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId


def test_there_and_back_for_one_root_after_another() -> None:
    with udp.bind("0.0.0.0", 0) as bound:
        port = bound.getsockname()[1]
        for _ in range(2):
            sock = udp.bind("127.0.0.1", 0)
            root = udp.UdpRootLink(sock, {DeviceId(1): ("127.0.0.1", port)})
            worker = udp.UdpWorkerLink(bound, sock.getsockname())
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(b"garbage", ("127.0.0.1", port))
            assert root.receive() is None
            root.send((DeviceId(1),), b"question")
            select.select((worker,), (), (), 5)
            question = worker.receive()
            assert question is not None
            assert bytes(question) == b"question"  # the stranger's was dropped by the kernel
            worker.send(b"answer")
            root.wait(5)
            answer = root.receive()
            assert answer is not None
            assert bytes(answer) == b"answer"
            worker.close()
            root.close()
            assert bound.getsockname() == ("0.0.0.0", port)


def test_what_the_network_refuses_is_lost() -> None:
    with udp.bind("127.0.0.1", 0) as bound, udp.bind("127.0.0.1", 0) as gone:
        nobody = gone.getsockname()
        gone.close()
        worker = udp.UdpWorkerLink(bound, nobody)
        for _ in range(3):  # the first is answered by ICMP, the others meet its error
            worker.send(b"answer")
            assert worker.receive() is None


def test_port_taken() -> None:
    with udp.bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(HaloError, match=f"port taken: UDP 127.0.0.1:{port}"):
            udp.bind("127.0.0.1", port)


def test_window() -> None:
    with udp.bind("127.0.0.1", 0) as bound:
        windows = [udp.window(bound, n) for n in (1, 3, 30, 300)]
    assert windows == sorted(windows, reverse=True)
    assert all(udp.MIN_WINDOW <= window <= udp.MAX_WINDOW for window in windows)
