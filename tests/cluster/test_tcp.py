"""Frames out of a stream, and the worker's end among strangers."""

from __future__ import annotations

import select
import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from halo_edge.cluster import tcp
from halo_edge.sync.ids import DeviceId


def pair() -> tuple[socket.socket, tcp.FrameReader]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return ours, tcp.FrameReader(theirs)


@given(st.lists(st.binary(max_size=3000), max_size=8), st.data())
def test_frames_however_the_stream_is_cut(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(struct.pack("!I", len(frame)) + frame for frame in frames)
    ours, reader = pair()
    found = []
    with ours, reader.socket:
        while stream:
            cut = data.draw(st.integers(1, len(stream)))
            ours.sendall(stream[:cut])
            stream = stream[cut:]
            while (frame := reader.read()) is not None:
                found.append(bytes(frame))
    assert found == frames


def test_an_oversized_frame_closes_the_stream() -> None:
    ours, reader = pair()
    with ours, reader.socket:
        ours.sendall(struct.pack("!I", tcp.MAX_FRAME + 1) + b"x")
        assert reader.read() is None
        assert reader.closed


def test_the_worker_answers_where_frames_come_from() -> None:
    with tcp.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        worker = tcp.TcpWorkerLink(listener, "127.0.0.1")
        strangers = [
            socket.create_connection(("127.0.0.1", port), 5) for _ in range(tcp.MAX_CONNECTIONS - 2)
        ]
        for stranger in strangers:
            stranger.close()
        root = tcp.TcpRootLink({DeviceId(1): ("127.0.0.1", port)})
        try:
            root.send((DeviceId(1),), b"question")
            for _ in range(50):
                select.select((worker,), (), (), 5)
                if (frame := worker.receive()) is not None:
                    break
            assert frame is not None
            assert bytes(frame) == b"question"
            worker.send(b"answer")
            root.wait(5)
            answer = root.receive()
            assert answer is not None
            assert bytes(answer) == b"answer"
            assert worker.receive() is None
        finally:
            root.close()
            worker.close()
