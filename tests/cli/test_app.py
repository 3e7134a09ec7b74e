"""The `halo` command as a user meets it, and one line for everything that is wrong."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from halo_edge.cluster import messages
from halo_edge.cluster.control import ControlOptions, open_control, worker_key

HALO = [sys.executable, "-m", "halo_edge.cli.app"]
Halo = Callable[..., subprocess.CompletedProcess[str]]
# Generous: a busy machine may take seconds to start four interpreters.
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return os.environ | {"HALO_EDGE_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def halo(environment: dict[str, str], tiny_model: Path) -> Halo:
    """Run `halo ...`; `MODEL` among the arguments stands for the tiny model."""

    def run(*arguments: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
        words = [str(tiny_model) if word == "MODEL" else word for word in arguments]
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*HALO, *words], input=data, capture_output=True, env=environment, timeout=DEADLINE_S
        )
        return subprocess.CompletedProcess(
            words, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run


@pytest.mark.parametrize("command", ["run", "worker"])
def test_a_command_imports_what_it_needs(command: str) -> None:
    program = (
        "import contextlib, sys; from halo_edge.cli.app import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    words = [sys.executable, "-c", program, command, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    imported = {name.partition(".")[0] for name in done.stderr.split()}
    assert "halo_edge" in imported
    assert not imported & {"scipy", "gguf", "pyroute2", "simpy", "huggingface_hub"}


def complaint(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line that a failed command printed."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    if status == 1:
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("halo: ")
    return done.stderr


def read_until(stream: Any, wanted: str) -> str:
    """Everything a process wrote until `wanted` came."""
    deadline, text = time.monotonic() + DEADLINE_S, ""
    while wanted not in text:
        ready, _, _ = select.select([stream], [], [], max(0, deadline - time.monotonic()))
        data = os.read(stream.fileno(), 4096) if ready else b""
        assert data, f"{wanted!r} did not come; what came: {text}"
        text += data.decode(errors="replace")
    return text


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        select.select([], [], [], 0.02)
    raise AssertionError(f"still there: {[p for p in pids if Path(f'/proc/{p}').exists()]}")


# What works


def test_paris(halo: Halo, demo_model: Path) -> None:
    done = halo("run", "The capital of France is", "--temperature", "0", "-m", str(demo_model))
    assert "Paris" in done.stdout
    assert "4 devices" in done.stderr
    assert "TTFT" in done.stderr
    raw = ("run", "The capital of France is", "--raw", "-n", "2", "--temperature", "0")
    assert halo(*raw, "--json", "-m", str(demo_model), "-w", "0").stdout.count("Paris") == 1


def test_run_json(halo: Halo) -> None:
    arguments = ("run", "-", "--raw", "--json", "-n", "5", "--seed", "1", "--logprobs", "2")
    done = halo(*arguments, "-m", "MODEL", "-w", "2", "--impair", "loss=0.1,seed=2", stdin="hello")
    fields = json.loads(done.stdout)
    assert "impaired on purpose: loss=0.1,seed=2" in done.stderr
    assert len(fields["token_ids"]) == 5 == fields["completion_tokens"]
    assert fields["devices"] == 3
    assert fields["finish_reason"] == "length"
    assert fields["ttft_ms"] > 0 < fields["tpot_ms"]
    assert fields["bytes_per_token"] > 1000
    assert fields["rounds"] == 3 * (1 + 4)
    assert fields["chunks_filled"] == fields["nats"] == 0
    assert fields["fidelity"] == 1
    assert [len(entry["top"]) for entry in fields["logprobs"]] == [2] * 5
    again = json.loads(halo(*arguments, "-m", "MODEL", "-w", "2", stdin="hello").stdout)
    assert again["token_ids"] == fields["token_ids"]


def test_stats(halo: Halo) -> None:
    done = halo(
        "run", "hello", "--raw", "-n", "3", "--seed", "1", "-m", "MODEL", "-w", "2", "--stats"
    )
    assert "worker-2" in done.stderr
    assert "9 rounds; chunks: " in done.stderr
    assert "0.00000 nats predicted, fidelity 1.0000" in done.stderr


def test_stop(halo: Halo) -> None:
    plain = ("run", "hello", "--raw", "--json", "-n", "8", "--temperature", "0", "-m", "MODEL")
    text = json.loads(halo(*plain, "-w", "0").stdout)["text"]
    stopped = json.loads(halo(*plain, "-w", "0", "--stop", text[3:5]).stdout)
    assert stopped["text"] == text[: text.index(text[3:5])]
    assert stopped["finish_reason"] == "stop"


def test_tokenize(halo: Halo, shared_dir: Path, demo_model: Path) -> None:
    cases = json.loads((shared_dir / "reference" / "tokenize.json").read_text())
    for case in (cases[0], cases[7], cases[-1]):
        done = halo("tokenize", "-", "--json", "-m", str(demo_model), stdin=case["text"])
        assert json.loads(done.stdout) == {"ids": case["ids"]}


def test_perplexity(halo: Halo, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("All work and no play. " * 40)
    arguments = (
        "perplexity",
        str(tmp_path / "text"),
        "--ctx",
        "64",
        "--chunks",
        "2",
        "-m",
        "MODEL",
    )
    one = json.loads(halo(*arguments, "--json", "-w", "0").stdout)
    four = json.loads(halo(*arguments, "--json").stdout)
    assert one["chunks"] == 2
    assert one["tokens"] == 62
    assert 0 < one["stderr"] < one["ppl"]
    assert four["ppl"] == pytest.approx(one["ppl"], rel=0.05)
    assert "perplexity" in halo(*arguments, "-w", "0").stdout


def test_kl(halo: Halo, tmp_path: Path) -> None:
    """Against the same model in other steps; and a base of something else is refused."""
    (tmp_path / "text").write_text("All work and no play. " * 40)
    base = str(tmp_path / "base")
    arguments = ("perplexity", str(tmp_path / "text"), "--ctx", "64", "-m", "MODEL", "-w", "0")
    assert halo(*arguments, "--chunks", "2", "--save-logits", base).returncode == 0
    against = (*arguments, "--kl-base", base, "--step-tokens", "1")
    found = json.loads(halo(*against, "--chunks", "1", "--json").stdout)
    assert 0 <= found["kl"] < 1e-3
    assert 0 <= found["kl_stderr"] <= found["kl_p99"] < 1e-2
    assert 0.9 < found["same_top"] <= 1
    assert "same likeliest token" in halo(*against, "--chunks", "2").stdout
    (tmp_path / "text").write_text("All play and no work. " * 40)
    assert "another text" in complaint(halo(*against, "--json"))


def test_pull_and_synth(halo: Halo, tmp_path: Path) -> None:
    path = str(tmp_path / "new.gguf")
    assert (
        json.loads(halo("synth", "tiny", "-o", path, "-q", "q8_0", "--json").stdout)["path"] == path
    )
    assert json.loads(halo("pull", path, "--json").stdout)["already_there"] is True
    assert halo("pull", path).stdout.strip() == path


def test_chat(halo: Halo, demo_model: Path) -> None:
    lines = "What is the capital of France?\n/clear\n/what\nWhat is 2+2?\n/exit\n"
    options = ("--temperature", "0", "-n", "12", "-w", "0", "-m", str(demo_model))
    done = halo("chat", *options, stdin=lines)
    assert done.returncode == 0
    assert "Paris" in done.stdout
    assert done.stderr.count("TPOT") == 2
    assert "no command /what; /help lists those there are" in done.stderr


# What does not


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "/nonexistent.gguf"], "no such file or model: /nonexistent.gguf"),
        (["-m", __file__], "not a GGUF file"),
        (["-m", "MODEL", "--ctx", "100000"], "--ctx must be between 2 and"),
        (["-m", "MODEL", "--temperature", "-1"], "temperature is -1.0"),
        (["-m", "MODEL", "--split", "1,x"], "--split needs numbers"),
        (["-m", "MODEL", "--kl-budget", "1,0"], "--kl-budget is a number of nats"),
        (["-m", "MODEL", "--kl-budget", "fast"], "--kl-budget takes a profile"),
        (["-m", "MODEL", "--split", "1,1"], "--split names 2 shares, but there are 4 devices"),
        (["-m", "MODEL", "--impair", "loss=2"], "--impair: loss is a probability"),
        (["-m", "MODEL", "--impair", "loss=0.1", "--transport", "tcp"], "use --transport udp"),
        (["-m", "MODEL", "--cluster", "a/b"], "cluster name 'a/b'"),
        (["-m", "MODEL", "--connect", "carrier-pigeon/x"], "the control plane does not start"),
        (["-m", "MODEL", "--connect", "tcp/127.0.0.1:9"], "no workers of cluster 'default' found"),
    ],
)
def test_bad_input(halo: Halo, arguments: list[str], message: str) -> None:
    assert message in complaint(halo("run", "hello", *arguments))


def test_damaged_models(halo: Halo, tmp_path: Path, tiny_model: Path) -> None:
    whole, path = tiny_model.read_bytes(), tmp_path / "damaged.gguf"
    for content, message in (
        (whole[: len(whole) // 2], "truncated GGUF"),
        (whole[:1000], "truncated GGUF"),
        (whole.replace(b"llama", b"mamba"), "unsupported architecture 'mamba'"),
    ):
        path.write_bytes(content)
        assert message in complaint(halo("run", "hello", "-m", str(path), "-w", "0"))


def test_prompts(halo: Halo) -> None:
    long = "word " * 3000
    message = complaint(halo("run", "-", "--raw", "-m", "MODEL", "-w", "0", stdin=long))
    assert "tokens, the context holds" in message
    assert "not UTF-8" in complaint(halo("run", "-", "-m", "MODEL", stdin=b"\xff\xfe"))
    message = complaint(halo("perplexity", "/nonexistent", "-m", "MODEL", "-w", "0"))
    assert "no such file: /nonexistent" in message


def test_usage(halo: Halo) -> None:
    assert halo("run").returncode == 2
    assert halo("run", "x", "--workers", "-1").returncode == 2
    assert halo("nonsense").returncode == 2
    assert halo("--version").stdout.startswith("halo-edge ")


def test_ports_taken(halo: Halo) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        local = ("worker", "--address", "127.0.0.1")
        message = complaint(halo(*local, "--port", str(udp.getsockname()[1])))
        assert "port taken: UDP" in message
        message = complaint(halo(*local, "--port", str(tcp.getsockname()[1])))
        assert "port taken: TCP" in message
        endpoint = f"tcp/127.0.0.1:{tcp.getsockname()[1]}"
        message = complaint(halo(*local, "--listen", endpoint))
        assert f"port taken: {endpoint} is in use" in message


# Workers of their own


def free_endpoint() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A `halo worker` of cluster `here`: its endpoint, and the process."""
    endpoint = free_endpoint()
    command = ["worker", "--cluster", "here", "--name", "w1", "--address", "127.0.0.1"]
    process = subprocess.Popen(
        [*HALO, *command, "--listen", endpoint, "-t", "1"], stderr=subprocess.PIPE, env=environment
    )
    try:
        assert "worker w1 of cluster 'here'" in read_until(process.stderr, "waiting for a root")
        yield endpoint, process
    finally:
        process.terminate()
        assert process.wait(10) == 0
        assert process.stderr is not None
        process.stderr.close()


