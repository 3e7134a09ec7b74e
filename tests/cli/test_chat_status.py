"""What a chat says of devices made up here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rich.console import Console

from halo_edge.cli.chat_status import AWAY_S, DeviceWatch, device_table, devices_line, status_line
from halo_edge.cluster.overview import DeviceOverview, Overview, State
from halo_edge.cluster.relaxation import Spent
from halo_edge.sync.peer import LinkReport


def device(number: int, state: State = State.IN_USE, loss: float = 0.0) -> DeviceOverview:
    return DeviceOverview(
        number=number,
        name=f"pi-{number}" if number else "root",
        host="attic",
        state=state,
        groups=range(0),
        share=0.5,
        held_bytes=0,
        memory_bytes=None,
        threads=1,
        compute_s=0.0123,
        link=LinkReport(0.002, 0.005, 0.004, loss, loss / 2, 0.0, 0.0, 1, 1) if number else None,
    )


def overview(*devices: DeviceOverview) -> Overview:
    return Overview((device(0), *devices), "", Spent(), None)


def generation(**changes: Any) -> Any:
    sequence = SimpleNamespace(n_computed=128, n_prompt=300)
    fields = {"sequence": sequence, "tokens": [], "tpot_ms": None}
    return SimpleNamespace(**fields | changes)


def test_one_device() -> None:
    assert devices_line(None) == "1 device"
    assert status_line(None, generation(), 0.0) == "1 device, prompt 128/300 tokens"


def test_status() -> None:
    seen = overview(device(1, loss=0.02), device(2, loss=0.05), device(3, State.LEFT, loss=0.9))
    line = status_line(seen, generation(tokens=[1, 2], tpot_ms=80.0), 0.01234)
    assert line == "3 devices, loss up to 5.0 %, 12.5 tokens/s, 0.0123 nats"
    assert "tokens/s" not in status_line(seen, generation(tokens=[1]), 0.0)


def test_who_is_away_is_named() -> None:
    seen = overview(device(1), device(2, State.AWAY))
    assert devices_line(seen) == "2 devices, pi-2 away, loss up to 0.0 %"


def test_table() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(device_table(overview(device(1, loss=0.1), device(2, State.LEFT))))
    rows = [line.split() for line in captured.get().splitlines()]
    assert ["root", "attic", "in", "use", "50", "-", "-", "12.3"] in rows
    assert ["pi-1", "attic", "in", "use", "50", "2.0", "10.0/5.0", "12.3"] in rows
    assert ["pi-2", "attic", "left", "50", "2.0", "-", "12.3"] in rows


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_one_that_leaves_and_comes_back() -> None:
    watch = DeviceWatch(Clock())
    assert watch.news(overview(device(1))) == []
    (line,) = watch.news(overview(device(1, State.LEFT)))
    assert line.startswith("pi-1 has left")
    assert watch.news(overview(device(1, State.LEFT))) == []
    assert watch.news(overview(device(1, State.LOADING))) == []
    assert watch.news(overview(device(1))) == ["pi-1 is back"]
    assert watch.news(overview(device(1))) == []


def test_a_burst_of_loss_is_no_news() -> None:
    clock = Clock()
    watch = DeviceWatch(clock)
    for _ in range(3):
        assert watch.news(overview(device(1, State.AWAY))) == []
        clock.now_s += AWAY_S / 2
        assert watch.news(overview(device(1, State.AWAY))) == []
        clock.now_s += AWAY_S
        assert watch.news(overview(device(1))) == []


def test_one_that_is_silent_for_long() -> None:
    clock = Clock()
    watch = DeviceWatch(clock)
    assert watch.news(overview(device(1, State.AWAY))) == []
    clock.now_s += AWAY_S
    (line,) = watch.news(overview(device(1, State.AWAY)))
    assert line.startswith("pi-1 does not answer")
    clock.now_s += AWAY_S
    assert watch.news(overview(device(1, State.AWAY))) == []
    assert watch.news(overview(device(1))) == ["pi-1 is back"]


def test_who_had_left_before_is_no_news() -> None:
    assert DeviceWatch(Clock()).news(overview(device(1, State.LEFT))) == []
