"""Many requests through one engine's thread. Where the order matters, steps wait for the test."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halo_edge.cluster.relaxation import Spent
from halo_edge.cluster.session import Session
from halo_edge.engine.engine import Engine
from halo_edge.engine.generation import Generator
from halo_edge.engine.load import LoadedModel, load
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import FinishReason
from halo_edge.errors import HaloError
from halo_edge.serve.request import Answered, Busy, Piece, Request
from halo_edge.serve.service import RETRY_FOR_S, Service
from halo_edge.serve.stream import Stream

CONTEXT = 128
LIMIT_S = 30.0  # of a test that hangs


def prompt(n: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(2, 500, n)]


def request(tokens: list[int] | None = None, n: int = 8, user: str = "", **fields: Any) -> Request:
    params = SamplingParams(temperature=0, max_tokens=n, **fields.pop("params", {}))
    return Request("r", tokens or prompt(9), params, user, **fields)


class Gather:
    """The model's own FFN. `permits` None: steps do not wait; else each takes one. `fail` is called
    before each step."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.permits: threading.Semaphore | None = None
        self.fail: Callable[[], None] = lambda: None
        self.steps = 0
        self.rows = 0

    def ffn(self, layer: int, tokens: int) -> None:
        if layer == 0:
            self.steps += 1
            if self.permits is not None:
                assert self.permits.acquire(timeout=LIMIT_S)
            self.fail()
            self.rows += tokens
        self.inner.ffn(layer, tokens)

    def hold(self) -> None:
        self.permits = threading.Semaphore(0)

    def go(self) -> None:
        permits, self.permits = self.permits, None
        assert permits is not None
        permits.release(1)


class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.first: list[bool] = []
        self.answered: list[Answered] = []

    def refused(self, request: Request) -> None:
        self.refusals.append(request.user)

    def token(self, request: Request, since_s: float, *, first: bool) -> None:
        assert since_s >= 0
        self.first.append(first)

    def ended(self, answered: Answered) -> None:
        self.answered.append(answered)


class Bench:
    """A service, and what it is made of."""

    def __init__(self, model: LoadedModel, cluster: Any = None, **options: Any) -> None:
        self.model = model
        self.gather = Gather(model.local_ffn())
        self.listener = Listener()
        session: Any = Session(model, self.gather, cluster)
        self.service = Service(session, listeners=[self.listener], **options)

    def alone(self, tokens: list[int], n: int = 8) -> str:
        """What the model says to it, without a service."""
        model = self.model
        engine = Engine(
            model.forward, model.local_ffn(), context=CONTEXT, end_tokens=model.tokenizer.eog_ids
        )
        generator = Generator(engine, model.tokenizer)
        generation = generator.start(tokens, SamplingParams(temperature=0, max_tokens=n))
        text = "".join(generator.run(generation))
        engine.release(generation.sequence)
        return text


@pytest.fixture(scope="module")
def path(make_model: Any) -> Any:
    return make_model(quantization="f32", context=CONTEXT)


@pytest.fixture
def make(path: Any) -> Iterator[Callable[..., Bench]]:
    """`make(cluster=None, **options of the service)`."""
    made: list[Bench] = []

    def make_(cluster: Any = None, **options: Any) -> Bench:
        model = load(path, threads=1, context=CONTEXT, kv_bytes=1 << 30)
        made.append(Bench(model, cluster, **options))
        return made[-1]

    yield make_
    for bench in made:
        bench.service.close(0)
        assert not bench.service._thread.is_alive()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT_S))


async def read(stream: Stream) -> str:
    return "".join([piece.text async for piece in stream])


