"""`/v1/completions` in JSON: the request and its answers, as OpenAI's reference has them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from halo_edge.engine.sampling import MAX_LOGPROBS
from halo_edge.serve.schemas import MAX_CHOICES, HaloAnswer, SamplingFields, Usage

DEFAULT_MAX_TOKENS = 16
"""OpenAI's and vLLM's."""

_Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[_Token], Field(min_length=1)]
Prompt = (
    str
    | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
    | Tokens
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_CHOICES)]
)


class CompletionRequest(SamplingFields):
    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    suffix: None = None


class CompletionLogprobs(BaseModel):
    """`text_offset`: where each token's text begins, in characters of the answer."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(BaseModel):
    """Whole, or a chunk of a stream: `usage` and `halo` as in a chat's."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    halo: HaloAnswer | None = None
