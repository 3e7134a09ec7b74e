"""The asking end of the control socket, with answers of every sort."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from halo_edge.errors import HaloError
from halo_edge.lab import forwarder_control
from halo_edge.lab.forwarder_control import Ask, Failed, ForwarderClient, Reply, SetLink, Status
from halo_edge.lab.link import Burst, LinkSettings

STATUS = Status(devices={}, frames=1, late=0, worst_late_s=0.0, busy=0.0, overflowed=0)


@contextmanager
def answering(path: Path, *answers: bytes | None) -> Iterator[list[bytes]]:
    """A server that gives these answers to one client (None: it hangs up); what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.settimeout(10)
            for answer in answers:
                asked.append(client.recv(1 << 20))
                if answer is None:
                    return
                client.send(answer)
            client.recv(1)  # until the other end goes away

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        thread.join(10)
        assert not thread.is_alive()


def encoded(reply: Reply) -> bytes:
    return msgspec.json.encode(reply)


def test_settings_go_over_whole(tmp_path: Path) -> None:
    path = tmp_path / "control"
    up = LinkSettings(loss=0.1, burst=Burst(100, 20, 0.5), rate_mbit=10, cut=True)
    request = SetLink("n1", up, LinkSettings())
    with answering(path, encoded(STATUS)) as asked, closing(ForwarderClient(path)) as client:
        assert client.ask(request) == STATUS
        assert msgspec.json.decode(asked[0], type=forwarder_control.Request) == request


def test_a_refusal_is_told(tmp_path: Path) -> None:
    path = tmp_path / "control"
    answers = encoded(Failed("no device 'n9'")), encoded(STATUS)
    with answering(path, *answers), closing(ForwarderClient(path)) as client:
        with pytest.raises(HaloError, match=r"^the lab's links refused: no device 'n9'$"):
            client.ask(SetLink("n9", LinkSettings(), LinkSettings()))
        assert client.ask(Ask()) == STATUS


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(HaloError, match=r"^the lab's links are not there; is the lab up\?$"):
        ForwarderClient(tmp_path / "control")


@pytest.mark.parametrize("answer", [None, b"?", b'{"type":"Status"}', b"\xff\xff"])
def test_hung_up_or_nonsense(tmp_path: Path, answer: bytes | None) -> None:
    path = tmp_path / "control"
    with (
        answering(path, answer),
        closing(ForwarderClient(path)) as client,
        pytest.raises(HaloError, match=r"^the lab's links have ended; `halo lab down` cleans up$"),
    ):
        client.ask(Ask())


def test_a_late_answer_is_not_taken_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder_control, "TIMEOUT_S", 0.01)
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        with closing(ForwarderClient(path)) as client:
            server, _ = listener.accept()
            with server:
                for _ in range(2):
                    with pytest.raises(HaloError, match="have ended"):
                        client.ask(Ask())
                server.settimeout(10)
                assert server.recv(99) and server.recv(99) == b""  # one request, and the end
