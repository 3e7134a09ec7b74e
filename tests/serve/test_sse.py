"""Server-sent events: the form, errors on the way, and the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel

from halo_edge.errors import HaloError
from halo_edge.serve.sse import EventStream


class Chunk(BaseModel):
    text: str
    usage: int | None = None


def sent(chunks: AsyncIterator[BaseModel], *, gone_after: int | None = None) -> tuple[str, int]:
    """What a client got who hung up after so many parts, and how often the answer was left."""
    left: list[None] = []
    body: list[bytes] = []

    async def run() -> None:
        gone = asyncio.Event()

        async def receive() -> dict[str, str]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            body.append(message.get("body", b""))
            if gone_after is not None and len(body) > gone_after:
                gone.set()

        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        await EventStream(chunks, lambda: left.append(None))(scope, receive, send)

    asyncio.run(run())
    return b"".join(body).decode(), len(left)


def test_chunks_and_the_end() -> None:
    async def chunks() -> AsyncIterator[BaseModel]:
        yield Chunk(text="a\nb")
        yield Chunk(text="c", usage=None)

    text, left = sent(chunks())
    assert text == ('data: {"text":"a\\nb"}\n\ndata: {"text":"c","usage":null}\n\ndata: [DONE]\n\n')
    assert left == 1


def test_an_error_on_the_way_is_an_event() -> None:
    async def chunks() -> AsyncIterator[BaseModel]:
        yield Chunk(text="a")
        raise HaloError("worker a left")

    text, left = sent(chunks())
    error = json.loads(text.split("\n\n")[1].removeprefix("data: "))["error"]
    assert error["message"] == "worker a left"
    assert error["type"] == "server_error"
    assert text.endswith("data: [DONE]\n\n")
    assert left == 1


def test_whoever_hangs_up_has_left() -> None:
    async def chunks() -> AsyncIterator[BaseModel]:
        yield Chunk(text="a")
        await asyncio.Event().wait()

    text, left = sent(chunks(), gone_after=1)
    assert "DONE" not in text
    assert left == 1