def test_an_answer(make: Any) -> None:
    bench = make()
    expected = bench.alone(prompt(9))

    async def main() -> None:
        async with bench.service.submit(request(params={"logprobs": 1})) as stream:
            pieces = [piece async for piece in stream]
        assert "".join(piece.text for piece in pieces) == expected
        assert sum(len(piece.tokens) for piece in pieces) == 8
        assert all(token.top_logprobs for piece in pieces for token in piece.tokens)
        assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1].finish is FinishReason.LENGTH
        ended = stream.ended
        assert ended is not None
        assert (ended.prompt_tokens, ended.reused_tokens, ended.generated_tokens) == (9, 0, 8)
        assert 0 <= ended.queued_s <= ended.ttft_s <= ended.total_s
        assert ended.finish is FinishReason.LENGTH
        assert bench.listener.answered == [ended]

    run(main())
    assert bench.listener.first == [True] + 7 * [False]


def test_a_stop_string_ends_an_answer(make: Any) -> None:
    bench = make()
    text = bench.alone(prompt(9), 20)
    stop = text[len(text) // 2 :][:3]

    async def main() -> None:
        stream = bench.service.submit(request(n=20, params={"stop": (stop,)}))
        pieces = [piece async for piece in stream]
        assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]
        assert pieces[-1].finish is FinishReason.STOP
        assert bench.service.load.running == 0

    run(main())


def test_many_at_once_are_each_as_alone(make: Any) -> None:
    bench = make()
    prompts = [prompt(n, seed=n) for n in range(1, 41, 2)]
    expected = [bench.alone(tokens) for tokens in prompts]

    async def main() -> None:
        streams = [bench.service.submit(request(tokens)) for tokens in prompts]
        assert await asyncio.gather(*map(read, streams)) == expected
        load = bench.service.load
        assert (load.running, load.waiting) == (0, 0)
        assert load.kv_used == load.kv_kept > 0

    run(main())


def test_the_next_turn_need_not_be_computed(make: Any) -> None:
    bench = make()

    async def main() -> None:
        first = bench.service.submit(request(prompt(40)))
        tokens = [token.token_id async for piece in first for token in piece.tokens]
        turn = [*prompt(40), *tokens, 7, 8]
        before = bench.gather.rows
        second = bench.service.submit(request(turn))
        assert await read(second) == bench.alone(turn)
        assert second.ended is not None
        assert second.ended.reused_tokens == 47
        assert bench.gather.rows - before == len(turn) - 47 + 7

    run(main())


def test_who_reads_slowly_finds_everything_in_one_piece_and_stops_nobody(make: Any) -> None:
    bench = make()
    expected = bench.alone(prompt(9), 30)

    async def main() -> None:
        slow, other = bench.service.submit(request(n=30)), bench.service.submit(request(n=40))
        await read(other)
        (piece,) = [piece async for piece in slow]
        assert piece.text == expected
        assert len(piece.tokens) == 30
        assert piece.finish is FinishReason.LENGTH

    run(main())


def test_busy(make: Any) -> None:
    """One user may have half of the places, others of what is left; all that are taken come."""
    bench = make(max_running=1, max_waiting=8)
    bench.gather.hold()

    async def main() -> None:
        streams = []
        for user, places in (("a", 4), ("b", 2), ("c", 1), ("d", 1)):
            for _ in range(places):
                streams.append(bench.service.submit(request(n=2, user=user)))
            with pytest.raises(Busy, match="requests are waiting") as busy:
                bench.service.submit(request(user=user))
            assert busy.value.retry_after_s >= 1
            assert bench.listener.refusals[-1] == user
        bench.gather.go()
        for stream in streams:
            await read(stream)
        assert await read(bench.service.submit(request(n=2, user="a")))

    run(main())


@pytest.mark.parametrize("tokens", [[], [1] * CONTEXT, [10**6]])
def test_prompts_that_cannot_be_answered(make: Any, tokens: list[int]) -> None:
    bench = make()

    async def main() -> None:
        with pytest.raises(HaloError, match="prompt"):
            bench.service.submit(Request("r", tokens, SamplingParams(), ""))

    run(main())


