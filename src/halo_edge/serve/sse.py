"""An answer sent piece by piece, as server-sent events: `data: {...}` and, at the end,
`data: [DONE]`.

The status has been sent when something goes wrong on the way; then the error is an event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from halo_edge.serve.errors import of_exception

_DONE: Final = b"data: [DONE]\n\n"
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would wait for more
}


class EventStream(StreamingResponse):
    """Sends `chunks`. `leave` is called when nothing more is sent, whyever."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[BaseModel], leave: Callable[[], None]) -> None:
        super().__init__(_events(chunks), headers=_HEADERS)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


async def _events(chunks: AsyncIterator[BaseModel]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield _event(chunk.model_dump_json(exclude_unset=True))
    except Exception as error:  # the client cannot be told otherwise
        yield _event(of_exception(error).body.model_dump_json())
    yield _DONE


def _event(data: str) -> bytes:
    return b"data: " + data.encode() + b"\n\n"
