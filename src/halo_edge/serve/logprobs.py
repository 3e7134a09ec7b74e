"""Log-probabilities in the two shapes that OpenAI's API has for them.

Of the model's raw probabilities, before temperature and filters, as vLLM's are. The token that ends
a generation is no part of the text, and so is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from halo_edge.engine.sampling import Sampled
from halo_edge.model.tokenizer import Tokenizer
from halo_edge.serve.chat_schemas import ChatLogprobs, ChosenLogprob, TokenLogprob
from halo_edge.serve.completion_schemas import CompletionLogprobs


def of_chat(tokenizer: Tokenizer, tokens: Iterable[Sampled]) -> ChatLogprobs:
    """`tokens`: sampled with log-probabilities."""
    content = []
    for sampled in _in_text(tokenizer, tokens):
        chosen = _entry(tokenizer, sampled.token_id, sampled.logprob)
        top = [_entry(tokenizer, token, logprob) for token, logprob in sampled.top_logprobs]
        content.append(ChosenLogprob(**dict(chosen), top_logprobs=top))
    return ChatLogprobs(content=content, refusal=None)


def of_completion(
    tokenizer: Tokenizer, tokens: Sequence[Sampled], *, top: bool, offset: int
) -> CompletionLogprobs:
    """The first token's text begins `offset` characters into the answer's."""
    texts, values, likeliest, offsets = [], [], [], []
    for sampled in _in_text(tokenizer, tokens):
        text = _text(tokenizer, sampled.token_id)
        texts.append(text)
        offsets.append(offset)
        offset += len(text)
        values.append(_value(sampled.logprob))
        likeliest.append(
            {_text(tokenizer, token): logprob for token, logprob in sampled.top_logprobs}
        )
    return CompletionLogprobs(
        tokens=texts,
        token_logprobs=values,
        top_logprobs=likeliest if top else None,
        text_offset=offsets,
    )


def _in_text(tokenizer: Tokenizer, tokens: Iterable[Sampled]) -> list[Sampled]:
    return [sampled for sampled in tokens if sampled.token_id not in tokenizer.eog_ids]


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float | None) -> TokenLogprob:
    spelled = tokenizer.token_bytes(token_id, special=True)
    return TokenLogprob(
        token=spelled.decode(errors="replace"), logprob=_value(logprob), bytes=list(spelled)
    )


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.token_bytes(token_id, special=True).decode(errors="replace")


def _value(logprob: float | None) -> float:
    assert logprob is not None
    return logprob
