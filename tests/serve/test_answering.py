"""The sequences of one request: together in, together out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from halo_edge.errors import HaloError
from halo_edge.serve.answering import Answers, unless_gone
from halo_edge.serve.errors import ApiError
from halo_edge.serve.request import Answered, Busy, Piece, Price


class FakeStream:
    """Gives these pieces, or raises what is among them."""

    def __init__(self, pieces: list[Any], reused: int = 0) -> None:
        self._pieces = pieces
        self.cancelled = False
        self.ended = Answered(
            request=None,  # type: ignore[arg-type]
            finish=None,
            error="",
            prompt_tokens=10,
            reused_tokens=reused,
            generated_tokens=len(pieces),
            queued_s=0,
            ttft_s=0,
            total_s=0,
            price=Price(nats=0.5, recovered=len(pieces), devices=3),
        )

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> Piece:
        await asyncio.sleep(0)
        if not self._pieces:
            raise StopAsyncIteration
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return Piece(piece, ())

    def cancel(self) -> None:
        self.cancelled = True


class FakeService:
    """Gives these streams, or raises what is among them."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def submit(self, _: Any) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def load(self) -> Any:
        raise NotImplementedError


def answers(*streams: Any, prompts: int = 1) -> Answers:
    return Answers(FakeService(*streams), [None] * len(streams), prompts)  # type: ignore[list-item]


def test_all_pieces_of_all_choices_come_in_order() -> None:
    streams = [FakeStream(list("ab")), FakeStream([]), FakeStream(list("cdefg"))]
    pieces = asyncio.run(answers(*streams).whole())
    assert ["".join(piece.text for piece in choice) for choice in pieces] == ["ab", "", "cdefg"]


def test_one_that_fails_fails_the_request() -> None:
    for streams in ([["a", HaloError("no")]], [list("abcdef"), ["x", HaloError("no")]]):
        with pytest.raises(HaloError, match="no"):
            asyncio.run(answers(*map(FakeStream, streams)).whole())


@pytest.mark.parametrize(
    ("error", "raised"), [(Busy("full", 1), Busy), (HaloError("closed"), ApiError)]
)
def test_what_was_submitted_before_one_was_refused_is_cancelled(
    error: Exception, raised: type[Exception]
) -> None:
    streams = [FakeStream([]), FakeStream([])]
    with pytest.raises(raised):
        answers(*streams, error)
    assert all(stream.cancelled for stream in streams)


def test_usage_counts_a_prompt_once() -> None:
    streams = [FakeStream(["x"] * n, reused) for n, reused in ((0, 5), (0, 9), (0, 0), (0, 9))]
    usage = answers(*streams, prompts=2).usage()
    assert usage.prompt_tokens == 20
    assert usage.prompt_tokens_details.cached_tokens == 5


def test_prices_add_up() -> None:
    price = answers(FakeStream(["a"]), FakeStream(["a", "b"])).price()
    assert (price.nats, price.recovered, price.devices) == (1.0, 2, 3)
    assert price.fidelity == pytest.approx(0.3679, abs=1e-4)


class Http:
    """A client that is gone, or will never be."""

    def __init__(self, *, gone: bool) -> None:
        self._gone = gone

    async def receive(self) -> dict[str, str]:
        if not self._gone:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


def test_whoever_is_gone_gets_nothing() -> None:
    ended: list[str] = []

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")
        return "never"

    with pytest.raises(ClientDisconnect):
        asyncio.run(unless_gone(Http(gone=True), work()))  # type: ignore[arg-type]
    assert ended == ["work"]


def test_whoever_waits_gets_it() -> None:
    async def work() -> str:
        return "it"

    async def failing() -> str:
        raise HaloError("no")

    assert asyncio.run(unless_gone(Http(gone=False), work())) == "it"  # type: ignore[arg-type]
    with pytest.raises(HaloError):
        asyncio.run(unless_gone(Http(gone=False), failing()))  # type: ignore[arg-type]
