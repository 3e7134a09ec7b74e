"""The server's log, from requests made up here."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import Any

import pytest

from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import FinishReason
from halo_edge.serve.request import Answered, Price, Request
from halo_edge.serve.request_log import (
    LOGGER,
    MAX_WAITING,
    JsonFormatter,
    RequestLog,
    TextFormatter,
    logging_to,
    request_fields,
    user_hash,
)

KEY = "sk-a-key-that-nobody-should-see"


def answered(**changes: Any) -> Answered:
    fields: dict[str, Any] = {
        "request": Request("cmpl-1", [5, 6, 7], SamplingParams(), KEY),
        "finish": FinishReason.STOP,
        "error": "",
        "prompt_tokens": 3,
        "reused_tokens": 1,
        "generated_tokens": 11,
        "queued_s": 0.25,
        "ttft_s": 0.5,
        "total_s": 1.5,
        "price": Price(0.01, 0.99, 4, 3, 2, 5),
    }
    return Answered(**fields | changes)


def logged(formatter: logging.Formatter, *requests: Answered) -> list[str]:
    stream = io.StringIO()
    with logging_to(stream, formatter):
        log = RequestLog("smollm2")
        for one in requests:
            log.ended(one)
    return stream.getvalue().splitlines()


def test_fields() -> None:
    assert request_fields(answered(), "smollm2") == {
        "id": "cmpl-1",
        "user": user_hash(KEY),
        "model": "smollm2",
        "finish": "stop",
        "prompt_tokens": 3,
        "reused_tokens": 1,
        "generated_tokens": 11,
        "queued_ms": 250.0,
        "ttft_ms": 500.0,
        "total_ms": 1500.0,
        "tpot_ms": 100.0,
        "nats": 0.01,
        "fidelity": 0.99,
        "recovered": 4,
        "filled": 3,
        "taken_over": 2,
        "devices": 5,
        "error": None,
    }


def test_a_json_line_a_request() -> None:
    first, second = map(json.loads, logged(JsonFormatter(), answered(), answered(finish=None)))
    assert first | request_fields(answered(), "smollm2") == first
    assert (first["level"], first["logger"], first["message"]) == ("info", LOGGER, "request")
    assert first["time"].endswith("Z")
    assert second["finish"] == "abort"


def test_a_text_line_a_request() -> None:
    (line,) = logged(TextFormatter(), answered())
    assert f" info {LOGGER} request id=cmpl-1 user={user_hash(KEY)} model=smollm2 " in line
    assert " ttft_ms=500.0 " in line
    assert "error" not in line


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_key_and_no_prompt(formatter: logging.Formatter) -> None:
    (line,) = logged(formatter, answered())
    assert KEY not in line
    assert "5, 6, 7" not in line


def test_an_error_with_line_breaks_stays_in_its_line() -> None:
    broken = answered(finish=None, error='worker "x"\nid=forged \x1b[2J', ttft_s=None)
    (line,) = logged(TextFormatter(), broken)
    assert r'error="worker \"x\"\nid=forged \u001b[2J"' in line
    assert "ttft_ms" not in line and "tpot_ms" not in line
    (line,) = logged(JsonFormatter(), broken)
    assert json.loads(line)["error"] == 'worker "x"\nid=forged \x1b[2J'
    assert json.loads(line)["finish"] == "error"


def test_uvicorn_writes_the_same_way() -> None:
    stream = io.StringIO()
    with logging_to(stream, JsonFormatter()):
        logging.getLogger("uvicorn.error").info("started on %s", "::1")
        logging.getLogger("uvicorn.access").info("GET /\r\n200")
        try:
            raise ValueError("x")
        except ValueError:
            logging.getLogger("uvicorn.error").exception("failed")
    started, read, failed = map(json.loads, stream.getvalue().splitlines())
    assert (started["message"], read["message"]) == ("started on ::1", "GET /\r\n200")
    assert "Traceback" in failed["exception"]
    with logging_to(stream := io.StringIO(), TextFormatter()):
        logging.getLogger("uvicorn.access").info("GET /\r\n200")
    assert stream.getvalue().endswith(r"GET /\r\n200" + "\n")


def test_nothing_is_written_afterwards() -> None:
    stream = io.StringIO()
    with logging_to(stream, TextFormatter()):
        pass
    RequestLog("smollm2").ended(answered())
    assert stream.getvalue() == ""


class Stuck(io.StringIO):
    """A stream that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        assert self.go.wait(60)
        return super().write(text)


def test_nobody_waits_for_a_stream_that_is_stuck(capfd: pytest.CaptureFixture[str]) -> None:
    stream = Stuck()
    with logging_to(stream, TextFormatter()):
        log = RequestLog("smollm2")
        for _ in range(MAX_WAITING + 10):
            log.ended(answered())
        stream.go.set()
    assert MAX_WAITING <= len(stream.getvalue().splitlines()) <= MAX_WAITING + 2
    assert capfd.readouterr().err == ""
