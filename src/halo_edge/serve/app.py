"""The HTTP application, put together from its parts: one model, one service, one set of keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from halo_edge import __version__
from halo_edge.serve import errors
from halo_edge.serve.answering import Submits
from halo_edge.serve.auth import ApiKeys, Guard
from halo_edge.serve.body_limit import BodyLimit
from halo_edge.serve.chat import Chats
from halo_edge.serve.closing import Closing
from halo_edge.serve.completions import Completions
from halo_edge.serve.constraint import Grammars
from halo_edge.serve.health import Health
from halo_edge.serve.hosts import AllowedHosts, HostCheck
from halo_edge.serve.prompts import Prompts
from halo_edge.serve.routes import Backend, api_routes, health_route
from halo_edge.serve.served import Served

MAX_BODY_BYTES: Final = 8 << 20
_CLIENT_CLOSED_REQUEST: Final = 499  # nginx's; nobody reads it


def create_app(
    service: Submits,
    served: Served,
    health: Callable[[], Health],
    *,
    keys: ApiKeys | None = None,
    hosts: AllowedHosts | None = None,
    closing: Closing | None = None,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """`hosts`: names by which it may be asked. `routers`: of further pages, such as /metrics and
    the dashboard."""
    keys = ApiKeys() if keys is None else keys
    hosts = AllowedHosts() if hosts is None else hosts
    closing = Closing() if closing is None else closing
    prompts = Prompts(served)
    backend = Backend(
        served,
        Chats(service, served, prompts, Grammars(served)),
        Completions(service, served, prompts),
        keys,
        closing,
    )
    app = _App(
        title="HALO Edge",
        version=__version__,
        description="OpenAI's API, from a model that several small machines compute together.",
        docs_url=None,  # both load scripts from the internet
        redoc_url=None,
        redirect_slashes=False,
        # Pages of other origins can post text/plain, or of no type, without being asked first.
        strict_content_type=True,
    )
    app.keyed = bool(keys)
    app.include_router(api_routes(backend))
    app.include_router(health_route(health, closing))
    for router in routers:
        app.include_router(router)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(Guard, keys=keys)
    app.add_middleware(HostCheck, hosts=hosts, keys=keys)
    errors.install(app)
    app.add_exception_handler(ClientDisconnect, _gone)
    return app


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


class _App(FastAPI):
    """Its OpenAPI document says what is so: invalid requests are answered with 400, never with
    FastAPI's 422, and keys are asked for if there are any."""

    keyed = False

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if self.keyed and path.startswith("/v1"):
                        operation["security"] = [{"key": []}]
            components = document["components"]
            for name in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(name, None)
            if self.keyed:
                components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        assert self.openapi_schema is not None
        return self.openapi_schema
