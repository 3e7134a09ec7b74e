"""Who asks: API keys, and whom fairness between users is owed to.

With keys, everything under /v1 takes one, as `Authorization: Bearer KEY`; the dashboard's feed is
behind the same. Health and metrics are open, as with vLLM: those who watch servers carry no keys.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from halo_edge.serve.errors import ApiError

_GUARDED: Final = "/v1"


class ApiKeys:
    """The keys that are good; none: everybody is let in."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def user(self, connection: HTTPConnection) -> str:
        """Who that is: by key, else by address. Raises `ApiError` without a good key."""
        if not self:
            return connection.client.host if connection.client is not None else ""
        scheme, _, key = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(
                401, "this server takes an API key: Authorization: Bearer KEY", code="no_api_key"
            )
        given = _digest(key.strip())
        # All of them, so that the time tells nothing, not even which one it was.
        good = [i for i, one in enumerate(self._digests) if hmac.compare_digest(one, given)]
        if not good:
            raise ApiError(401, "this API key is not known here", code="invalid_api_key")
        return f"key {good[0] + 1}"

    def good(self, connection: HTTPConnection) -> bool:
        """Whether that brings a good key; never where there are none."""
        try:
            self.user(connection)
        except ApiError:
            return False
        return bool(self)

    async def __call__(self, connection: HTTPConnection) -> None:
        """As a dependency of FastAPI's, for what is not under /v1. Raises `ApiError`."""
        self.user(connection)


class Guard:
    """ASGI middleware: nothing of a request without a key is read, nor which addresses there are
    told."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == _GUARDED or path.startswith(_GUARDED + "/")):
            try:
                self._keys.user(HTTPConnection(scope))
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _digest(key: str) -> bytes:
    """Of one length, whatever the key's."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
