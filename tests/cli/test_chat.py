"""`halo chat` as a user meets it: on a terminal with workers that die, and with a pipe."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HALO = [sys.executable, "-m", "halo_edge.cli.app"]
# Generous: a busy machine may take seconds to start four interpreters.
DEADLINE_S = 60.0
SEQUENCE = re.compile(r"\x1b(\[[?>\d;]*[A-Za-z]|[78D=>]|\][^\x07]*\x07|\(B)")
PROMPT = ">"
WHERE = "\x1b[6n"


@pytest.fixture(scope="module")
def chat_model(gguf_image: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, without a token that ends its answers. Nobody understands them."""
    image = gguf_image.read(tiny_model)
    del image.metadata["tokenizer.ggml.eos_token_id"]
    kind, texts = image.metadata["tokenizer.ggml.tokens"]
    image.metadata["tokenizer.ggml.tokens"] = (kind, texts.replace(b"</s>", b"(/s)"))
    written: Path = image.write(tmp_path_factory.mktemp("chat") / "chat.gguf")
    return written


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    places = {
        name: str(tmp_path_factory.mktemp("user")) for name in ("HALO_EDGE_CACHE", "XDG_STATE_HOME")
    }
    return os.environ | places | {"TERM": "xterm", "COLUMNS": "100"}


