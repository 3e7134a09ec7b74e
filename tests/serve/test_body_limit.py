"""Bodies that are too large are not read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from halo_edge.serve.app import MAX_BODY_BYTES
from halo_edge.serve.body_limit import BodyLimit


@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), "9" * 40])
def test_said_to_be_too_large(api: Any, refused: Any, length: str) -> None:
    headers = {"content-type": "application/json", "content-length": length}
    response = api.send("POST", "/v1/completions", content=b"{}", headers=headers)
    assert refused(response)[0] == 413


def test_turns_out_to_be_too_large(api: Any, refused: Any) -> None:
    async def parts() -> Any:
        for _ in range(9):
            yield b" " * (1 << 20)

    headers = {"content-type": "application/json"}
    response = api.send("POST", "/v1/completions", content=parts(), headers=headers)
    assert refused(response)[0] == 413


def test_what_fits_goes_through() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await send(message["body"])

    sent: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"12345"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(b"content-length", b"5")]}
    asyncio.run(BodyLimit(app, 5)(scope, receive, send))
    assert sent == [b"12345"]
