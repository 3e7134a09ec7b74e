"""By which names the server may be asked, and what pages of other origins may do."""

from __future__ import annotations

from typing import Any

import pytest

from halo_edge.errors import HaloError
from halo_edge.serve import hosts
from halo_edge.serve.app import create_app
from halo_edge.serve.auth import ApiKeys
from halo_edge.serve.health import cluster_health
from halo_edge.serve.hosts import ANY, AllowedHosts, checked

EVERYWHERE = [
    ("GET", "/health"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/models"),
    ("GET", "/nothing"),
    ("POST", "/v1/completions"),
    ("OPTIONS", "/v1/completions"),
]
EVIL = {"host": "evil.example:8080"}
HELLO = b'{"prompt": "hello", "max_tokens": 1}'


def application(api: Any, *names: str, keys: tuple[str, ...] = ()) -> Any:
    allowed = AllowedHosts(names)
    health = cluster_health(None)
    return create_app(api.service, api.served, health, keys=ApiKeys(keys), hosts=allowed)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8080", "localhost.", "127.0.0.1", "127.0.0.1:80", "192.168.1.20:8080",
     "127.0.0.1.", "[::1]", "[::1]:8080", "[fe80::1]:1", "[::1", "pi", "Pi.local:8080", "pi.local.",
     "", ":80"],
)  # fmt: skip
def test_good_names(host: str) -> None:
    assert AllowedHosts(["pi", "PI.local"]).allows(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example",
     "pi.evil.example", "[evil.example]", "1.2.3", "0x7f000001", "127.1", "evil@localhost", "local",
     ".local", "*", "localhost..", "\u0661.1.1.1"],
)  # fmt: skip
def test_bad_names(host: str) -> None:
    assert not AllowedHosts(["pi"]).allows(host)


def test_any_name() -> None:
    assert AllowedHosts([ANY]).allows("evil.example")


def test_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Pi.fritz.box")
    own = AllowedHosts(hosts.own_names())
    assert all(map(own.allows, ["pi", "pi.local:8080", "pi.fritz.box"]))
    assert not any(map(own.allows, ["fritz.box", "pi.fritz", "other.local"]))


@pytest.mark.parametrize(
    "name", ["http://pi", "pi:8080", "", "*.example", "a b", "b\u00fccher.example"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(HaloError, match="--allowed-host"):
        checked([name])


def test_what_is_a_name() -> None:
    names = ["*", "pi", "halo.example.org", "10.0.0.1", "::1", "xn--bcher-kva.example"]
    assert checked(names) == names


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
def test_by_another_name_there_is_nothing(
    api: Any, send_to: Any, refused: Any, method: str, path: str
) -> None:
    status, error = refused(send_to(application(api), method, path, headers=EVIL))
    assert status == 403
    assert error["code"] == "host_not_allowed"
    assert "--allowed-host evil.example" in error["message"]
    assert "API key" not in error["message"]
    named = application(api, "evil.example")
    assert send_to(named, method, path, headers=EVIL).status_code != 403


def test_what_a_name_may_hold_is_not_repeated(api: Any, send_to: Any, refused: Any) -> None:
    host = "\x1b[31m" + "x" * 1000
    _, error = refused(send_to(application(api), "GET", "/health", headers={"host": host}))
    assert error["message"].endswith("--allowed-host NAME")
    assert "\x1b" not in error["message"]
    assert len(error["message"]) < 300


def test_with_a_good_key_any_name_will_do(api: Any, send_to: Any, refused: Any) -> None:
    app = application(api, keys=("one",))
    for path in ("/v1/models", "/health"):
        key = {"authorization": "Bearer one"}
        assert send_to(app, "GET", path, headers=EVIL | key).status_code == 200
        for wrong in ({}, {"authorization": "Bearer two"}):
            status, error = refused(send_to(app, "GET", path, headers=EVIL | wrong))
            assert status == 403
            assert "give an API key" in error["message"]


# Pages of other origins


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost"])
def test_no_other_origin_may_read(api: Any, send_to: Any, origin: str) -> None:
    for method, path in EVERYWHERE:
        headers = {"origin": origin, "access-control-request-method": "POST"}
        response = send_to(application(api), method, path, headers=headers)
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert send_to(application(api), "OPTIONS", "/v1/completions").status_code == 405


@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "text/plain;application/json", "application/x-www-form-urlencoded",
     "multipart/form-data; boundary=x"],
)  # fmt: skip
def test_what_pages_post_without_being_asked_first_is_refused(
    api: Any, send_to: Any, refused: Any, kind: str | None
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = send_to(application(api), "POST", "/v1/completions", content=HELLO, headers=headers)
    status, error = refused(response)
    assert status == 400
    assert "application/json" in error["message"]


def test_what_they_have_to_ask_for_is_taken(api: Any, send_to: Any) -> None:
    for kind in ("application/json", "application/json; charset=utf-8"):
        headers = {"content-type": kind}
        response = send_to(
            application(api), "POST", "/v1/completions", content=HELLO, headers=headers
        )
        assert response.status_code == 200