def test_who_leaves_is_computed_no_more(make: Any) -> None:
    bench = make()
    bench.gather.hold()

    async def main() -> None:
        async with bench.service.submit(request(n=100)) as left:
            pass
        waits = bench.service.submit(request(n=100))
        waits.cancel()
        assert [piece async for piece in waits] == []
        bench.gather.go()
        await read(bench.service.submit(request(n=3)))
        load = bench.service.load
        assert (load.running, load.waiting) == (0, 0)
        assert load.kv_used == load.kv_kept
        assert left.ended is not None
        assert left.ended.finish is None
        assert left.ended.error == ""

    run(main())
    assert bench.gather.steps <= 1 + 3
    assert len(bench.listener.answered) == 3


def test_random_departures_leave_nothing(make: Any) -> None:
    bench, rng = make(max_waiting=1000), random.Random(4)

    async def visit(i: int) -> None:
        tokens = prompt(rng.randrange(1, 40), rng.randrange(5))
        async with bench.service.submit(request(tokens, 20, f"u{i % 7}")) as stream:
            for _ in range(rng.randrange(4)):
                async for _piece in stream:
                    break

    async def main() -> None:
        for batch in range(10):
            await asyncio.gather(*[visit(batch * 50 + i) for i in range(50)])
        await read(bench.service.submit(request()))
        assert len(asyncio.all_tasks()) == 2  # wait_for's and this one

    run(main())
    load, service = bench.service.load, bench.service
    assert (load.running, load.waiting) == (0, 0)
    assert load.kv_used == load.kv_kept
    assert len(bench.listener.answered) == 501
    assert not (service._jobs or service._by_sequence or service._inbox.n_waiting)
    assert service._inbox.take() == ([], [])


def test_a_step_that_fails_once_is_tried_again(make: Any) -> None:
    bench = make()
    expected = bench.alone(prompt(9))
    failures = iter([None, None, HaloError("worker left")])

    trouble = []

    def fail() -> None:
        trouble.append(bench.service.trouble)
        error = next(failures, None)
        if error is not None:
            raise error

    bench.gather.fail = fail

    async def main() -> None:
        assert await read(bench.service.submit(request())) == expected
        assert trouble == ["", "", "", "worker left", *[""] * 5]

    run(main())


@pytest.mark.parametrize("error", [HaloError("worker left"), RuntimeError("a mistake")])
def test_who_is_computed_when_nothing_goes_any_more_is_told_and_then_it_goes_on(
    make: Any, error: Exception
) -> None:
    now_s = [0.0]
    bench = make(clock=lambda: now_s[0], max_running=2)
    expected, left = bench.alone(prompt(9)), [2]
    failures = []

    def fail() -> None:
        left[0] -= 1
        if left[0] < 0 and len(failures) < 2:
            now_s[0] += RETRY_FOR_S + 1
            failures.append(error)
            raise error

    bench.gather.fail = fail

    async def main() -> None:
        streams = [bench.service.submit(request()) for _ in range(2)]
        for stream in streams:
            text = ""
            with pytest.raises(HaloError, match=str(error)):
                async for piece in stream:
                    text += piece.text
            assert expected.startswith(text)
            assert stream.ended is not None
            assert str(error) in stream.ended.error
            assert [piece async for piece in stream] == []
        bench.gather.fail = lambda: None
        assert await read(bench.service.submit(request())) == expected

    run(main())


class Stuck:
    def allowed(self) -> Any:
        return np.zeros(512, np.bool_)

    def accept(self, token: int) -> None: ...


def test_one_that_cannot_go_on_fails_alone(make: Any) -> None:
    bench = make()
    expected = bench.alone(prompt(9))

    async def main() -> None:
        stuck, other = (
            bench.service.submit(request(constraint=Stuck())),
            bench.service.submit(request()),
        )
        with pytest.raises(HaloError, match="allows none"):
            await read(stuck)
        assert await read(other) == expected

    run(main())


