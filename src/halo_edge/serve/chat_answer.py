"""A chat's answers on their way, and their JSON: whole, or chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from halo_edge.engine.sampling import Sampled
from halo_edge.engine.sequence import FinishReason
from halo_edge.model.chat_template import ToolCall
from halo_edge.model.tokenizer import Tokenizer
from halo_edge.serve import chat_schemas as schemas
from halo_edge.serve.answering import Answers
from halo_edge.serve.logprobs import of_chat
from halo_edge.serve.request import Piece
from halo_edge.serve.tool_calls import CallFormat


@dataclass(frozen=True)
class ChatAnswer:
    """`common`: fields of every chunk. `way`: in which tools are called; None: not at all."""

    answers: Answers
    request: schemas.ChatRequest
    tokenizer: Tokenizer
    common: dict[str, Any]
    way: CallFormat | None

    async def whole(self) -> schemas.ChatCompletion:
        """Raises `HaloError` when it fails."""
        pieces = await self.answers.whole()
        return schemas.ChatCompletion(
            **self.common,
            object="chat.completion",
            choices=[self._choice(i, choice) for i, choice in enumerate(pieces)],
            usage=self.answers.usage(),
            halo=self.answers.price(),
        )

    async def chunks(self) -> AsyncIterator[schemas.ChatChunk]:
        """Raises `HaloError` when it fails."""
        usage: dict[str, Any] = {"usage": None} if self.request.with_usage else {}

        def chunk(choices: list[schemas.ChunkChoice], **last: Any) -> schemas.ChatChunk:
            fields = self.common | usage | last
            return schemas.ChatChunk(**fields, object="chat.completion.chunk", choices=choices)

        left = self.request.choices
        for i in range(left):
            opening = schemas.Delta(role="assistant", content="")
            yield chunk([_chunk_choice(i, opening)])
        turns = [_Turn(self.way) for _ in range(left)]
        async for i, piece in self.answers.pieces():
            text, calls = turns[i].take(piece)
            for number, call in enumerate(calls, turns[i].called - len(calls)):
                call.index = number
            logprobs = None
            if self.request.logprobs:
                logprobs = of_chat(self.tokenizer, piece.tokens)
            if text or calls or (logprobs and logprobs.content):
                yield chunk([_chunk_choice(i, _delta(text, calls), logprobs)])
            if piece.finish is not None:
                left -= 1
                end = schemas.ChunkChoice(
                    index=i,
                    delta=schemas.Delta(),
                    logprobs=None,
                    finish_reason=turns[i].finish(piece.finish),
                )
                price = self.answers.price() if not left and not usage else None
                yield chunk([end], **({"halo": price} if price else {}))
        if usage:
            yield chunk([], usage=self.answers.usage(), halo=self.answers.price())

    def _choice(self, index: int, pieces: Sequence[Piece]) -> schemas.ChatChoice:
        turn, text = _Turn(self.way), ""
        calls: list[schemas.AnswerToolCall] = []
        tokens: list[Sampled] = []
        for piece in pieces:
            more, new = turn.take(piece)
            text, calls = text + more, calls + new
            tokens += piece.tokens
        finish = pieces[-1].finish
        assert finish is not None
        fields: dict[str, Any] = {"content": text if text or not calls else None}
        if calls:
            fields["tool_calls"] = calls
        message = schemas.AnswerMessage(role="assistant", refusal=None, **fields)
        wanted = self.request.logprobs
        return schemas.ChatChoice(
            index=index,
            message=message,
            logprobs=of_chat(self.tokenizer, tokens) if wanted else None,
            finish_reason=turn.finish(finish),
        )


class _Turn:
    """One choice while it comes: its text, and the tools it calls."""

    def __init__(self, way: CallFormat | None) -> None:
        self._reader = None if way is None else way.reader()
        self.called = 0

    def take(self, piece: Piece) -> tuple[str, list[schemas.AnswerToolCall]]:
        if self._reader is None:
            return piece.text, []
        text, calls = self._reader.push(piece.text)
        if piece.finish is not None:
            text += self._reader.flush()
        self.called += len(calls)
        return text, list(map(_answer, calls))

    def finish(self, reason: FinishReason) -> schemas.Finish:
        if self.called and reason is FinishReason.STOP:
            return "tool_calls"
        return "stop" if reason is FinishReason.STOP else "length"


def _answer(call: ToolCall) -> schemas.AnswerToolCall:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return schemas.AnswerToolCall(
        id=f"call_{uuid4().hex[:24]}",
        type="function",
        function=schemas.AnswerFunction(name=call.name, arguments=arguments),
    )


def _delta(text: str, calls: list[schemas.AnswerToolCall]) -> schemas.Delta:
    fields: dict[str, Any] = {}
    if text:
        fields["content"] = text
    if calls:
        fields["tool_calls"] = calls
    return schemas.Delta(**fields)


def _chunk_choice(
    index: int, delta: schemas.Delta, logprobs: schemas.ChatLogprobs | None = None
) -> schemas.ChunkChoice:
    return schemas.ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=None)
