"""What both kinds of completion have in common in JSON: of requests and of answers.

A field of OpenAI's that this server cannot honour is declared as null, and what is not declared is
refused, so that nothing is ignored in silence; docs/serving.md lists what is taken. Strict: "1" is
no number.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from halo_edge.engine.sampling import MAX_STOP_CHARS, MAX_STOPS
from halo_edge.serve.request import Price

MAX_CHOICES: Final = 16
"""Sequences of one request: each takes a place in the queue."""
MAX_DEPTH: Final = 32
"""Of JSON that clients may nest, such as a schema."""
MAX_ITEMS: Final = 20_000

_Text = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stop = _Text | Annotated[list[_Text], Field(max_length=MAX_STOPS)]


class Strict(BaseModel):
    """Part of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    pending: list[tuple[object, int]] = [(value, 1)]
    items = 0
    while pending:
        item, depth = pending.pop()
        inner = [*item.values()] if isinstance(item, dict) else item
        items += 1
        if isinstance(inner, list):
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
            pending.extend((part, depth + 1) for part in inner)
        elif isinstance(inner, float) and not math.isfinite(inner):
            raise ValueError("has a number that is not finite")
        if items + len(pending) > MAX_ITEMS:
            raise ValueError(f"has more than {MAX_ITEMS} values")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_shallow)]


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class HaloRequest(Strict):
    """HALO Edge's own: `kl_budget`, nats a token that going on without lost parts may cost."""

    kl_budget: (
        Annotated[float, Field(ge=0, le=1e6)] | Literal["strict", "balanced", "fast"] | None
    ) = None


class SamplingFields(Strict):
    """How tokens are chosen, and how the answer is sent. Null is as if left out."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    logit_bias: None = None
    halo: HaloRequest | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with a chunk about usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CachedTokens(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class HaloAnswer(BaseModel):
    """What the answer cost beyond what came by itself: docs/serving.md."""

    nats: float
    fidelity: float
    recovered: int
    filled: int
    taken_over: int
    devices: int

    @classmethod
    def of(cls, prices: list[Price]) -> HaloAnswer:
        """Of a request's sequences together. Their chunks are counted per step, which they share,
        so that only the greatest count means something."""
        nats = sum(price.nats for price in prices)
        return cls(
            nats=nats,
            fidelity=math.exp(-nats),
            recovered=max(price.recovered for price in prices),
            filled=max(price.filled for price in prices),
            taken_over=max(price.taken_over for price in prices),
            devices=max(price.devices for price in prices),
        )
