"""The page over HTTP: headers, sizes, what is kept by browsers, who may see the feed."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from halo_edge.serve import errors
from halo_edge.serve.auth import ApiKeys
from halo_edge.serve.closing import Closing
from halo_edge.serve.dashboard.router import dashboard_router

STATIC = resources.files("halo_edge.serve.dashboard") / "static"
MAX_BYTES = 300_000


class StandInFeed:
    full = False

    async def listen(self, closing: Closing) -> AsyncIterator[bytes]:
        yield b"data: {}\n\n"


def get(path: str, *, keys: tuple[str, ...] = (), full: bool = False, **headers: str) -> Any:
    app, feed = FastAPI(), StandInFeed()
    feed.full = full
    app.include_router(dashboard_router(cast(Any, feed), ApiKeys(keys), Closing()))
    errors.install(app)

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://halo") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(asked())


def linked(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page)


def all_files() -> dict[str, bytes]:
    """What a browser loads: what the page names, and what those modules import."""
    page = get("/").text
    waiting, found = ["/", *("/" + name for name in linked(page))], {}
    while waiting:
        path = waiting.pop()
        if path not in found:
            response = get(path)
            assert response.status_code == 200, path
            found[path] = response.content
            if path.endswith(".js") and "/vendor/" not in path:
                waiting += [
                    "/dashboard/" + name for name in re.findall(r'from "\./([^"]+)"', response.text)
                ]
    return found


def test_the_page_and_its_files_are_there_and_small() -> None:
    files = all_files()
    assert {"/dashboard/main.js", "/dashboard/map.js", "/dashboard/dashboard.css"} <= set(files)
    assert sum(map(len, files.values())) <= MAX_BYTES


def test_nothing_comes_from_elsewhere() -> None:
    for path, body in all_files().items():
        text = body.decode()
        found = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"')]*", text))
        found = {url for url in found if "w3.org" not in url and "leeoniya" not in url}
        assert not found, (path, found)


def test_scripts_and_styles_only_from_files() -> None:
    response = get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\bsrc=)", response.text)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", response.text)


def test_what_comes_from_others_is_never_markup() -> None:
    for entry in STATIC.iterdir():
        if entry.name.endswith(".js"):
            text = entry.read_text()
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
                assert word not in text, (entry.name, word)


def test_a_browser_that_has_a_file_gets_it_no_second_time() -> None:
    first = get("/dashboard/main.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = get("/dashboard/main.js", **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = get("/dashboard/main.js", **{"If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/nothing.js",
        "/dashboard/../router.py",
        "/dashboard/..%2Frouter.py",
        "/dashboard/%2Fetc%2Fpasswd",
        "/dashboard/vendor",
        "/dashboard/",
    ],
)
def test_there_are_no_other_files(path: str) -> None:
    assert get(path).status_code == 404


def test_the_feed_is_behind_the_keys_and_the_page_is_not() -> None:
    assert get("/", keys=("secret",)).status_code == 200
    assert get("/dashboard/main.js", keys=("secret",)).status_code == 200
    refused = get("/dashboard/feed", keys=("secret",))
    assert refused.status_code == 401
    wrong = get("/dashboard/feed", keys=("secret",), Authorization="Bearer no")
    assert wrong.status_code == 401
    feed = get("/dashboard/feed", keys=("secret",), Authorization="Bearer secret")
    assert (feed.status_code, feed.content) == (200, b"data: {}\n\n")
    assert feed.headers["content-type"].startswith("text/event-stream")
    assert feed.headers["cache-control"] == "no-store"


def test_too_many_listeners() -> None:
    response = get("/dashboard/feed", full=True)
    assert response.status_code == 503
    assert "retry-after" in response.headers


def test_the_vendored_library_is_what_it_is_said_to_be() -> None:
    directory = STATIC / "vendor" / "uplot"
    said = dict(
        re.findall(
            r"sha256 of (uPlot\.\S+)\s+([0-9a-f]{64})", (directory / "README.md").read_text()
        )
    )
    found = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in said}
    assert found == said
    assert len(said) == 2
    assert "MIT" in (directory / "LICENSE").read_text()


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1, 2])
def test_contrast(theme: int) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for what else has a meaning. Light; dark, by the system and by
    choice."""
    blocks = (STATIC / "dashboard.css").read_text().split(":root")[1:]
    themes = [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in blocks]
    themes = [each for each in themes if "text" in each]
    assert len(themes) == 3
    assert themes[1] == themes[2]
    of = themes[theme]
    for ground in ("card", "ground", "faint"):
        for text in ("text", "muted"):
            assert contrast(of[text], of[ground]) >= 4.5, (text, ground)
    assert contrast(of["on-accent"], of["accent"]) >= 4.5
    assert contrast(of["loss-3"], of["card"]) >= 4.5
    names = ("loss-0", "loss-1", "loss-2", "accent", "recovered", "filled", "taken")
    for name in names:
        assert contrast(of[name], of["card"]) >= 3, name
