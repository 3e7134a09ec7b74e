"""The API over a tiny model, asked in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.serve.tool_templates import HERMES

from halo_edge.cluster.session import SessionOptions, open_session
from halo_edge.serve.app import create_app
from halo_edge.serve.auth import ApiKeys
from halo_edge.serve.health import cluster_health
from halo_edge.serve.hosts import AllowedHosts
from halo_edge.serve.served import Served
from halo_edge.serve.service import Service

CONTEXT = 192
CONTEXT_OF_TOOLS = 4096


class Api:
    """The application on a model of its own, and requests to it."""

    def __init__(
        self, path: Path, stack: ExitStack, *, context: int = CONTEXT, listeners: Any = ()
    ) -> None:
        session = stack.enter_context(open_session(SessionOptions(path, context=context)))
        model = session.model
        self.service = Service(session, listeners=listeners, max_waiting=64)
        stack.callback(self.service.close, 0)
        self.served = Served(
            "tiny", 1, model.tokenizer, model.template, model.context, model.params.vocab
        )
        self.app = self.with_keys()

    def with_keys(self, *keys: str) -> FastAPI:
        return create_app(
            self.service,
            self.served,
            cluster_health(None),
            keys=ApiKeys(keys),
            hosts=AllowedHosts(["testserver"]),  # what schemathesis calls it
        )

    def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return send(self.app, method, path, **arguments)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.send("POST", f"/v1/{path}", json=body)

    def answer(self, path: str, **body: Any) -> dict[str, Any]:
        response = self.post(path, **body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def events(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """The chunks of a streamed answer, which has to end as it should."""
        response = self.post(path, **body, stream=True)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        *events, last, nothing = response.text.split("\n\n")
        assert (last, nothing) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def refusal(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """Status and error, of its one shape."""
        return refusal(self.post(path, **body))


def send(app: FastAPI, method: str, path: str, **arguments: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(asked())


def refusal(response: httpx.Response) -> tuple[int, dict[str, Any]]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return response.status_code, body["error"]


@pytest.fixture(scope="session")
def refused() -> Callable[[httpx.Response], tuple[int, dict[str, Any]]]:
    """The function, as test files cannot import this one."""
    return refusal


@pytest.fixture(scope="session")
def send_to() -> Callable[..., httpx.Response]:
    """`send_to(app, method, path, ...)`, as above."""
    return send


@pytest.fixture(scope="session")
def api(tiny_model: Path) -> Iterator[Api]:
    with ExitStack() as stack:
        yield Api(tiny_model, stack)


@pytest.fixture(scope="session")
def api_of(
    make_model: Callable[..., Path], gguf_image: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Api]]:
    """`api_of(template)`: of a model with that chat template."""
    model = make_model(context=CONTEXT_OF_TOOLS)
    with ExitStack() as stack:

        @cache
        def make(template: str) -> Api:
            image = gguf_image.read(model).set("tokenizer.chat_template", 8, template)
            path = image.write(tmp_path_factory.mktemp("templates") / "model.gguf")
            return Api(path, stack, context=CONTEXT_OF_TOOLS)

        yield make


@pytest.fixture(scope="session")
def tools_api(api_of: Callable[[str], Api]) -> Api:
    """With a chat template that knows tools."""
    return api_of(HERMES)
