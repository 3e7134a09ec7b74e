"""A client of `halo serve` in a process of its own: streams at a time, and when each token came.

    python -m halo_edge.bench.http_client '{"url": "http://127.0.0.1:8080", ...}'

prints `Came` as JSON, or one line on standard error. It knows the API and nothing of the server.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import msgspec

from halo_edge.errors import HaloError

_POLL_S: Final = 0.1
_FIRST: Final = 3  # a byte-level vocabulary has such ids, and they end no answer
_IDS: Final = 200
# So short that they are soon through: in a step in which others go on, perhaps by one token.
_SHORT: Final = 4
# What is still settling when streams begin: other streams' prompts, estimates of links.
_SETTLE: Final = 4
# Streams go on while the long prompt is computed, which the time limits, not this.
_ENDLESS: Final = 1500
_MAX_LINE_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Asked:
    """A stream of `tokens` tokens; or several, begun at once, of which each has to bring so many
    after all have brought the first few. With `prompt_tokens`, a prompt of so many comes then, and
    all ends with its first token. `ready_s`: how long the server is waited for; `limit_s`: how long
    everything else may take. `prompt`: the text of the only stream; several have their own."""

    url: str
    streams: int
    tokens: int
    ready_s: float
    limit_s: float
    prompt: str = ""
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Came:
    """Seconds since the client's beginning: of each stream, when its tokens came; from when until
    when all went on undisturbed; the end; when the long prompt's first token came, None: not in
    time."""

    streams: list[list[float]]
    begin_s: float
    undisturbed_s: float
    end_s: float
    first_s: float | None = None


@dataclass
class _Stream:
    came_s: list[float] = field(default_factory=list)
    error: str = ""


def token_ids(number: int, length: int) -> list[int]:
    """A prompt like no other `number`'s, of ids that every vocabulary has."""
    return [_FIRST + (17 * number + 31 * i + i * i) % _IDS for i in range(length)]


def ask(asked: Asked) -> Came:
    """Raises `HaloError` where the server refuses, fails, or is not ready in time."""
    _await_ready(asked)
    client = _Client(asked)
    if asked.streams == 1:
        only = client.begin(asked.prompt, asked.tokens)
        client.wait(lambda: len(only.came_s) == asked.tokens)
        return Came([only.came_s], only.came_s[0], only.came_s[-1], client.now_s)
    streams = [client.begin(token_ids(i + 1, _SHORT), _ENDLESS) for i in range(asked.streams)]
    client.wait(lambda: all(len(each.came_s) >= _SETTLE for each in streams))
    begin_s, had = client.now_s, [len(each.came_s) for each in streams]
    client.wait(
        lambda: all(len(s.came_s) >= n + asked.tokens for s, n in zip(streams, had, strict=True))
    )
    undisturbed_s, first_s = client.now_s, None
    if asked.prompt_tokens:
        late = client.begin(token_ids(0, asked.prompt_tokens), 1)
        client.wait(lambda: bool(late.came_s), must=False)
        first_s = late.came_s[0] if late.came_s else None
    came = [list(each.came_s) for each in streams]
    return Came(came, begin_s, undisturbed_s, client.now_s, first_s)


class _Client:
    """Threads that read, each a stream; they end with the process."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._begun_s = time.monotonic()
        self._changed = threading.Condition()
        self._streams: list[_Stream] = []

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._begun_s

    def begin(self, prompt: str | list[int], tokens: int) -> _Stream:
        stream = _Stream()
        self._streams.append(stream)
        threading.Thread(target=self._read, args=(stream, prompt, tokens), daemon=True).start()
        return stream

    def wait(self, done: Callable[[], bool], *, must: bool = True) -> None:
        """Until `done()`, or the time is up. Raises `HaloError` for a stream that failed."""

        def over() -> bool:
            return done() or any(stream.error for stream in self._streams)

        with self._changed:
            in_time = self._changed.wait_for(over, self._asked.limit_s - self.now_s)
        for stream in self._streams:
            if stream.error:
                raise HaloError(stream.error)
        if must and not in_time:
            had = ", ".join(str(len(stream.came_s)) for stream in self._streams)
            raise HaloError(f"after {self._asked.limit_s:g} s the streams had {had} tokens")

    def _read(self, stream: _Stream, prompt: str | list[int], tokens: int) -> None:
        try:
            self._read_all(stream, prompt, tokens)
        except (OSError, http.client.HTTPException, msgspec.DecodeError, HaloError) as error:
            with self._changed:
                stream.error = f"a stream failed: {type(error).__name__}: {error}"
                self._changed.notify_all()

    def _read_all(self, stream: _Stream, prompt: str | list[int], tokens: int) -> None:
        connection = _connection(self._asked.url, self._asked.limit_s)
        # With logprobs each token is told of, also one that is no text by itself.
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        text = msgspec.json.encode(body | {"logprobs": 0})
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", text, headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise HaloError(f"{response.status}: {response.read(300)!r}")
        while (line := response.readline(_MAX_LINE_BYTES)).strip() != b"data: [DONE]":
            if not line:
                raise HaloError("the answer was cut off")
            if not line.startswith(b"data: "):
                continue
            came_s = self.now_s
            chunk = msgspec.json.decode(line.removeprefix(b"data: "))
            if "error" in chunk:
                raise HaloError(str(chunk["error"])[:300])
            new = sum(len(choice["logprobs"]["tokens"]) for choice in chunk["choices"])
            with self._changed:
                stream.came_s += [came_s] * new
                self._changed.notify_all()
        if len(stream.came_s) != tokens:
            raise HaloError(f"it ended after {len(stream.came_s)} of {tokens} tokens")


def _await_ready(asked: Asked) -> None:
    deadline = time.monotonic() + asked.ready_s
    while time.monotonic() < deadline:
        try:
            connection = _connection(asked.url, asked.ready_s)
            connection.request("GET", "/health")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:  # it does not listen yet
            pass
        time.sleep(_POLL_S)
    raise HaloError(f"{asked.url} is not ready in {asked.ready_s:g} s")


def _connection(url: str, timeout_s: float) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)


def main() -> int:
    """The process."""
    asked = msgspec.json.decode(sys.argv[1], type=Asked)
    try:
        came = ask(asked)
    except HaloError as error:
        print(error, file=sys.stderr)
        return 1
    print(msgspec.json.encode(came).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
