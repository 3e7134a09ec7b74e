"""The addresses of the API. What happens behind them is other files' business."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from halo_edge.serve.answering import unless_gone
from halo_edge.serve.auth import ApiKeys
from halo_edge.serve.chat import Chats
from halo_edge.serve.chat_answer import ChatAnswer
from halo_edge.serve.chat_schemas import ChatCompletion, ChatRequest
from halo_edge.serve.closing import Closing
from halo_edge.serve.completion_schemas import Completion, CompletionRequest
from halo_edge.serve.completions import CompletionAnswer, Completions
from halo_edge.serve.errors import ApiError, ErrorBody
from halo_edge.serve.health import Health, Status
from halo_edge.serve.schemas import SamplingFields
from halo_edge.serve.served import Served
from halo_edge.serve.sse import EventStream

Responses = dict[int | str, dict[str, Any]]


def _errors(statuses: Mapping[int, str]) -> Responses:
    return {
        status: {"model": ErrorBody, "description": description}
        for status, description in statuses.items()
    }


_OTHER_NAME: Final = {403: "The server does not answer to the name in Host"}
_STRANGER: Final = {401: "No API key, or one that is not known", **_OTHER_NAME}
_ANSWERING: Final = {
    400: "The request is wrong, or asks for what this server cannot do",
    **_STRANGER,
    404: "There is no such model here",
    413: "The body is too large",
    429: "Too much is waiting; Retry-After says when to try again",
    500: "The server, or the cluster behind it, failed",
    503: "The server is being stopped",
}
_STREAM: Final = {
    "description": "The answer; with stream: true, server-sent events",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


class Model(BaseModel):
    """`max_model_len`: tokens of a prompt and its answer, as vLLM says it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class HealthBody(BaseModel):
    status: Literal["ready", "degraded", "not ready"]
    reason: str


@dataclass(frozen=True)
class Backend:
    """What the routes lead to."""

    served: Served
    chats: Chats
    completions: Completions
    keys: ApiKeys
    closing: Closing


def api_routes(backend: Backend) -> APIRouter:
    """What is under /v1."""
    router = APIRouter(prefix="/v1")
    served = backend.served
    model = Model(
        id=served.name,
        object="model",
        created=served.created_s,
        owned_by="halo-edge",
        max_model_len=served.context,
    )

    def admit(name: str | None) -> None:
        if backend.closing.begun:
            raise ApiError(503, "the server is being stopped", retry_after_s=5)
        if name is not None and name != served.name:
            raise _no_model(name, served.name)

    @router.post(
        "/chat/completions",
        response_model=ChatCompletion,
        responses={200: _STREAM, **_errors(_ANSWERING)},
        summary="Answer a chat",
    )
    async def chat(http: Request, request: ChatRequest) -> Response:
        admit(request.model)
        user = backend.keys.user(http)
        begun = await backend.chats.begin(request, user, int(time.time()))
        return await _sent(http, request, begun)

    @router.post(
        "/completions",
        response_model=Completion,
        responses={200: _STREAM, **_errors(_ANSWERING)},
        summary="Go on with a text",
    )
    async def completion(http: Request, request: CompletionRequest) -> Response:
        admit(request.model)
        user = backend.keys.user(http)
        begun = await backend.completions.begin(request, user, int(time.time()))
        return await _sent(http, request, begun)

    @router.get("/models", responses=_errors(_STRANGER), summary="The model that is served")
    async def models() -> Models:
        return Models(object="list", data=[model])

    @router.get(
        "/models/{name:path}",
        responses=_errors({**_STRANGER, 404: "There is no such model here"}),
        summary="About a model",
    )
    async def model_of(name: str) -> Model:
        if name != served.name:
            raise _no_model(name, served.name)
        return model

    @router.post(
        "/embeddings",
        status_code=404,
        response_model=ErrorBody,
        responses=_errors(_STRANGER),
        summary="Not here: the model is none for embeddings",
    )
    async def embeddings() -> Response:
        raise ApiError(
            404,
            f"{served.name} generates text; its hidden states would make poor embeddings, so this "
            f"server makes none",
            code="unsupported_endpoint",
        )

    return router


def health_route(health: Callable[[], Health], closing: Closing) -> APIRouter:
    """`health`: that of now."""
    router = APIRouter()

    @router.get(
        "/health",
        response_model=HealthBody,
        responses={
            503: {"model": HealthBody, "description": "Not ready"},
            **_errors(_OTHER_NAME),
        },
        summary="Whether the server can answer",
    )
    async def check() -> Response:
        now = health()
        if closing.begun:
            now = Health(Status.NOT_READY, "the server is being stopped")
        body = HealthBody(status=now.status.value, reason=now.reason)
        return JSONResponse(body.model_dump(), 503 if now.status is Status.NOT_READY else 200)

    return router


async def _sent(
    http: Request, request: SamplingFields, begun: ChatAnswer | CompletionAnswer
) -> Response:
    """As a stream, or all of it at once."""
    if request.stream:
        return EventStream(begun.chunks(), begun.answers.cancel)
    try:
        answer: BaseModel = await unless_gone(http, begun.whole())
    finally:
        begun.answers.cancel()
    content = answer.model_dump_json(exclude_unset=True)
    return Response(content, media_type="application/json")


def _no_model(name: str, served: str) -> ApiError:
    message = f"there is no model {name[:100]!r} here, only {served!r}"
    return ApiError(404, message, param="model", code="model_not_found")
