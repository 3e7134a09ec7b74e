"""The page in a browser, against a live `halo serve` of four devices: real workers, a real chat."""

from __future__ import annotations

import math
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from halo_edge.cluster.overview import State
from halo_edge.serve.dashboard.feed import Frame
from halo_edge.serve.request import Load
from halo_edge.serve.view import ClusterView, DeviceView, SpentView

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

expect = playwright_api.expect

START_S = 60.0
ANSWER_MS = 30_000
ANSWER_TOKENS = 48
SHOWN_S = 2.0
"""A worker that is killed is shown as gone within that."""
MAX_BYTES = 300_000
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}
NAMES = ["root", "worker-1", "worker-2", "worker-3"]


@dataclass(frozen=True)
class Served:
    url: str
    pid: int

    def children(self) -> list[int]:
        """The workers, in the order in which they were started."""
        task = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(child) for child in task.read_text().split()]


@contextmanager
def halo_serve(model: Path, cache: Path, *options: str) -> Iterator[Served]:
    command = [
        sys.executable,
        "-m",
        "halo_edge.cli.app",
        "serve",
        "--model",
        str(model),
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        [*command, *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HALO_EDGE_CACHE": str(cache)},
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stderr or ()])
    reader.start()
    try:
        said, deadline = "", time.monotonic() + START_S
        while (found := re.search(r"(http://127\.0\.0\.1:\d+)/v1", said)) is None:
            said += lines.get(timeout=max(0.0, deadline - time.monotonic()))
        yield Served(found[1], process.pid)
    finally:
        process.terminate()
        process.wait(START_S)
        reader.join()
        process.stderr.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def served(demo_model: Path, cache: Path) -> Iterator[Served]:
    with halo_serve(demo_model, cache) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("there is no chromium here; `apt install chromium`")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Window:
    """A page that is open, and what its console said."""

    page: Any
    said: list[str]


@contextmanager
def window(chromium: Any, url: str, **options: Any) -> Iterator[Window]:
    context = chromium.new_context(**options)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    try:
        yield Window(page, said)
    finally:
        context.close()


def test_the_page_shows_the_cluster_and_is_light(chromium: Any, served: Served) -> None:
    with window(chromium, served.url) as opened:
        page = opened.page
        page.wait_for_selector("#status[data-state=live]")
        page.wait_for_selector(".node")
        assert page.locator("#map .node .name").all_text_contents() == NAMES
        assert page.locator("#rows th").all_text_contents() == NAMES
        assert page.locator("#map .link").count() == 3
        sizes = page.evaluate(
            "performance.getEntries()"
            ".filter((entry) => entry.transferSize && !entry.name.endsWith('/feed'))"
            ".map((entry) => entry.transferSize)"
        )
        assert len(sizes) > 10
        assert sum(sizes) <= MAX_BYTES
        painted_ms = page.evaluate("performance.getEntriesByName('first-paint')[0].startTime")
        assert painted_ms < 1000
    assert opened.said == []


def frame_of(n: int) -> bytes:
    """A server-sent event: so many devices, whose names would like to be markup."""
    devices = tuple(
        DeviceView(
            number=i,
            name=f"<img src=x onerror=alert({i})>",
            host="",
            state=list(State)[i % len(State)] if i else State.IN_USE,
            share=1 / n,
            first_group=i,
            groups=1,
            held_mb=100.0,
            memory_mb=900.0,
            threads=4,
            compute_ms=None,
            rtt_ms=2.0**i % 100,
            answer_ms=None,
            plr_to=0.01 * (i % 8),
            plr_from=0.0,
            copies_to=1,
            copies_from=1,
            recovered=0,
            filled=0,
            taken_over=0,
            late=0,
            went_away=0,
        )
        for i in range(n)
    )
    nothing = SpentView(0, 0, 0, 0, 0.0)
    view = ClusterView("<b>", 30, n, devices, "<b>", 1.0, 0.5, nothing, None, Load(), ())
    return b"data: " + msgspec.json.encode(Frame(10, (), view)) + b"\n\n"


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("n", [2, 3, 5, 9, 17, 64])
def test_the_map_of_few_and_of_many(
    chromium: Any, served: Served, n: int, viewport: dict[str, int]
) -> None:
    """Nothing covers anything else, or leaves the map; names are text."""
    with window(chromium, "about:blank", viewport=viewport) as opened:
        page = opened.page
        body, kind = frame_of(n), "text/event-stream"
        page.route("**/dashboard/feed", lambda route: route.fulfill(body=body, content_type=kind))
        page.goto(served.url)
        page.wait_for_selector(".node")
        # At one moment: the map is drawn again with every view.
        around, *boxes = page.evaluate(
            "[...document.querySelectorAll('#map, .node .body')]"
            ".map((shown) => shown.getBoundingClientRect().toJSON())"
        )
        assert len(boxes) == n
        for i, box in enumerate(boxes):
            assert around["x"] <= box["x"] + 1
            assert box["x"] + box["width"] <= around["x"] + around["width"] + 1
            for other in boxes[:i]:
                beside = abs(middle(box, "x") - middle(other, "x"))
                above = abs(middle(box, "y") - middle(other, "y"))
                wide = (box["width"] + other["width"]) / 2
                high = (box["height"] + other["height"]) / 2
                # Small ones are circles.
                apart = math.hypot(beside, above) >= wide if wide == high else False
                assert apart or beside >= wide or above >= high, (i, box, other)
        assert page.locator("#rows th").first.text_content() == "<img src=x onerror=alert(0)>"
        assert page.locator("main img, main b:not(.key b)").count() == 0
    assert opened.said == []


