"""What requests were like, for Prometheus: a `Listener` that counts, and gauges of the load.

The names are vLLM's where the same thing is meant (docs/metrics.md). Knows nothing of the cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from halo_edge.serve.request import Answered, Load, Request

# A token takes some 10 ms on one fast machine, and seconds on many slow ones over a bad network.
GAP_S: Final = (
    *(0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
)
# A long prompt on such machines takes minutes, and may have waited for others before.
START_S: Final = (
    *(0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0),
)
WHOLE_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
TOKENS: Final = tuple(float(1 << i) for i in range(16))


class RequestMetrics:
    """A `Listener`. `load`: how busy the service is; asked when somebody reads the metrics, from
    any thread."""

    def __init__(self, registry: CollectorRegistry, load: Callable[[], Load]) -> None:
        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(name, words, labels, registry=registry)

        def histogram(name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, words, buckets=buckets, registry=registry)

        def gauge(name: str, words: str, read: Callable[[Load], float]) -> None:
            Gauge(name, words, registry=registry).set_function(lambda: read(load()))

        self._ttft = histogram(
            "halo_time_to_first_token_seconds",
            "From the request to its first token, waiting included; seconds.",
            START_S,
        )
        self._gap = histogram(
            "halo_inter_token_latency_seconds",
            "From a token to the next of the same answer; seconds.",
            GAP_S,
        )
        self._tpot = histogram(
            "halo_request_time_per_output_token_seconds",
            "TPOT of an answer: mean time per token after its first; seconds.",
            GAP_S,
        )
        self._whole = histogram(
            "halo_e2e_request_latency_seconds",
            "From the request to the end of its answer; seconds.",
            WHOLE_S,
        )
        self._queued = histogram(
            "halo_request_queue_time_seconds",
            "How long the request waited before its prompt was begun; seconds.",
            START_S,
        )
        self._prompt = histogram("halo_request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self._answer = histogram("halo_request_generation_tokens", "Tokens of an answer.", TOKENS)
        self._prompt_tokens = counter(
            "halo_prompt_tokens", "Prompt tokens of requests that have their first token."
        )
        self._generated = counter("halo_generation_tokens", "Tokens generated.")
        self._looked_up = counter(
            "halo_prefix_cache_queries",
            "Prompt tokens of ended requests, each looked for in the KV cache.",
        )
        self._reused = counter(
            "halo_prefix_cache_hits", "Of those, the tokens found there and not computed again."
        )
        self._finished = counter(
            "halo_request_success",
            "Requests that ended, by reason: stop, length, abort (the client went away), error.",
            "finished_reason",
        )
        for reason in ("stop", "length", "abort", "error"):
            self._finished.labels(reason)  # a rate is of use from the first one on
        gauge("halo_num_requests_running", "Requests being answered.", lambda now: now.running)
        gauge("halo_num_requests_waiting", "Requests in the queue.", lambda now: now.waiting)
        gauge(
            "halo_kv_cache_usage_perc",
            "Share of the KV cache's cells in use, those kept to be reused included, 0 to 1.",
            lambda now: now.kv_used,
        )
        gauge(
            "halo_kv_cache_kept_perc",
            "Share of the KV cache's cells kept only to be reused, 0 to 1.",
            lambda now: now.kv_kept,
        )

    def token(self, request: Request, since_s: float, *, first: bool) -> None:
        """See `Listener`."""
        self._generated.inc()
        if first:
            self._ttft.observe(since_s)
            self._prompt_tokens.inc(len(request.prompt))
        else:
            self._gap.observe(since_s)

    def ended(self, answered: Answered) -> None:
        """See `Listener`."""
        self._finished.labels(finished_reason(answered)).inc()
        self._queued.observe(answered.queued_s)
        self._whole.observe(answered.total_s)
        self._prompt.observe(answered.prompt_tokens)
        self._answer.observe(answered.generated_tokens)
        self._looked_up.inc(answered.prompt_tokens)
        self._reused.inc(answered.reused_tokens)
        tpot_s = time_per_output_token_s(answered)
        if tpot_s is not None:
            self._tpot.observe(tpot_s)


def finished_reason(answered: Answered) -> str:
    """vLLM's word for how a request ended."""
    if answered.error:
        return "error"
    return "abort" if answered.finish is None else answered.finish.value


def time_per_output_token_s(answered: Answered) -> float | None:
    """Mean time per token after the first, seconds; None for fewer than two."""
    if answered.ttft_s is None or answered.generated_tokens < 2:
        return None
    return (answered.total_s - answered.ttft_s) / (answered.generated_tokens - 1)
