"""The dashboard's routes: the page at `/`, its files, and the live feed.

The page and its files are for everyone who reaches the server and tell nothing; the feed is behind
whatever guards the API.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Final

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from halo_edge.serve.auth import ApiKeys
from halo_edge.serve.closing import Closing
from halo_edge.serve.dashboard.feed import Feed
from halo_edge.serve.errors import ApiError

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGE: Final = "index.html"
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked about each time, and answered in a line if nothing is new.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    body: bytes
    media_type: str
    etag: str


def dashboard_router(feed: Feed, keys: ApiKeys, closing: Closing) -> APIRouter:
    """`keys`: of those who may see the feed."""
    files = _files()
    router = APIRouter(include_in_schema=False)

    def send(request: Request, name: str) -> Response:
        file = files.get(name)
        if file is None:
            raise HTTPException(404, "the dashboard has no such file")
        headers = {**HEADERS, "ETag": file.etag}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.body, media_type=file.media_type, headers=headers)

    @router.get("/")
    async def page(request: Request) -> Response:
        return send(request, _PAGE)

    @router.get("/dashboard/feed", dependencies=[Depends(keys)])
    async def live() -> Response:
        if feed.full:
            raise ApiError(503, "too many dashboards are open; close one", retry_after_s=10)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            feed.listen(closing), media_type="text/event-stream", headers=headers
        )

    @router.get("/dashboard/{name:path}")
    async def file(request: Request, name: str) -> Response:
        return send(request, name)

    return router


def _files() -> dict[str, _File]:
    """All there are, by their paths: nothing else can be asked for."""
    found: dict[str, _File] = {}
    root = resources.files("halo_edge.serve.dashboard") / "static"
    waiting = [("", root)]
    while waiting:
        prefix, directory = waiting.pop()
        for entry in directory.iterdir():
            name = prefix + entry.name
            if entry.is_dir():
                waiting.append((f"{name}/", entry))
            elif (kind := _TYPES.get("." + name.rpartition(".")[2])) is not None:
                body = entry.read_bytes()
                found[name] = _File(body, kind, f'"{hashlib.sha256(body).hexdigest()[:24]}"')
    return found
