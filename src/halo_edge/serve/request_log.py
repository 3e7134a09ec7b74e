"""The server's log: one line for each request, and uvicorn's lines, as text or as JSON.

No text of a prompt or an answer, and no API key: a user is a short hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

from halo_edge.serve.request import Answered, Request
from halo_edge.serve.request_metrics import finished_reason, time_per_output_token_s

LOGGER: Final = "halo_edge.requests"
_LOGGED: Final = ("halo_edge", "uvicorn")  # with all below them
_FIELDS: Final = "fields"
# Lines that wait for a slow disk or terminal. What comes then is dropped: tokens do not wait.
MAX_WAITING: Final = 4096
STOP_S: Final = 2.0

Value = str | int | float | None


class RequestLog:
    """A `Listener`. `model`: its name."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._logger = logging.getLogger(LOGGER)

    def token(self, request: Request, since_s: float, *, first: bool) -> None:
        """Nothing: a line is for a whole request."""

    def ended(self, answered: Answered) -> None:
        """See `Listener`."""
        fields = request_fields(answered, self._model)
        self._logger.info("request", extra={_FIELDS: fields})


def request_fields(answered: Answered, model: str) -> dict[str, Value]:
    """What is said of a request. Milliseconds since it came; `finish`: as in the metrics."""
    price, tpot_s = answered.price, time_per_output_token_s(answered)
    return {
        "id": answered.request.id,
        "user": user_hash(answered.request.user),
        "model": model,
        "finish": finished_reason(answered),
        "prompt_tokens": answered.prompt_tokens,
        "reused_tokens": answered.reused_tokens,
        "generated_tokens": answered.generated_tokens,
        "queued_ms": _ms(answered.queued_s),
        "ttft_ms": _ms(answered.ttft_s),
        "total_ms": _ms(answered.total_s),
        "tpot_ms": _ms(tpot_s),
        "nats": round(price.nats, 6),
        "fidelity": round(price.fidelity, 6),
        "recovered": price.recovered,
        "filled": price.filled,
        "taken_over": price.taken_over,
        "devices": price.devices,
        "error": answered.error or None,
    }


def user_hash(user: str) -> str:
    """The same for the same user, and not who that is."""
    return hashlib.sha256(user.encode()).hexdigest()[:10]


class TextFormatter(logging.Formatter):
    """`time level logger message key=value ...`, in one line whatever the values hold."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        words = [_time(record), record.levelname.lower(), record.name, _plain(record.getMessage())]
        for key, value in _fields(record).items():
            if value is not None:
                words.append(f"{key}={_quoted(value)}")
        if record.exc_info:
            words.append(f"exception={_quoted(self.formatException(record.exc_info))}")
        return " ".join(words)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, Value] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


@contextlib.contextmanager
def logging_to(stream: TextIO, formatter: logging.Formatter) -> Iterator[None]:
    """While this is open, requests, and what the server and uvicorn say, are written to `stream`,
    by a thread of their own. Run uvicorn with `log_config=None`."""
    writer = _Writer(stream, formatter)
    loggers = [logging.getLogger(name) for name in _LOGGED]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(writer)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(writer)
        writer.stop()


class _Writer(logging.Handler):
    """Not `logging.handlers.QueueListener`: that waits for its stream for ever when it stops."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(record)

    def stop(self) -> None:
        """Write what waits, if the stream takes it in time."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=STOP_S)
            self._thread.join(STOP_S)

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # full, or closed: nobody to tell
                self._stream.write(self.format(record) + "\n")
                self._stream.flush()


def _fields(record: logging.LogRecord) -> Mapping[str, Value]:
    fields: Mapping[str, Value] = getattr(record, _FIELDS, {})
    return fields


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: Value) -> str:
    text = str(value)
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(" \"'=\\")
    return text if plain else json.dumps(text)


def _plain(message: str) -> str:
    """Without line breaks or anything else that a terminal would obey."""
    return message if message.isprintable() else json.dumps(message)[1:-1]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 1)
