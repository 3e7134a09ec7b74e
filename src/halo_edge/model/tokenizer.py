"""Text to token ids and back, from the vocabulary inside a GGUF; the ids are llama.cpp's.

This file cuts special tokens out of the text and puts the ends on; what lies between is encoded by
`bpe` or `spm`. It knows nothing of chats: see `chat_template`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from halo_edge.errors import HaloError
from halo_edge.model.bpe import ByteLevelBpe, pre_tokenizer
from halo_edge.model.detokenizer import Detokenizer
from halo_edge.model.spm import SentencePiece
from halo_edge.model.vocabulary import (
    BYTE_LEVEL,
    SENTENCE_PIECE,
    TokenType,
    Vocabulary,
    byte_value,
    damaged,
    flag,
    need_string,
    need_strings,
    numbers,
)

# What is left of bytes that were no UTF-8 (PEP 383): no encoder takes them.
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


class Encoder(Protocol):
    """The part that differs between kinds of vocabulary."""

    def encode(self, text: str, *, after_special: bool) -> list[int]: ...

    def token_bytes(self, text: str) -> bytes: ...


class Tokenizer:
    """Encodes and decodes with one model's vocabulary. Safe to share between threads.

    `eog_ids` are the tokens that end a generation (end of text, of turn, ...). `add_bos` and
    `add_eos` say what `encode` puts around a text.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        encoder: Encoder,
        *,
        add_bos: bool,
        add_eos: bool,
        strip_space: bool,
    ) -> None:
        """`strip_space`: the encoder puts a space before a text, which decoding takes off."""
        self.vocab_size = len(vocabulary.texts)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.eog_ids = vocabulary.eog_ids
        self.add_bos = add_bos and vocabulary.bos_id is not None
        self.add_eos = add_eos and vocabulary.eos_id is not None
        self._vocabulary = vocabulary
        self._encoder = encoder
        self._strip_space = strip_space
        self._special_tokens = _longest_first(
            vocabulary, {TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED}
        )
        self._user_defined_tokens = _longest_first(vocabulary, {TokenType.USER_DEFINED})

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """Build the tokenizer that a GGUF's `metadata` describes.

        Raises `HaloError` if it is of an unsupported kind, or the vocabulary is damaged.
        """
        model = need_string(metadata, "model")
        if model == BYTE_LEVEL:
            vocabulary = Vocabulary.from_gguf(metadata)
            has_name = "tokenizer.ggml.pre" in metadata
            pre = pre_tokenizer(need_string(metadata, "pre") if has_name else "default")
            return cls(
                vocabulary,
                ByteLevelBpe(vocabulary.ids, need_strings(metadata, "merges"), pre),
                add_bos=flag(metadata, "add_bos_token", pre.add_bos),
                add_eos=flag(metadata, "add_eos_token", False),
                strip_space=False,
            )
        if model == SENTENCE_PIECE:
            vocabulary = Vocabulary.from_gguf(metadata)
            scores = numbers(metadata, "scores", len(vocabulary.texts), kinds="iuf")
            scores = scores.astype(np.float32)  # llama.cpp's precision: what ties there, ties here
            if np.isnan(scores).any():
                raise damaged("scores", "has entries that are not numbers")
            prefix = flag(metadata, "add_space_prefix", True)
            encoder = SentencePiece(
                vocabulary.ids,
                scores.tolist(),
                unknown_id=vocabulary.unknown_id or 0,
                add_space_prefix=prefix,
            )
            return cls(
                vocabulary,
                encoder,
                add_bos=flag(metadata, "add_bos_token", True),
                add_eos=flag(metadata, "add_eos_token", False),
                strip_space=prefix,
            )
        raise HaloError(
            f"unsupported tokenizer {model[:40]!r}; supported are {BYTE_LEVEL} and {SENTENCE_PIECE}"
        )

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`.

        `add_special`: with the beginning- and end-of-text tokens that the model wants.
        `parse_special`: the texts of control tokens in `text` mean those tokens; else they are
        plain text. User-defined tokens always mean themselves.
        """
        text = _SURROGATES.sub("\ufffd", text)
        tokens = self._special_tokens if parse_special else self._user_defined_tokens
        ids: list[int] = []
        if add_special and self.add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        after_special = True
        for fragment in _partition(text, tokens):
            if isinstance(fragment, int):
                ids.append(fragment)
                after_special = True
            else:
                ids.extend(self._encoder.encode(fragment, after_special=after_special))
                after_special = False
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`, control tokens left out if `skip_special`, else spelled out.

        Where `encode` puts a space before a text, a space at the start of the first token is taken
        off again; after a beginning-of-text token it stays, as in llama.cpp. Raises `HaloError`
        for an id that is no token.
        """
        detokenizer = Detokenizer(
            lambda token_id: self.token_bytes(token_id, special=not skip_special),
            strip_space=self._strip_space,
        )
        return "".join([*map(detokenizer.push, ids), detokenizer.flush()])

    def detokenizer(self, *, continues: bool = False) -> Detokenizer:
        """Decodes as `decode` does, token by token.

        `continues`: the tokens go on from others (a generation from its prompt), so that a space at
        the start of the first one belongs to the text.
        """
        return Detokenizer(self.token_bytes, strip_space=self._strip_space and not continues)

    def token_bytes(self, token_id: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; none for a control token unless `special`.

        Raises `HaloError` if there is no such token.
        """
        if not 0 <= token_id < self.vocab_size:
            raise HaloError(f"no token has the id {token_id}; this model has {self.vocab_size}")
        text, kind = self._vocabulary.texts[token_id], self._vocabulary.kinds[token_id]
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
            return text.encode() if special else b""
        if kind == TokenType.USER_DEFINED:
            return text.encode()
        if kind == TokenType.NORMAL:
            return self._encoder.token_bytes(text)
        value = byte_value(text) if kind == TokenType.BYTE else None
        return b"" if value is None else bytes([value])


def _longest_first(vocabulary: Vocabulary, kinds: set[TokenType]) -> list[tuple[str, int]]:
    tokens = [(vocabulary.texts[i], i) for i, kind in enumerate(vocabulary.kinds) if kind in kinds]
    return sorted(tokens, key=lambda token: len(token[0].encode()), reverse=True)


def _partition(text: str, tokens: Sequence[tuple[str, int]]) -> list[str | int]:
    """`text` cut at `tokens`: ids, and the texts between them, none of them empty.

    Not the leftmost token wins but the first of `tokens`, as in llama.cpp.
    """
    fragments: list[str | int] = [text] if text else []
    for token_text, token_id in tokens:
        if token_text not in text:
            continue
        cut: list[str | int] = []
        for fragment in fragments:
            if isinstance(fragment, int):
                cut.append(fragment)
                continue
            for i, part in enumerate(fragment.split(token_text)):
                if i:
                    cut.append(token_id)
                if part:
                    cut.append(part)
        fragments = cut
    return fragments
