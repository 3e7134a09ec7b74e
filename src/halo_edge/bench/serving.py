"""`halo serve` on devices of the lab: against `halo run`, eight streams against one, and eight
while a long prompt comes; and what one of the devices reaches alone.

Every measurement starts its own cluster and server. The client is another machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from halo_edge.bench import markdown
from halo_edge.bench.experiment import Experiment, Settings, Size, Tell, by_itself
from halo_edge.bench.http_client import Asked, Came
from halo_edge.bench.lab_cluster import lab_spec
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, Reading, median_of
from halo_edge.bench.policies import DELAY_MS
from halo_edge.bench.streams import Sample, joined, sample_of
from halo_edge.errors import HaloError
from halo_edge.lab.lab import Lab
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import DeviceSpec

DEVICES: Final = 4
SPEED: Final = 0.4  # cores of each device
LINK: Final = LinkSettings(delay_ms=DELAY_MS)
CLIENT: Final = "laptop"
STREAMS: Final = 8
PROMPT_TOKENS: Final = 2000
PAIRS: Final = 2
PROMPT: Final = "The capital of France is"
PORT: Final = 8080  # of the lab's own network
READY_S: Final = 60.0
END_S: Final = 30.0


@dataclass(frozen=True)
class Case:
    """`prompt_tokens`: of the prompt that comes in the middle; 0: none."""

    devices: int
    streams: int
    prompt_tokens: int = 0

    @property
    def name(self) -> str:
        late = f" and {self.prompt_tokens} tokens of prompt" if self.prompt_tokens else ""
        return f"streams: {self.streams}{late}, devices: {self.devices}"

    @property
    def beside_run(self) -> bool:
        """Whether `halo run` is measured in turn with it."""
        return self.devices > 1 and self.streams == 1

    @property
    def options(self) -> list[str]:
        """Equal shares: of the server and of `halo run`."""
        return ["--split", ",".join(["1"] * self.devices)] if self.devices > 1 else ["-w", "0"]


CASES: Final = (
    Case(DEVICES, 1),
    Case(DEVICES, STREAMS),
    Case(DEVICES, STREAMS, PROMPT_TOKENS),
    Case(1, 1),
    Case(1, STREAMS),
)


@dataclass(frozen=True)
class Row:
    """See `Sample`. `factor`: tokens/s together / those of one stream on as many devices."""

    devices: int
    streams: int
    prompt_tokens: int
    tpot_ms: float | None
    interval_ms: Interval | None
    run_ms: float | None
    overhead: float | None
    tokens_per_s: float
    factor: float | None
    unevenness: float | None
    before_ms: float | None
    added_ms: float | None
    ttft_s: float | None
    ttft_at_least_s: float | None
    repetitions: int
    usual_added_ms: float | None = None


def _measured(settings: Settings, case: Case, tell: Tell) -> tuple[Sample, list[str]]:
    cluster = lab_spec("bench-serving", case.devices, link=LINK, speed=SPEED)
    spec = replace(cluster, clients=(DeviceSpec(CLIENT),))
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as directory, Lab(spec, tell) as lab:
        lab.start_workers()
        bench = _Bench(lab, case, settings, Path(directory) / "root.log")
        samples, run_ms = [], []
        for _ in range(PAIRS if case.beside_run else 1):
            if case.beside_run:
                run_ms.append(bench.run())
            samples.append(bench.serve())
        warnings = lab.warnings()
    return joined(samples, run_ms), warnings


@dataclass(frozen=True)
class _Bench:
    """A lab in which one root after the other is started. `log`: for what they say."""

    lab: Lab
    case: Case
    settings: Settings
    log: Path

    @property
    def _options(self) -> list[str]:
        return ["--model", str(self.settings.model.resolve()), *self.case.options]

    def run(self) -> float:
        """TPOT of `halo run`, ms."""
        tokens = ["--max-tokens", str(self.settings.size.tokens), "--temperature", "0"]
        command = ["halo", "run", "--json", "--raw", *tokens, *self._options]
        out = self._output(self._root, [*command, PROMPT], self.settings.size.limit_s)
        return float(msgspec.json.decode(out, type=_Ran).tpot_ms)

    def serve(self) -> Sample:
        with self._server():
            return sample_of(self._ask(), with_prompt=bool(self.case.prompt_tokens))

    @contextmanager
    def _server(self) -> Iterator[None]:
        listen = ["--host", "0.0.0.0", "--port", str(PORT), "--allowed-host", self._root]
        command = ["halo", "serve", *listen, *self._options]
        with self._spawned(self._root, command, stdout=subprocess.DEVNULL) as server:
            yield
            server.terminate()
            server.wait(END_S)

    def _ask(self) -> Came:
        case, size = self.case, self.settings.size
        asked = Asked(
            url=f"http://{self._root}:{PORT}",
            streams=case.streams,
            tokens=size.tokens,
            ready_s=READY_S,
            limit_s=size.limit_s,
            prompt=PROMPT,
            prompt_tokens=case.prompt_tokens,
        )
        words = ["-m", "halo_edge.bench.http_client", msgspec.json.encode(asked).decode()]
        out = self._output(CLIENT, [sys.executable, *words], READY_S + size.limit_s)
        return msgspec.json.decode(out, type=Came)

    @property
    def _root(self) -> str:
        return self.lab.spec.root.name

    def _output(self, machine: str, command: Sequence[str], limit_s: float) -> bytes:
        """Of a command that has to succeed."""
        with self._spawned(machine, command, stdout=subprocess.PIPE) as process:
            try:
                out: bytes = process.communicate(timeout=limit_s + END_S)[0]
            except subprocess.TimeoutExpired:
                raise HaloError(f"`{' '.join(command[:3])}` takes too long in the lab") from None
        if process.returncode:
            words = self.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise HaloError(f"`{' '.join(command[:3])}` failed in the lab: {words[-1][:300]}")
        return out

    @contextmanager
    def _spawned(
        self, machine: str, command: Sequence[str], stdout: int
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Ended in any case."""
        with self.log.open("ab") as errors:
            process = self.lab.spawn(
                machine,
                command,
                env=self.lab.environment(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=errors,
            )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


class _Ran(msgspec.Struct):
    """What is read of `halo run --json`."""

    tpot_ms: float


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    together = {
        case: median(sample.tokens_per_s for sample in samples) for case, samples in taken.items()
    }
    rows = []
    for case, samples in taken.items():
        tpot = median_of([Reading(sample.tpot_ms) for sample in samples])
        ttfts = [sample.ttft_s for sample in samples if sample.ttft_s is not None]
        ttft = median_of(ttfts) if ttfts else None
        one = together.get(Case(case.devices, 1))
        rows.append(
            Row(
                devices=case.devices,
                streams=case.streams,
                prompt_tokens=case.prompt_tokens,
                tpot_ms=tpot.value,
                interval_ms=tpot.interval,
                run_ms=_middle([sample.run_ms for sample in samples]),
                overhead=_middle([sample.overhead for sample in samples]),
                tokens_per_s=together[case],
                factor=together[case] / one if one else None,
                unevenness=_middle([sample.unevenness for sample in samples]),
                before_ms=_middle([sample.before_ms for sample in samples]),
                added_ms=_middle([sample.added_ms for sample in samples]),
                ttft_s=ttft.value if ttft is not None else None,
                ttft_at_least_s=ttft.at_least if ttft is not None else None,
                repetitions=tpot.repetitions,
                usual_added_ms=_middle([sample.usual_added_ms for sample in samples]),
            )
        )
    return rows


def _middle(values: Sequence[float | None]) -> float | None:
    """None where nothing was measured."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("devices", lambda row: str(row.devices)),
        Column[Row]("streams", lambda row: str(row.streams)),
        Column[Row]("prompt meanwhile", lambda row: f"{row.prompt_tokens:,}"),
        Column[Row]("TPOT, ms", lambda row: markdown.number(row.tpot_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("of `halo run`, ms", lambda row: markdown.number(row.run_ms)),
        Column[Row]("serve / run", lambda row: markdown.ratio(row.overhead)),
        Column[Row]("tokens/s together", lambda row: markdown.number(row.tokens_per_s)),
        Column[Row]("of one stream", lambda row: markdown.ratio(row.factor)),
        Column[Row]("p99 / median gap", lambda row: markdown.ratio(row.unevenness)),
        Column[Row]("longest gap, ms", lambda row: markdown.number(row.before_ms)),
        Column[Row]("added by the prompt, ms", lambda row: markdown.number(row.added_ms)),
        Column[Row]("to the median gap, ms", lambda row: markdown.number(row.usual_added_ms)),
        Column[Row]("its TTFT, s", lambda row: markdown.median(row.ttft_s, row.ttft_at_least_s)),
    )
    return markdown.table(columns, rows)


SERVING: Final = Experiment(
    name="serving",
    about="`halo serve`: against `halo run`, many at a time, a long prompt (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=1, tokens=24, limit_s=90),
    quick=Size(repetitions=1, tokens=10, limit_s=75),
    cases=lambda _: list(CASES),
    open=by_itself(_measured),
    rows=_rows,
    table=_table,
    plot=None,
    in_lab=True,
)
