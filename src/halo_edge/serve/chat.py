"""`/v1/chat/completions`: from the request in JSON to prompt and sequences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

from anyio import CapacityLimiter, to_thread

from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message, ToolCall
from halo_edge.serve import chat_schemas as schemas
from halo_edge.serve.answering import Answers, Submits
from halo_edge.serve.chat_answer import ChatAnswer
from halo_edge.serve.constraint import ANY_OBJECT, Grammars, TokenConstraint, json_grammar
from halo_edge.serve.errors import ApiError
from halo_edge.serve.prompts import Prompts
from halo_edge.serve.request import Request
from halo_edge.serve.sampling import budget_of, params_of
from halo_edge.serve.served import Served
from halo_edge.serve.tool_calls import CallFormat, Calls
from halo_edge.serve.tools import format_of, grammar, tool_variables


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
        answers = Answers(self._service, requests)
        way = self._way if tools else None
        return ChatAnswer(answers, request, self._served.tokenizer, common, way)

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
