"""The sequences of one HTTP request: submitted together, read together, cancelled together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from halo_edge.errors import HaloError
from halo_edge.serve.errors import ApiError
from halo_edge.serve.request import Answered, Busy, Load, Piece, Request
from halo_edge.serve.schemas import CachedTokens, HaloAnswer, Usage
from halo_edge.serve.stream import Stream

_Result = TypeVar("_Result")


class Submits(Protocol):
    """What HTTP needs of a `Service`."""

    def submit(self, request: Request) -> Stream: ...

    @property
    def load(self) -> Load: ...


class Answers:
    """Streams of pieces. `prompts`: so many prompts have as many choices each, in order."""

    def __init__(self, service: Submits, requests: Sequence[Request], prompts: int = 1) -> None:
        """Raises `Busy` if there is no room for all, and `ApiError` for what cannot be answered."""
        self._streams: list[Stream] = []
        self._choices = len(requests) // prompts
        try:
            for request in requests:
                self._streams.append(service.submit(request))
        except Busy:
            self.cancel()
            raise
        except HaloError as error:
            self.cancel()
            raise ApiError(400, str(error), code="invalid_value") from None

    def cancel(self) -> None:
        """Whatever has not come yet is not wanted. Harmless when everything has."""
        for stream in self._streams:
            stream.cancel()

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """(choice, piece) as they come. Raises `HaloError` when one fails."""
        if len(self._streams) == 1:
            async for only in self._streams[0]:
                yield 0, only
            return
        waiting = {_next(stream): i for i, stream in enumerate(self._streams)}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=waiting.__getitem__):
                    i, piece = waiting.pop(task), task.result()
                    if piece is not None:
                        waiting[_next(self._streams[i])] = i
                        yield i, piece
        finally:
            for task in waiting:
                task.cancel()

    async def whole(self) -> list[list[Piece]]:
        """The pieces of every choice. Raises `HaloError` when one fails."""
        pieces: list[list[Piece]] = [[] for _ in self._streams]
        async for i, piece in self.pieces():
            pieces[i].append(piece)
        return pieces

    def usage(self) -> Usage:
        """Once everything has come. A prompt of several choices counts once."""
        ended = self._ended()
        firsts = ended[:: self._choices]
        prompt = sum(each.prompt_tokens for each in firsts)
        generated = sum(each.generated_tokens for each in ended)
        reused = sum(each.reused_tokens for each in firsts)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=generated,
            total_tokens=prompt + generated,
            prompt_tokens_details=CachedTokens(cached_tokens=reused),
        )

    def price(self) -> HaloAnswer:
        """Once everything has come."""
        return HaloAnswer.of([each.price for each in self._ended()])

    def _ended(self) -> list[Answered]:
        ended = [stream.ended for stream in self._streams if stream.ended is not None]
        assert len(ended) == len(self._streams)
        return ended


def _next(stream: Stream) -> asyncio.Task[Piece | None]:
    async def piece() -> Piece | None:
        try:
            return await anext(stream)
        except StopAsyncIteration:
            return None

    return asyncio.ensure_future(piece())


async def unless_gone(http: HttpRequest, work: Coroutine[Any, Any, _Result]) -> _Result:
    """What `work` gives; it is cancelled when the client goes away. Raises `ClientDisconnect`
    then. The request's body must have been read."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for each in (task, gone):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
