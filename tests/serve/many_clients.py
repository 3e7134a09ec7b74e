"""Run by `test_endurance`, on a device of the lab: many clients, each with one request after the
other; a line for each request that was answered as it should be, and one for what was not.

    python many_clients.py URL CLIENTS REQUESTS SEED
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import threading
import urllib.request
from typing import Any

LIMIT_S = 120.0
FINISHES = ("stop", "length")


def main(url: str, clients: int, requests: int, seed: int) -> None:
    numbers, lock = itertools.count(), threading.Lock()

    def client() -> None:
        while (number := next(numbers)) < requests:
            try:
                ask(url, random.Random(seed * requests + number))
                line = f"answered {number}"
            except Exception as error:
                line = f"failed {number}: {type(error).__name__}: {error}"
            with lock:
                print(line, flush=True)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask(url: str, rng: random.Random) -> None:
    """One request of any kind. Raises if the answer is not as the API has it."""
    tokens, stream = rng.randrange(1, 24), rng.random() < 0.5
    text = " ".join(rng.choice(("one", "two", "three")) for _ in range(rng.randrange(1, 12)))
    chat = rng.random() < 0.5
    body: dict[str, Any] = {"max_tokens": tokens, "seed": rng.randrange(1000), "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    body |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    request = urllib.request.Request(
        f"{url}/v1/{'chat/' if chat else ''}completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
        came = response.read().decode()
    if stream:
        *events, done, rest = came.split("\n\n")
        check((done, rest) == ("data: [DONE]", ""), "no end")
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        check(not any("error" in chunk for chunk in chunks), came[-300:])
        last = chunks.pop()
    else:
        last = json.loads(came)
        chunks = [last]
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    check(finishes[-1] in FINISHES and not any(finishes[:-1]), f"finish: {finishes}")
    check(len({chunk["id"] for chunk in chunks}) == 1, "ids")
    usage = last["usage"]
    check(1 <= usage["completion_tokens"] <= tokens, f"usage: {usage}")
    check("length" not in finishes or usage["completion_tokens"] == tokens, f"usage: {usage}")
    check(last["halo"]["nats"] == 0 and last["halo"]["devices"] > 1, f"halo: {last['halo']}")


def check(so: bool, what: str) -> None:
    if not so:
        raise ValueError(what)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
