"""API keys."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from halo_edge.serve.auth import ApiKeys
from halo_edge.serve.errors import ApiError

ENDPOINTS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/nothing"),
    ("GET", "/v1"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
]


@pytest.fixture(scope="module")
def keyed(api: Any, send_to: Any) -> Any:
    """Asks an application that has keys."""
    return partial(send_to, api.with_keys("one", "two"))


def connection(authorization: str | None, client: str = "10.0.0.1") -> HTTPConnection:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    return HTTPConnection({"type": "http", "headers": headers, "client": (client, 1)})


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic one", "one", "Bearer 1"]
)
@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_nothing_under_v1_without_a_key(
    keyed: Any, refused: Any, method: str, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    response = keyed(method, path, headers=headers)
    status, error = refused(response)
    assert status == 401
    assert error["code"] in ("no_api_key", "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


def test_with_a_key(keyed: Any) -> None:
    assert keyed("GET", "/v1/models", headers={"authorization": "Bearer two"}).status_code == 200
    assert keyed("GET", "/health").status_code == 200
    document = keyed("GET", "/openapi.json").json()
    assert document["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/health"]["get"]


def test_each_key_is_a_user() -> None:
    keys = ApiKeys(["one", "two"])
    assert keys.user(connection("Bearer one")) != keys.user(connection("Bearer two"))
    assert keys.user(connection("bearer  one ")) == keys.user(connection("Bearer one", "10.0.0.2"))
    assert "one" not in keys.user(connection("Bearer one"))
    with pytest.raises(ApiError):
        keys.user(connection("Bearer \udce9".encode("utf-8", "surrogateescape").decode("latin-1")))


def test_without_keys_an_address_is_a_user() -> None:
    assert ApiKeys().user(connection(None)) == "10.0.0.1"
