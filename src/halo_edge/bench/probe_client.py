"""The experiment's end of a probe: requests out, replies in, and never a wait without an end."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import msgspec

from halo_edge.bench.probe_messages import Done, Failed, ProbeStart, Reply, Request
from halo_edge.errors import HaloError

END_TIMEOUT_S: Final = 10.0
# A session is opened while others of slower devices may be, on a tenth of a core.
OPEN_TIMEOUT_S: Final = 300.0
MAX_REPLY_BYTES: Final = 64 << 20
_PIECE_BYTES: Final = 1 << 16

ReplyT = TypeVar("ReplyT", bound=Reply)


class Probe:
    """A probe that is ready, from construction to `close`. `rounds`: of each token."""

    def __init__(self, spawn: Callable[..., subprocess.Popen[Any]], start: ProbeStart, log: Path):
        """`spawn` starts a command with arguments for `Popen`; `log` gets its standard error.

        Raises `HaloError` where no session can be opened.
        """
        self._log = log
        self._unread = b""
        with log.open("wb") as errors:
            self._process = spawn(
                start.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            )
        try:
            self.rounds = self._expect(Done, OPEN_TIMEOUT_S).rounds
        except BaseException:
            self.close()
            raise

    def ask(self, request: Request, kind: type[ReplyT], timeout_s: float) -> ReplyT:
        """Raises `HaloError` when the probe fails or does not answer in time."""
        self.send(request)
        return self._expect(kind, timeout_s)

    def send(self, request: Request) -> None:
        with suppress(BrokenPipeError):  # `receive` tells why
            _stream(self._process.stdin).write(msgspec.json.encode(request) + b"\n")

    def receive(self, kind: type[ReplyT], timeout_s: float) -> ReplyT | None:
        """The next reply, or None if there is none in time. Raises `HaloError` as `ask` does."""
        line = self._line(timeout_s)
        if line is None:
            return None
        reply: Reply = msgspec.json.decode(line, type=Reply)
        if isinstance(reply, Failed):
            raise HaloError(reply.error)
        if not isinstance(reply, kind):
            raise HaloError(f"the probe answered {type(reply).__name__}, not {kind.__name__}")
        return reply

    def close(self) -> None:
        """End it: by the end of its standard input, or else by force."""
        _stream(self._process.stdin).close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _stream(self._process.stdout).close()

    def _expect(self, kind: type[ReplyT], timeout_s: float) -> ReplyT:
        reply = self.receive(kind, timeout_s)
        if reply is None:
            raise HaloError(f"the root in the lab did not answer in {timeout_s:.0f} s")
        return reply

    def _line(self, timeout_s: float) -> bytes | None:
        out, deadline = _stream(self._process.stdout), time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([out], (), (), left_s)[0]:
                return None
            piece = os.read(out.fileno(), _PIECE_BYTES)
            if not piece or len(self._unread) > MAX_REPLY_BYTES:
                raise HaloError(f"the root in the lab has ended: {self._last_words()}")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _last_words(self) -> str:
        words = self._log.read_text(errors="replace").strip().splitlines()
        return words[-1][:300] if words else "without a word"


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # asked for as a pipe
    return stream
