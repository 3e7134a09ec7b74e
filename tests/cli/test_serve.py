"""`halo serve` as its users meet it: a server on a cluster of four devices, the official client,
curl, and signals."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from halo_edge.serve.server import DRAIN_S

SERVE = [sys.executable, "-m", "halo_edge.cli.app", "serve"]
DEADLINE_S = 60.0
KEY = "sk-test"
GRAFANA = Path(__file__).parents[2] / "docs" / "grafana" / "halo-edge.json"
PARIS: list[Any] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "The capital of France is"},
]


@dataclass
class Running:
    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def served(environment: dict[str, str], *arguments: str) -> Iterator[Running]:
    command = [*SERVE, "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    try:
        assert process.stderr is not None
        text, deadline = "", time.monotonic() + DEADLINE_S
        while (found := re.search(r"(http://[\d.:]+)/v1", text)) is None:
            left = max(0, deadline - time.monotonic())
            ready, _, _ = select.select([process.stderr], [], [], left)
            data = os.read(process.stderr.fileno(), 4096) if ready else b""
            assert data, f"it does not listen: {text}"
            text += data.decode()
        yield Running(found[1], process)
    finally:
        process.kill()
        process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = str(tmp_path_factory.mktemp("cache"))
    return {k: v for k, v in os.environ.items() if k != "HALO_API_KEY"} | {"HALO_EDGE_CACHE": cache}


@pytest.fixture(scope="module")
def server(demo_model: Path, environment: dict[str, str]) -> Iterator[Running]:
    """Four devices, the demo model, with a key."""
    arguments = ("-m", str(demo_model), "-w", "3", "-t", "1", "--api-key", KEY)
    with served(environment, *arguments) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    url = f"{server.url}/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=DEADLINE_S) as client:
        yield client


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    (only,) = client.models.list().data
    return only.id


# Metrics


def test_grafana_finds_what_it_asks_for(client: openai.OpenAI, server: Running, model: str) -> None:
    """All but what a scheduler says: devices of one machine have none."""
    client.completions.create(model=model, prompt="Once", max_tokens=2)
    page = httpx.get(f"{server.url}/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE))
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    names = {name + part for name, kind in kinds.items() for part in parts.get(kind, ("",))}
    dashboard = json.loads(GRAFANA.read_text(encoding="utf-8"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\b(?:halo|process)_\w+", query)}
    assert asked - names == {"halo_plan_tpot_seconds", "halo_plan_bound_tpot_seconds"}
    for worker in ("worker-1", "worker-2", "worker-3"):
        assert f'halo_device_chunks_late_total{{device="{worker}"}}' in page


# The official client


def test_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=PARIS, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 2
    halo = answer.model_extra or {}
    assert halo["halo"]["devices"] == 4


def test_streaming_with_usage_and_a_budget(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=PARIS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"halo": {"kl_budget": "strict"}, "top_k": 1},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    assert chunks[-1].usage is not None
    assert (chunks[-1].model_extra or {})["halo"]["nats"] == 0


def test_logprobs(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=PARIS, temperature=0, max_tokens=4, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content or []
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    assert all(entry.logprob == entry.top_logprobs[0].logprob <= 0 for entry in content)
    plain = client.completions.create(
        model=model, prompt="The capital of France is", temperature=0, max_tokens=1, logprobs=1
    )
    assert plain.choices[0].text == " Paris"
    assert plain.choices[0].logprobs is not None
    assert plain.choices[0].logprobs.tokens == [" Paris"]


def test_json_schema(client: openai.OpenAI, model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string"}, "inhabitants": {"type": "integer"}},
        "required": ["capital", "inhabitants"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "The capital of France, as JSON"}],
        temperature=0,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": schema}},
    )
    if answer.choices[0].finish_reason == "stop":
        value = json.loads(answer.choices[0].message.content or "")
        assert list(value) == ["capital", "inhabitants"]
    else:
        assert (answer.choices[0].message.content or "").startswith("{")


def test_many_at_a_time(server: Running, model: str) -> None:
    async def ask(client: openai.AsyncOpenAI, i: int) -> str:
        if i % 2:
            stream = await client.chat.completions.create(
                model=model, messages=PARIS, temperature=0, max_tokens=12, stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream])
        answer = await client.chat.completions.create(
            model=model, messages=PARIS, temperature=0, max_tokens=12
        )
        return answer.choices[0].message.content or ""

    async def all_of_them() -> list[str]:
        url = f"{server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(6)))

    assert all("Paris" in text for text in asyncio.run(all_of_them()))


def test_errors(server: Running, client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=model, messages=PARIS, logit_bias={"1": 1})
    assert bad.value.param == "logit_bias"
    assert bad.value.code == "unsupported_parameter"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=PARIS)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=model, input="hello")
    with pytest.raises(openai.BadRequestError, match="no tools"):
        tool: Any = {"type": "function", "function": {"name": "f"}}
        client.chat.completions.create(model=model, messages=PARIS, tools=[tool])
    wrong = client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=model, prompt="word " * 10_000)
    assert long.value.code == "context_length_exceeded"


# curl


def test_curl(server: Running) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl here")

    def call(*arguments: str) -> str:
        command = [curl, "-sS", "--max-time", "60", *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout.decode()

    assert json.loads(call(f"{server.url}/health")) == {"status": "ready", "reason": ""}
    body = json.dumps({"prompt": "Once upon", "max_tokens": 3, "stream": True})
    key = f"Authorization: Bearer {KEY}"
    text = call("-N", f"{server.url}/v1/completions", "-H", key, "--json", body)
    *events, last, _ = text.split("\n\n")
    assert last == "data: [DONE]"
    assert json.loads(events[-1].removeprefix("data: "))["halo"]["devices"] == 4
    status = call("-o", os.devnull, "-w", "%{http_code}", f"{server.url}/v1/models")
    assert status == "401"


# Clients that go away, and the end


def begin_stream(url: str, key: str = KEY, **fields: Any) -> socket.socket:
    """A connection on which the answer has begun to come, or a refusal has."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "Once upon a time", **fields}).encode()
    sock = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Connection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sock.sendall(head.encode() + body)
    if fields.get("stream"):
        seen = b""
        while b"data: " not in seen and (data := sock.recv(4096)):
            seen += data
    return sock


