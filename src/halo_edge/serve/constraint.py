"""Only JSON comes: which tokens may follow, from a JSON schema, by llguidance.

Exact: what a sequence under a constraint says is JSON of its schema, unless it is cut by
max_tokens or a stop string. A schema comes from a client: its size is bounded by `schemas`, and
what it may cost to compile and to follow by llguidance's limits, which count work and not time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from halo_edge.errors import HaloError
from halo_edge.model.tokenizer import Tokenizer
from halo_edge.serve.served import Served

ANY_OBJECT: Final[Mapping[str, object]] = {"type": "object"}

_WHITESPACE: Final = r"[\x20\x0A]{0,16}"
"""Between parts of JSON. Small models that may write any amount of it sometimes never stop."""


class Grammars:
    """Makes constraints for one model. Any thread may ask."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    def json(self, schema: Mapping[str, object]) -> TokenConstraint:
        """A JSON text of that schema. Raises `HaloError` if it is none, or beyond the limits."""
        return self.matching(json_grammar(schema))

    def matching(self, grammar: str) -> TokenConstraint:
        """A text of that grammar. Raises `HaloError` as above."""
        matcher = LLMatcher(self._vocabulary(), grammar, log_level=0, limits=_limits())
        if matcher.is_error():
            raise HaloError(_first_line(matcher.get_error()))
        return TokenConstraint(matcher, self._served.vocab)

    def _vocabulary(self) -> LLTokenizer:
        """Made when it is first needed: it takes a second or two, and tens of MB."""
        with self._lock:
            if self._tokenizer is None:
                tokenizer = self._served.tokenizer
                self._tokenizer = LLTokenizer(
                    TokenizerWrapper(_Vocabulary(tokenizer)),
                    n_vocab=tokenizer.vocab_size,
                    eos_token=sorted(tokenizer.eog_ids),
                    slices=LLTokenizer.json_slices(),
                )
            return self._tokenizer


class TokenConstraint:
    """A `Constraint` of one sequence."""

    def __init__(self, matcher: LLMatcher, vocab: int) -> None:
        self._matcher = matcher
        self._vocab = vocab

    def copy(self) -> TokenConstraint:
        """For another sequence of the same grammar."""
        return TokenConstraint(self._matcher.deep_copy(), self._vocab)

    def allowed(self) -> NDArray[np.bool_]:
        """bool[vocab]. Raises `HaloError` where the grammar has become too much to follow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.zeros(self._vocab, np.bool_)
        known = np.unpackbits(bits, bitorder="little")[: self._vocab]
        allowed[: len(known)] = known
        return allowed

    def accept(self, token: int) -> None:
        """Raises `HaloError` for a token that was not allowed."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise HaloError(f"the JSON schema: {_first_line(self._matcher.get_error())}")


def json_grammar(schema: Mapping[str, object]) -> str:
    """Raises `HaloError` if `schema` is no JSON."""
    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(bounded(schema))))
    except ValueError as error:
        raise HaloError(_first_line(str(error))) from None


def bounded(schema: Mapping[str, object], whitespace: str = _WHITESPACE) -> dict[str, object]:
    """That schema with our own wishes to llguidance, and none of the client's."""
    return {**schema, "x-guidance": {"whitespace_pattern": whitespace, "lenient": False}}


def _limits() -> LLParserLimits:
    """On a PC the worst schemas tried took 0.2 s to compile, and 50 ms for one token."""
    return LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=20_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300] or "it cannot be used"


class _Vocabulary:
    """What llguidance wants to know of a tokenizer. Control tokens are nobody's text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.vocab_size)
        self.eos_token_id = min(tokenizer.eog_ids)
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(i, special=True) for i in ids]
        self.special_token_ids = [i for i in ids if not tokenizer.token_bytes(i)]
        self._tokenizer = tokenizer

    def __call__(self, text: Any) -> list[int]:
        plain = text.decode(errors="replace") if isinstance(text, bytes) else text
        return self._tokenizer.encode(plain, add_special=False)