def test_close_lets_answers_end_or_fails_them(make: Any) -> None:
    bench = make()

    async def main() -> None:
        stream = bench.service.submit(request(n=20))
        await asyncio.to_thread(bench.service.close)
        assert len([token async for piece in stream for token in piece.tokens]) == 20
        with pytest.raises(HaloError, match="being stopped"):
            bench.service.submit(request())

    run(main())
    bench = make()
    bench.gather.hold()

    async def cut() -> None:
        stream = bench.service.submit(request(n=100))
        closing = asyncio.create_task(asyncio.to_thread(bench.service.close, 0))
        while bench.service._inbox._close_by_s == float("inf"):
            await asyncio.to_thread(lambda: None)
        bench.gather.go()
        await closing
        with pytest.raises(HaloError, match="was stopped"):
            await read(stream)

    run(cut())


def test_answers_for_an_event_loop_that_is_gone(make: Any) -> None:
    bench = make()
    bench.gather.hold()

    async def leave() -> None:
        bench.service.submit(request(n=100))

    run(leave())
    bench.gather.go()

    async def main() -> None:
        await read(bench.service.submit(request(n=3)))
        assert bench.service.load.running == 0

    run(main())


class Cluster:
    """As far as a service needs one."""

    def __init__(self, profile: Any) -> None:
        self.packing = SimpleNamespace(profile=profile)
        self.members = {1: "a", 2: "b"}
        self.accounts: dict[int, float] = {}
        self.closed: list[int] = []
        self.spent = Spent()

    def open_account(self, sequence: int, nats_per_token: float) -> None:
        self.accounts[sequence] = nats_per_token

    def close_account(self, sequence: int) -> float:
        self.closed.append(sequence)
        return 0.25


def test_budget_and_price(make: Any) -> None:
    cluster = Cluster(profile=object())
    bench = make(cluster)

    def fail() -> None:
        cluster.spent = Spent(cluster.spent.rounds + 1, cluster.spent.chunks_recovered + 1)

    bench.gather.fail = fail

    async def main() -> Piece:
        stream = bench.service.submit(request(kl_budget=0.01))
        await read(stream)
        other = bench.service.submit(request(prompt(5, seed=1)))
        await read(other)
        assert stream.ended is not None
        assert other.ended is not None
        return stream.ended.price, other.ended.price

    price, other = run(main())
    assert list(cluster.accounts.values()) == [0.01]
    assert len(cluster.closed) == 2
    assert price.nats == 0.25
    assert price.fidelity == pytest.approx(np.exp(-0.25))
    assert (price.recovered, price.devices) == (8, 3)
    assert other.recovered == 8


def test_a_budget_takes_a_profile(make: Any) -> None:
    bench = make(Cluster(profile=None))

    async def main() -> None:
        with pytest.raises(HaloError, match="takes a profile"):
            bench.service.submit(request(kl_budget=0.01))
        for bad in (-1.0, float("nan"), float("inf")):
            with pytest.raises(HaloError, match="number of nats"):
                bench.service.submit(request(kl_budget=bad))
        assert await read(bench.service.submit(request(kl_budget=0.0)))

    run(main())


def test_a_mistake_with_one_leaves_nobody_waiting(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that come during a step the first fails in a way that nobody foresaw."""
    bench = make()
    add, wrong = Engine.add, request(prompt(5))

    def failing(engine: Engine, tokens: list[int], *rest: Any) -> Any:
        if tokens is wrong.prompt:
            raise RuntimeError("a mistake")
        return add(engine, tokens, *rest)

    monkeypatch.setattr(Engine, "add", failing)

    async def main() -> None:
        bench.gather.hold()
        streams = [bench.service.submit(request())]
        while not bench.gather.steps:
            await asyncio.sleep(0)
        streams += [bench.service.submit(each) for each in (wrong, request())]
        bench.gather.go()
        for stream in streams:
            with pytest.raises(HaloError, match="internal error: RuntimeError: a mistake"):
                await read(stream)
        assert await read(bench.service.submit(request()))

    run(main())
