"""One shape for everything that goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from halo_edge.errors import HaloError
from halo_edge.serve.errors import ApiError, of_exception
from halo_edge.serve.request import Busy

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", JSON),
        (b"{", JSON),
        (b"[]", JSON),
        (b'"text"', JSON),
        (b'{"messages": "\xff"}', JSON),
        (b"[" * 100_000, JSON),
        (b'{"n": ' + b"9" * 5000 + b"}", JSON),
        (b'{"messages": [], "temperature": NaN}', JSON),
        (b'{"messages": []}', {"content-type": "text/plain"}),
        (b'{"messages": []}', {}),
    ],
)
def test_bodies_that_are_none(api: Any, refused: Any, content: bytes, headers: Any) -> None:
    response = api.send("POST", "/v1/chat/completions", content=content, headers=headers)
    status, error = refused(response)
    assert status == 400
    assert error["type"] == "invalid_request_error"


def test_addresses_and_methods(api: Any, refused: Any) -> None:
    assert refused(api.send("GET", "/v1/nothing"))[0] == 404
    assert refused(api.send("GET", "/v1/models/other"))[1]["code"] == "model_not_found"
    response = api.send("GET", "/v1/completions")
    assert refused(response)[0] == 405
    assert response.headers["allow"] == "POST"


def test_embeddings_are_not_pretended(api: Any) -> None:
    status, error = api.refusal("embeddings", input="hello", model="tiny")
    assert status == 404
    assert "embeddings" in error["message"]


def test_busy_says_when_to_come_back() -> None:
    response = of_exception(Busy("full", 2.1)).response()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"


def test_no_secrets_of_ours() -> None:
    assert of_exception(HaloError("worker a left")).body.error.message == "worker a left"
    assert "zzz" not in of_exception(ValueError("zzz")).body.error.message
    assert of_exception(ValueError()).status == 500
    assert len(ApiError(400, "x" * 10_000).body.error.message) == 500