def test_whoever_hangs_up_leaves_his_place(demo_model: Path, environment: dict[str, str]) -> None:
    """With room for one in the queue: whoever had not left would keep the last from coming in."""
    arguments = ("-m", str(demo_model), "-w", "0", "--max-queue", "1", "--ctx", "2048")
    with served(environment, *arguments) as running:
        for stream in (True, False) * 20:
            fields = {"max_tokens": 2000, "temperature": 2}
            begin_stream(running.url, stream=stream, **fields).close()
        deadline = time.monotonic() + DEADLINE_S
        body = {"prompt": "hello", "max_tokens": 1}
        while True:
            answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=DEADLINE_S)
            if answer.status_code == 200:
                break
            assert answer.status_code == 429, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            assert time.monotonic() < deadline, "places were not given back"
            select.select([], [], [], 0.05)


def test_a_worker_that_was_held_up_is_not_gone_for_long(
    demo_model: Path, environment: dict[str, str]
) -> None:
    """It is away in a request's last round, and there is no other in which it could be heard."""
    with served(environment, "-m", str(demo_model), "-w", "1", "-t", "1", "--split", "1,1") as at:
        worker = int(Path(f"/proc/{at.process.pid}/task/{at.process.pid}/children").read_text())
        body = {"prompt": "hello", "max_tokens": 4}

        def health() -> str:
            return str(httpx.get(f"{at.url}/health", timeout=DEADLINE_S).json()["status"])

        assert httpx.post(f"{at.url}/v1/completions", json=body, timeout=DEADLINE_S).is_success
        os.kill(worker, signal.SIGSTOP)
        try:
            assert httpx.post(f"{at.url}/v1/completions", json=body, timeout=DEADLINE_S).is_success
            assert health() == "degraded"
        finally:
            os.kill(worker, signal.SIGCONT)
        deadline = time.monotonic() + DEADLINE_S
        while health() != "ready":
            assert time.monotonic() < deadline
            select.select([], [], [], 0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_end(
    demo_model: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    """What has begun is finished, workers are let go, and the exit status is 0."""
    with served(environment, "-m", str(demo_model), "-w", "1", "-t", "1") as running:
        pid = running.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(workers) == 1
        with begin_stream(running.url, stream=True, max_tokens=12) as sock:
            running.process.send_signal(number)
            text = b"".join(iter(lambda: sock.recv(65536), b""))
        assert b'"finish_reason":"' in text
        assert b"data: [DONE]" in text
        assert running.process.wait(DEADLINE_S) == 0
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
        assert running.process.stderr is not None
        assert b"Traceback" not in running.process.stderr.read()


def test_a_second_signal(demo_model: Path, environment: dict[str, str]) -> None:
    """Nothing is waited for."""
    with (
        served(environment, "-m", str(demo_model), "-w", "0", "--ctx", "8192") as running,
        begin_stream(running.url, stream=True, max_tokens=8000, temperature=2),
    ):
        running.process.send_signal(signal.SIGINT)
        with pytest.raises(OSError):  # it has taken the first
            while True:
                begin_stream(running.url).close()
        begun = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(DEADLINE_S) == 0
        assert time.monotonic() - begun < DRAIN_S / 2


# What is wrong is said in a line


def complaint(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [*SERVE, *arguments], capture_output=True, env=environment, timeout=DEADLINE_S
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.decode().strip().splitlines()
    assert line.startswith("halo: ")
    return line


def test_the_address_cannot_be_had(environment: dict[str, str], tiny_model: Path) -> None:
    model = ("-m", str(tiny_model), "-w", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "port taken" in complaint(environment, *model, "--port", port)
    assert "address" in complaint(environment, *model, "--host", "192.0.2.1")
    assert "address" in complaint(environment, *model, "--host", "nowhere.invalid")


@pytest.mark.parametrize("keys", [["--api-key", "with space"], ["--api-key-file", "/dev/null"]])
def test_bad_keys(environment: dict[str, str], keys: Sequence[str]) -> None:
    assert "key" in complaint(environment, *keys)


def test_keys_from_a_file(environment: dict[str, str], tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\n\ntwo\n")
    arguments = ("-m", str(tiny_model), "-w", "0", "--api-key-file", str(tmp_path / "keys"))
    with served(environment, *arguments) as running:
        url = f"{running.url}/v1/models"
        assert httpx.get(url).status_code == 401
        for key in ("one", "two"):
            answer = httpx.get(url, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200
            assert answer.json()["data"][0]["id"] == tiny_model.stem


def test_names(environment: dict[str, str], tiny_model: Path) -> None:
    arguments = ("-m", str(tiny_model), "-w", "0", "--allowed-host", "halo.example")
    with served(environment, *arguments) as running:
        names = ["halo.example", socket.gethostname(), "localhost", "127.0.0.1", "evil.example"]
        statuses = []
        for path in ("/metrics", "/", "/dashboard/main.js", "/health", "/v1/models"):
            for name in names:
                answer = httpx.get(running.url + path, headers={"Host": f"{name}:8080"})
                statuses.append(answer.status_code)
    assert statuses == [200, 200, 200, 200, 403] * 5


def test_bad_names(environment: dict[str, str]) -> None:
    assert "no name" in complaint(environment, "--allowed-host", "http://halo.example")


def test_the_other_commands_do_not_import_fastapi() -> None:
    code = (
        "import sys, halo_edge.cli.app;"
        "print([m for m in ('fastapi', 'uvicorn', 'llguidance') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