def test_a_worker_serves_one_root_after_another(
    halo: Halo, worker: tuple[str, subprocess.Popen[bytes]]
) -> None:
    endpoint, _ = worker
    reach = ("--cluster", "here", "--connect", endpoint)
    found = json.loads(halo("devices", *reach, "--json").stdout)
    assert [(w["worker"], w["busy"]) for w in found["workers"]] == [("w1", False)]
    assert "w1" in halo("devices", *reach).stdout
    for _ in range(2):
        done = halo(
            "run", "hi", "--raw", "--json", "-n", "3", "-m", "MODEL", "--split", "1,1", *reach
        )
        assert json.loads(done.stdout)["devices"] == 2, done.stderr
    message = complaint(halo("run", "hi", "-m", "MODEL", "--connect", endpoint, "-w", "1"))
    assert "no workers of cluster 'default' found" in message
    assert "there are workers of: here" in message


def test_a_busy_worker(
    halo: Halo,
    worker: tuple[str, subprocess.Popen[bytes]],
    environment: dict[str, str],
    tiny_model: Path,
) -> None:
    endpoint, process = worker
    reach = ["--cluster", "here", "--connect", endpoint]
    first = subprocess.Popen(
        [*HALO, "chat", "-m", str(tiny_model), "--split", "1,1", *reach],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        read_until(process.stderr, "assigned")
        message = complaint(halo("run", "hi", "-m", "MODEL", *reach))
        assert "worker w1" in message
        assert "is busy with another root's session" in message
        first.kill()  # it cannot say goodbye
        first.wait(10)
        assert "waiting for another" in read_until(process.stderr, "the root is gone")
        second = subprocess.Popen(
            [*HALO, "chat", "-m", str(tiny_model), "-n", "2", *reach],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        try:
            assert second.stdin is not None
            second.stdin.write(b"hi\n")
            second.stdin.flush()
            # For a model so small the worker is of no use.
            plan = read_until(second.stderr, "without w1 (with: ")
            assert "plan: root 100 %; predicted TPOT " in plan
        finally:
            second.kill()
            second.communicate(timeout=10)
    finally:
        first.kill()
        first.communicate(timeout=10)


def test_a_worker_of_another_version(halo: Halo) -> None:
    """A worker that announces itself as a later version does, over the real control plane."""
    endpoint = free_endpoint()
    session = open_control(ControlOptions("here", listen=(endpoint,), multicast=False))
    try:
        info = messages.WorkerInfo(
            control_version=messages.CONTROL_VERSION + 1, version="9.9", worker="w9", host="pi",
            addresses=["127.0.0.1"], port=1, machine="m", cores=[0], threads=1, cpu_quota=None,
            memory_bytes=1, session="",
        )  # fmt: skip
        key = worker_key("here", "w9")
        session.declare_queryable(
            f"{key}/info", lambda query: query.reply(query.key_expr, messages.encode(info))
        )
        token = session.liveliness().declare_token(key)
        reach = ("--cluster", "here", "--connect", endpoint)
        message = complaint(halo("run", "hi", "-m", "MODEL", *reach))
        token.undeclare()  # type: ignore[no-untyped-call]
    finally:
        session.close()  # type: ignore[no-untyped-call]
    assert "worker w9 on pi runs HALO Edge 9.9" in message
    assert "install the same version on both" in message


# The ends of processes


def _as_in_a_terminal() -> None:
    """A test suite that runs in the background was started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def running(
    environment: dict[str, str], tiny_model: Path
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A generation that goes on for a while, and its three workers."""
    process = subprocess.Popen(
        [*HALO, "run", "hello", "--raw", "-m", str(tiny_model), "--temperature", "0",
         "--impair", "delay_ms=5", "--stall-timeout", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        preexec_fn=_as_in_a_terminal,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.read(1)  # the first piece of text
        workers = children(process.pid)
        assert len(workers) == 3
        yield process, workers
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.parametrize("stopped", [False, True])
def test_children_do_not_outlive_a_killed_root(
    running: tuple[subprocess.Popen[bytes], list[int]], stopped: bool
) -> None:
    process, workers = running
    if stopped:
        os.kill(workers[0], signal.SIGSTOP)
    process.kill()
    process.wait(10)
    wait_gone(workers)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(
    running: tuple[subprocess.Popen[bytes], list[int]], number: signal.Signals, status: int
) -> None:
    process, workers = running
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    assert b"Traceback" not in errors
    wait_gone(workers)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_gone_is_computed_for(
    running: tuple[subprocess.Popen[bytes], list[int]], number: signal.Signals
) -> None:
    process, workers = running
    os.kill(workers[1], number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    # After 10 s one that is dead is planned without.
    assert re.search("tokens on [34] devices", errors.decode().strip().splitlines()[-1])
    wait_gone(workers)
