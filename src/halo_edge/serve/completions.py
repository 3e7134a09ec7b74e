"""`/v1/completions`: text that goes on from a prompt, or from several."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from halo_edge.engine.sampling import Sampled
from halo_edge.model.tokenizer import Tokenizer
from halo_edge.serve.answering import Answers, Submits
from halo_edge.serve.completion_schemas import (
    DEFAULT_MAX_TOKENS,
    Completion,
    CompletionChoice,
    CompletionRequest,
)
from halo_edge.serve.errors import ApiError
from halo_edge.serve.logprobs import of_completion
from halo_edge.serve.prompts import Prompts
from halo_edge.serve.request import Piece, Request
from halo_edge.serve.sampling import budget_of, params_of
from halo_edge.serve.schemas import MAX_CHOICES
from halo_edge.serve.served import Served


@dataclass(frozen=True)
class CompletionAnswer:
    """Completions on their way, and their JSON. `common`: fields of every chunk. `echoed`: what
    each choice's text begins with."""

    answers: Answers
    request: CompletionRequest
    tokenizer: Tokenizer
    common: dict[str, Any]
    echoed: Sequence[str]

    async def whole(self) -> Completion:
        """Raises `HaloError` when it fails."""
        pieces = await self.answers.whole()
        return Completion(
            **self.common,
            choices=[
                self._choice(i, _joined(choice), self.echoed[i], 0)
                for i, choice in enumerate(pieces)
            ],
            usage=self.answers.usage(),
            halo=self.answers.price(),
        )

    async def chunks(self) -> AsyncIterator[Completion]:
        """Raises `HaloError` when it fails."""
        common = self.common
        usage: dict[str, Any] = {"usage": None} if self.request.with_usage else {}
        left = len(self.echoed)
        offsets, echoed = [0] * left, list(self.echoed)
        async for i, piece in self.answers.pieces():
            choice = self._choice(i, piece, echoed[i], offsets[i])
            echoed[i] = ""
            offsets[i] += (
                sum(len(text) for text in choice.logprobs.tokens) if choice.logprobs else 0
            )
            left -= piece.finish is not None
            last: dict[str, Any] = {}
            if not left and not usage:
                last["halo"] = self.answers.price()
            if choice.text or choice.finish_reason or (choice.logprobs and choice.logprobs.tokens):
                yield Completion(**common, **usage, **last, choices=[choice])
        if usage:
            usage["usage"] = self.answers.usage()
            yield Completion(**common, **usage, halo=self.answers.price(), choices=[])

    def _choice(self, index: int, piece: Piece, echoed: str, offset: int) -> CompletionChoice:
        wanted = self.request.logprobs
        logprobs = None
        if wanted is not None:
            logprobs = of_completion(self.tokenizer, piece.tokens, top=wanted > 0, offset=offset)
        return CompletionChoice(
            index=index,
            text=echoed + piece.text,
            logprobs=logprobs,
            finish_reason=piece.finish.value if piece.finish is not None else None,
        )


class Completions:
    """Goes on with texts, with one model."""

    def __init__(self, service: Submits, served: Served, prompts: Prompts) -> None:
        self._service = service
        self._served = served
        self._prompts = prompts

    async def begin(
        self, request: CompletionRequest, user: str, created_s: int
    ) -> CompletionAnswer:
        """Submit it. Raises `Busy`, and `ApiError` for what cannot be answered."""
        if request.best_of is not None and request.best_of != request.choices:
            raise ApiError(400, "best_of: no others are made than the n choices", param="best_of")
        if request.echo and request.logprobs is not None:
            message = "echo: the prompt's tokens have no log-probabilities here"
            raise ApiError(400, message, param="echo")
        prompts = [await self._tokens(prompt) for prompt in _prompts(request)]
        if len(prompts) * request.choices > MAX_CHOICES:
            message = f"prompts times n must be {MAX_CHOICES} at the most"
            raise ApiError(400, message, param="n")
        id = f"cmpl-{uuid4().hex}"
        each = [(prompt, i) for prompt in prompts for i in range(request.choices)]
        requests = [
            Request(
                id=id if len(each) == 1 else f"{id}-{number}",
                prompt=prompt,
                params=params_of(
                    request,
                    max_tokens=request.max_tokens or DEFAULT_MAX_TOKENS,
                    logprobs=request.logprobs,
                    index=i,
                ),
                user=user,
                kl_budget=budget_of(request.halo),
            )
            for number, (prompt, i) in enumerate(each)
        ]
        echoed = [self._echo(request, prompt) for prompt, _ in each]
        common = {
            "id": id,
            "object": "text_completion",
            "created": created_s,
            "model": self._served.name,
        }
        answers = Answers(self._service, requests, len(prompts))
        return CompletionAnswer(answers, request, self._served.tokenizer, common, echoed)

    async def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return await self._prompts.of_text(prompt)
        return self._prompts.checked(prompt, "prompt")

    def _echo(self, request: CompletionRequest, prompt: list[int]) -> str:
        return self._served.tokenizer.decode(prompt) if request.echo else ""


def _prompts(request: CompletionRequest) -> list[str | list[int]]:
    """The text or the tokens of each."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    return [part for part in prompt if not isinstance(part, int)]


def _joined(pieces: Sequence[Piece]) -> Piece:
    tokens: list[Sampled] = []
    for piece in pieces:
        tokens += piece.tokens
    return Piece("".join(piece.text for piece in pieces), tuple(tokens), pieces[-1].finish)