class OnTerminal:
    """A chat with a terminal of its own, and what it has written since it was last looked at."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.terminal, inside = pty.openpty()
        termios.tcsetwinsize(self.terminal, (24, 100))
        self.process = subprocess.Popen(
            [*HALO, "chat", *arguments], env=environment, preexec_fn=lambda: os.login_tty(inside)
        )
        os.close(inside)
        self._unread = ""

    def until(self, wanted: str) -> str:
        """Everything up to `wanted`, without colours and cursor movements."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            text = SEQUENCE.sub("", self._unread)
            if wanted in text:
                self._unread = text[text.index(wanted) + len(wanted) :]
                return text
            ready, _, _ = select.select([self.terminal], [], [], deadline - time.monotonic())
            assert ready, f"{wanted!r} did not come; what came: {text}"
            written = os.read(self.terminal, 65536).decode(errors="replace")
            if WHERE in written:  # is the cursor? In the first line: there is room below it.
                self.type("\x1b[1;1R")
            self._unread += written

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def exit_status(self) -> int:
        """Reading on meanwhile, as a terminal does."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    os.read(self.terminal, 65536)
                except OSError:  # Linux: nobody has the other end any more
                    break
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self.terminal)


@pytest.fixture
def slow_chat(chat_model: Path, environment: dict[str, str]) -> Iterator[OnTerminal]:
    """One whose answers take a while."""
    arguments = ["-m", str(chat_model), "-w", "2", "--temperature", "0"]
    chat = OnTerminal([*arguments, "--impair", "delay_ms=5"], environment)
    try:
        chat.until(PROMPT)
        yield chat
    finally:
        chat.close()


def test_a_worker_dies_in_view(slow_chat: OnTerminal) -> None:
    slow_chat.until("3 devices")  # under the line that is typed
    slow_chat.type("hello\r")
    slow_chat.until("tokens/s, 0.0000 nats")
    os.kill(slow_chat.workers()[1], signal.SIGKILL)
    slow_chat.until("worker-2 has left")
    slow_chat.until("2 devices")
    slow_chat.until("tokens/s")
    slow_chat.type("\x03")
    assert "tokens on 2 devices" in slow_chat.until("stopped")
    slow_chat.until(PROMPT)
    slow_chat.type("/devices\r")
    slow_chat.until("worker-2")
    slow_chat.until("left")
    slow_chat.type("/exit\r")
    assert slow_chat.exit_status() == 0


def test_ctrl_c_stops_the_answer_and_nothing_else(slow_chat: OnTerminal) -> None:
    for _ in range(2):
        slow_chat.type("hello\r")
        slow_chat.until("tokens/s, 0.0000 nats")
        slow_chat.type("typed meanwhile\x03")
        assert "typed meanwhile" not in slow_chat.until("stopped")
    slow_chat.until(PROMPT)
    slow_chat.type("half a line\x03")
    slow_chat.type("\x04")
    assert slow_chat.exit_status() == 0
    assert len(slow_chat.workers() if slow_chat.process.poll() is None else []) == 0


def test_history_is_there_for_the_next_chat(chat_model: Path, environment: dict[str, str]) -> None:
    arguments = ["-m", str(chat_model), "-w", "0", "-n", "3"]
    for keys in ("what was\\\rsaid\r", "\x1b[A again\r"):  # typed; recalled with the arrow up
        chat = OnTerminal(arguments, environment)
        try:
            chat.until(PROMPT)
            chat.type(keys)
            chat.until("3 tokens on 1 device")
            chat.until(PROMPT)
            chat.type("\x04")
            assert chat.exit_status() == 0
        finally:
            chat.close()
    (path,) = Path(environment["XDG_STATE_HOME"]).rglob("chat_history")
    first, second = path.read_text().splitlines()[-2:]
    assert (first, second) == (r'"what was\\\nsaid"', r'"what was\\\nsaid again"')


# With a pipe


def piped(
    lines: str, environment: dict[str, str], *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HALO, "chat", "--temperature", "0", *arguments],
        input=lines, text=True, capture_output=True, env=environment, timeout=DEADLINE_S,
        encoding="utf-8", errors="replace",
    )  # fmt: skip


def test_commands(chat_model: Path, environment: dict[str, str], tmp_path: Path) -> None:
    lines = [
        "/retry", "/stats", "hello", "/retry", "/stats", "/system be brief", "/system",
        f"/save {tmp_path / 'chat'}", "/clear", f"/load {tmp_path / 'chat'}", "/load", "/devices",
        "/budget", "/budget fast", "/budget 0", "/nonsense", "/help", "/exit", "not said",
    ]  # fmt: skip
    done = piped("\n".join(lines), environment, "-m", chat_model, "-w", "2", "-n", "4")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    for expected in (
        "halo: nothing was said yet",
        "halo: there was no answer yet",
        "tokens of prompt, 4 of answer, of the 512 that the context holds",
        "12 rounds; chunks: ",
        "be brief",
        "saved: 2 messages",
        "forgotten",
        "loaded: 2 messages",
        "halo: give the name of a file",
        "in use",
        "budget: 0 nats a token (strict)",
        "halo: no command /nonsense",
        "what the last answer needed",
    ):
        assert expected in done.stderr
    assert done.stderr.count("4 tokens on 3 devices, TTFT") == 2
    assert done.stderr.count("budget: 0 nats") == 2
    assert "going on without chunks takes a profile" in done.stderr


def test_a_full_context(chat_model: Path, environment: dict[str, str]) -> None:
    lines = ["word " * 12, "word " * 12, "word " * 500, "word", "/clear", "word"]
    done = piped("\n".join(lines), environment, "-m", chat_model, "-w", "0", "--ctx", "200")
    assert done.returncode == 0
    assert "the context of 200 tokens is full: the oldest 2 messages are left out" in done.stderr
    assert "halo: the prompt has" in done.stderr
    assert "the answer is cut off: the context is full" in done.stderr
    assert "KV cache is full" not in done.stderr
    assert done.stderr.count("tokens on 1 device") == 4


def test_input_that_is_no_text(chat_model: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*HALO, "chat", "-m", str(chat_model), "-w", "0"],
        input=b"\xff\xfe", capture_output=True, env=environment, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].startswith("halo: standard input is not UTF-8")


def test_a_model_that_cannot_chat(
    gguf_image: Any, tiny_model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    image = gguf_image.read(tiny_model)
    del image.metadata["tokenizer.chat_template"]
    done = piped("", environment, "-m", image.write(tmp_path / "mute.gguf"), "-w", "0")
    assert (done.returncode, done.stderr) == (
        1,
        "halo: this model has no chat template; use `halo run --raw`\n",
    )
