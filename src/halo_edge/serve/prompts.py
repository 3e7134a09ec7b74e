"""From what a request says to token ids, or an error that says why not.

Templates and tokenizers take as long as a prompt is long, and so run in a thread of their own; what
can never fit the context is refused before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from anyio import CapacityLimiter, to_thread

from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message
from halo_edge.serve.errors import ApiError
from halo_edge.serve.served import Served

MAX_CHARS: Final = 128
"""Of a token. Some stand for as many spaces, but no text is made of those alone."""


class Prompts:
    """Makes prompts for one model. Two at a time, so that they leave cores for the engine."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._limiter = CapacityLimiter(2)

    async def of_text(self, text: str) -> list[int]:
        """A text as it stands. Raises `ApiError`."""
        self._check_length(text, "prompt")
        tokens = await self._threaded(partial(self._served.tokenizer.encode, text))
        return self.checked(tokens, "prompt")

    async def of_chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]
    ) -> list[int]:
        """A chat through the model's template. Raises `ApiError`."""
        if self._served.template is None:
            message = f"{self._served.name} has no chat template; use /v1/completions"
            raise ApiError(400, message, param="messages")
        for said in messages:
            self._check_length(said.content, "messages")
        tokens = await self._threaded(partial(self._chat_tokens, messages, tools))
        return self.checked(tokens, "messages")

    def checked(self, tokens: list[int], param: str) -> list[int]:
        """Those tokens. Raises `ApiError` where they cannot be answered."""
        if not tokens:
            raise ApiError(400, "the prompt is empty", param=param, code="invalid_value")
        if max(tokens) >= self._served.tokenizer.vocab_size:
            raise ApiError(
                400, "the prompt has token ids that the model does not know", param=param
            )
        if len(tokens) >= self._served.context:
            raise self._too_long(f"{len(tokens)} tokens", param)
        return tokens

    def _chat_tokens(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]
    ) -> list[int]:
        template, tokenizer = self._served.template, self._served.tokenizer
        assert template is not None
        try:
            text = template.render(messages, tools=tools)
        except HaloError as error:
            raise ApiError(400, str(error), param="messages") from None
        self._check_length(text, "messages")
        return tokenizer.encode(text, add_special=True, parse_special=True)

    def _check_length(self, text: str, param: str) -> None:
        """Without looking at it."""
        if len(text) > MAX_CHARS * self._served.context:
            raise self._too_long(f"{len(text)} characters", param)

    def _too_long(self, length: str, param: str) -> ApiError:
        message = (
            f"the prompt has {length}, and the context holds {self._served.context} tokens with "
            f"the answer"
        )
        return ApiError(400, message, param=param, code="context_length_exceeded")

    async def _threaded(self, make: partial[list[int]]) -> list[int]:
        return await to_thread.run_sync(make, limiter=self._limiter)