def middle(box: dict[str, float], axis: str) -> float:
    return box[axis] + box["width" if axis == "x" else "height"] / 2


def bound_answers(page: Any) -> None:
    """The page sets no length, and draws at random: some answers would be a word, others would fill
    the context. The likeliest one to such a wish is long on any processor."""

    def bound(route: Any) -> None:
        asked = route.request.post_data_json
        route.continue_(post_data={**asked, "max_tokens": ANSWER_TOKENS, "temperature": 0})

    page.route("**/v1/chat/completions", bound)


def test_a_chat_streams_and_has_a_price(chromium: Any, served: Served) -> None:
    with window(chromium, served.url) as opened:
        page = opened.page
        bound_answers(page)
        page.fill("#prompt", "Tell me a long story about a fox.")
        page.press("#prompt", "Enter")
        answer = page.locator(".said.assistant")
        expect(answer).to_have_text(re.compile(r"\w"), timeout=ANSWER_MS)
        begun = answer.text_content()
        expect(answer).not_to_have_text(begun, timeout=ANSWER_MS)
        assert page.locator("#send").is_hidden()  # it goes on
        page.locator(".said .price").wait_for()
        price = page.locator(".said .price").text_content()
        assert re.search(r"\d nats · fidelity [01]\.\d+ · .* taken over · 4 devices", price)
        expect(page.locator("#t-rate")).to_have_text(re.compile("[1-9]"))
        marked = "document.getElementById('heat').getBoundingClientRect().height > 200"
        assert page.evaluate(marked)
        page.fill("#prompt", "<img src=x onerror=document.title='no'>")
        page.press("#prompt", "Enter")
        page.locator(".said.user").nth(1).wait_for()
        page.click("#stop")
        page.locator("#send").wait_for()
        assert page.locator("#talk img").count() == 0
    assert opened.said == []


def test_phone_dark_and_keyboard(chromium: Any, served: Served) -> None:
    with window(
        chromium, served.url, viewport=PHONE, color_scheme="dark", reduced_motion="reduce"
    ) as opened:
        page = opened.page
        page.wait_for_selector(".node")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "theme"
        page.keyboard.press("Enter")
        assert page.evaluate(ground) != dark
        page.reload()
        assert page.evaluate(ground) != dark  # it is remembered
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#prompt"
    assert opened.said == []


def test_a_key_is_asked_for(chromium: Any, demo_model: Path, cache: Path) -> None:
    with (
        halo_serve(demo_model, cache, "--workers", "0", "--api-key", "secret") as served,
        window(chromium, served.url) as opened,
    ):
        page = opened.page
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.locator("#key-dialog").wait_for()
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        page.wait_for_selector("#status[data-state=live]")
        assert page.locator("#map .node .name").all_text_contents() == ["root"]
        assert page.evaluate("localStorage.length") == 0
        page.reload()
        page.wait_for_selector("#status[data-state=live]")
        assert not page.locator("#key-dialog").is_visible()


def test_a_worker_that_dies_is_shown_at_once(chromium: Any, served: Served) -> None:
    """The last one: the cluster is not whole afterwards."""
    with window(chromium, served.url) as opened:
        page = opened.page
        page.wait_for_selector(".node")
        # Who was held up in the last chat's last round is away until it is asked.
        expect(page.locator(".node.gone")).to_have_count(0, timeout=ANSWER_MS)
        os.kill(served.children()[1], signal.SIGKILL)
        page.wait_for_selector(".node.gone", timeout=SHOWN_S * 1000)
        assert page.locator(".node.gone .name").all_text_contents() == ["worker-2"]
        row = page.locator("#rows tr.gone")
        assert row.locator("td").first.text_content() == "left"
        assert "worker-2 has left" in page.locator("#events").text_content()
        bound_answers(page)
        page.fill("#prompt", "Hello!")
        page.press("#prompt", "Enter")
        page.locator(".said .price").wait_for()
    assert opened.said == []
