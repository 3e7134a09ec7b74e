"""By which names the server may be asked.

A page in somebody's browser can have a name of its own resolve to 127.0.0.1, or to an address of
the network around ("DNS rebinding"); the browser then takes this server for a part of that page,
which may read what is answered. That name stands in `Host`, and no page can change it. So whoever
asks must call the server by an address, by a name of this machine, or by one that it was told of;
or bring a good API key, which such a page has not. Who sends no `Host` is no browser.

Starlette's TrustedHostMiddleware knows no addresses but those it is given, none of IPv6, and
answers in a shape of its own.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from halo_edge.errors import HaloError
from halo_edge.serve.auth import ApiKeys
from halo_edge.serve.errors import ApiError

ANY: Final = "*"
_LOCALHOST: Final = "localhost"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


def own_names() -> list[str]:
    """This machine's, as it calls itself, and as mDNS does. No name server is asked."""
    name = socket.gethostname()
    short = name.partition(".")[0]
    return [name, short, f"{short}.local"]


class AllowedHosts:
    """Addresses, `localhost`, and `names`; among them `ANY`: every name."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self._all = ANY in names
        self._names = {_LOCALHOST, *map(_normal, names)}

    def allows(self, host: str) -> bool:
        """`host`: the header, with a port or without."""
        name = name_in(host)
        return self._all or not name or name in self._names or _is_address(name)


class HostCheck:
    """ASGI middleware: what is asked for by another name is not looked at."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, keys: ApiKeys) -> None:
        self._app = app
        self._hosts = hosts
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            host = connection.headers.get("host", "")
            if not self._hosts.allows(host) and not self._keys.good(connection):
                await _refusal(host, keyed=bool(self._keys)).response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def checked(names: Collection[str]) -> Collection[str]:
    """Those, of a user's. Raises `HaloError` for what is no name."""
    for name in names:
        if name != ANY and not _NAME.fullmatch(name) and not _is_address(name):
            raise HaloError(
                f"--allowed-host {name!r} is no name; give it without http:// and port, as "
                f"halo.example.org, or {ANY} for all"
            )
    return names


def name_in(host: str) -> str:
    """The name or address in a `Host` header."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return _normal(host.partition(":")[0])


def _normal(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refusal(host: str, *, keyed: bool) -> ApiError:
    name = name_in(host)[:100]
    known = name if _NAME.fullmatch(name) else "NAME"
    key = ", give an API key" if keyed else ""
    message = (
        f"this server does not answer to the name {name!r}: ask it by its address{key}, or start "
        f"it with --allowed-host {known}"
    )
    return ApiError(403, message, code="host_not_allowed")
