"""`/v1/chat/completions`: from the request in JSON to prompt and sequences, and back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

from anyio import CapacityLimiter, to_thread

from halo_edge.engine.sampling import Sampled
from halo_edge.engine.sequence import FinishReason
from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message, ToolCall
from halo_edge.serve import chat_schemas as schemas
from halo_edge.serve.answering import Answers, Submits
from halo_edge.serve.constraint import ANY_OBJECT, Grammars, TokenConstraint, json_grammar
from halo_edge.serve.errors import ApiError
from halo_edge.serve.logprobs import of_chat
from halo_edge.serve.prompts import Prompts
from halo_edge.serve.request import Piece, Request
from halo_edge.serve.sampling import budget_of, params_of
from halo_edge.serve.served import Served
from halo_edge.serve.tool_calls import CallFormat, Calls
from halo_edge.serve.tools import format_of, grammar, tool_variables


@dataclass(frozen=True)
class ChatAnswer:
    """A chat's answers on their way, and what is needed to put them into JSON. `way`: in which
    tools are called there; None: not at all."""

    answers: Answers
    request: schemas.ChatRequest
    common: dict[str, Any]
    way: CallFormat | None


class Chats:
    """Answers chats with one model."""

    def __init__(
        self, service: Submits, served: Served, prompts: Prompts, grammars: Grammars
    ) -> None:
        self._service = service
        self._served = served
        self._prompts = prompts
        self._grammars = grammars
        self._way: CallFormat | None = None
        self._no_tools = ""
        try:
            self._way = format_of(served)
        except HaloError as error:
            self._no_tools = str(error)
        self._compiling = CapacityLimiter(1)  # others' tokens need the cores more

    async def begin(self, request: schemas.ChatRequest, user: str, created_s: int) -> ChatAnswer:
        """Submit it. Raises `Busy`, and `ApiError` for what cannot be answered."""
        tools = self._tools(request)
        prompt = await self._prompts.of_chat(_messages(request), tool_variables(tools))
        constraints = await self._constraints(request, tools)
        id = f"chatcmpl-{uuid4().hex}"
        requests = [
            Request(
                id=id if request.choices == 1 else f"{id}-{i}",
                prompt=prompt,
                params=params_of(
                    request,
                    max_tokens=request.max_completion_tokens or request.max_tokens,
                    logprobs=_logprobs(request),
                    index=i,
                ),
                user=user,
                kl_budget=budget_of(request.halo),
                constraint=constraint,
            )
            for i, constraint in enumerate(constraints)
        ]
        common = {"id": id, "created": created_s, "model": self._served.name}
        way = self._way if tools else None
        return ChatAnswer(Answers(self._service, requests), request, common, way)

    async def whole(self, chat: ChatAnswer) -> schemas.ChatCompletion:
        """Raises `HaloError` when it fails."""
        pieces = await chat.answers.whole()
        return schemas.ChatCompletion(
            **chat.common,
            object="chat.completion",
            choices=[self._choice(chat, i, choice) for i, choice in enumerate(pieces)],
            usage=chat.answers.usage(),
            halo=chat.answers.price(),
        )

    async def chunks(self, chat: ChatAnswer) -> AsyncIterator[schemas.ChatChunk]:
        """Raises `HaloError` when it fails."""
        usage: dict[str, Any] = {"usage": None} if chat.request.with_usage else {}

        def chunk(choices: list[schemas.ChunkChoice], **last: Any) -> schemas.ChatChunk:
            fields = chat.common | usage | last
            return schemas.ChatChunk(**fields, object="chat.completion.chunk", choices=choices)

        left = chat.request.choices
        for i in range(left):
            opening = schemas.Delta(role="assistant", content="")
            yield chunk([_chunk_choice(i, opening)])
        turns = [_Turn(chat.way) for _ in range(left)]
        async for i, piece in chat.answers.pieces():
            text, calls = turns[i].take(piece)
            for number, call in enumerate(calls, turns[i].called - len(calls)):
                call.index = number
            logprobs = None
            if chat.request.logprobs:
                logprobs = of_chat(self._served.tokenizer, piece.tokens)
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
                price = chat.answers.price() if not left and not usage else None
                yield chunk([end], **({"halo": price} if price else {}))
        if usage:
            yield chunk([], usage=chat.answers.usage(), halo=chat.answers.price())

    def _choice(self, chat: ChatAnswer, index: int, pieces: Sequence[Piece]) -> schemas.ChatChoice:
        turn, text = _Turn(chat.way), ""
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
        wanted = chat.request.logprobs
        return schemas.ChatChoice(
            index=index,
            message=message,
            logprobs=of_chat(self._served.tokenizer, tokens) if wanted else None,
            finish_reason=turn.finish(finish),
        )

    def _tools(self, request: schemas.ChatRequest) -> list[schemas.Tool]:
        """Those that the model is told of. Raises `ApiError` where it cannot be told of any."""
        chosen = request.tool_choice not in (None, "none", "auto")
        if chosen and not request.tools:
            raise ApiError(400, "tool_choice needs tools", param="tool_choice")
        said = any(getattr(message, "tool_calls", None) for message in request.messages)
        said = said or any(message.role == "tool" for message in request.messages)
        if (request.tools or said) and self._way is None:
            param = "tools" if request.tools else "messages"
            raise ApiError(400, f"no tools: {self._no_tools}", param=param)
        if not request.tools or request.tool_choice == "none":
            return []
        if request.response_format is not None and request.response_format.type != "text":
            raise ApiError(
                400, "response_format and tools exclude each other here", param="response_format"
            )
        return request.tools

    async def _constraints(
        self, request: schemas.ChatRequest, tools: Sequence[schemas.Tool]
    ) -> list[TokenConstraint | None]:
        """One for each choice. Raises `ApiError` for a schema that cannot be used."""
        wanted = request.response_format
        param = "tools" if tools else "response_format"
        try:
            if tools and self._way is not None:
                several = request.parallel_tool_calls is not False
                calls = Calls.ANY if several else Calls.ONE_AT_MOST
                text = grammar(self._way, tools, request.tool_choice or "auto", calls)
            elif isinstance(wanted, schemas.JsonSchemaFormat):
                text = json_grammar(wanted.json_schema.schema_)
            elif isinstance(wanted, schemas.JsonObjectFormat):
                text = json_grammar(ANY_OBJECT)
            else:
                return [None] * request.choices
            make = partial(self._grammars.matching, text)
            first = await to_thread.run_sync(make, limiter=self._compiling)
            return [first, *(first.copy() for _ in range(request.choices - 1))]
        except HaloError as error:
            message = f"{param}: this schema cannot be followed: {error}"
            raise ApiError(400, message, param=param, code="invalid_schema") from None


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


def _logprobs(request: schemas.ChatRequest) -> int | None:
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None


def _messages(request: schemas.ChatRequest) -> list[Message]:
    """As the template knows them. A developer's are a system's, as with vLLM."""
    return [_message(each, i) for i, each in enumerate(request.messages)]


def _message(message: schemas.ChatMessage, index: int) -> Message:
    role = "system" if message.role == "developer" else message.role
    if isinstance(message, schemas.ToolMessage):
        return Message(role, _text(message.content), tool_call_id=message.tool_call_id)
    if isinstance(message, schemas.AssistantMessage):
        content = message.content if message.content is not None else message.refusal
        calls = tuple(_call(call, index) for call in message.tool_calls or ())
        if content is None and not calls:
            where = f"messages[{index}].content"
            raise ApiError(400, f"{where}: an assistant says something", param=where)
        return Message(role, _text(content or ""), message.name, calls)
    return Message(role, _text(message.content), message.name)


def _text(content: schemas.Content) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content)


def _call(call: schemas.ToolCall, index: int) -> ToolCall:
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        where = f"messages[{index}].tool_calls"
        raise ApiError(400, f"{where}: arguments must be a JSON object in a string", param=where)
    return ToolCall(call.id, call.function.name, arguments)
