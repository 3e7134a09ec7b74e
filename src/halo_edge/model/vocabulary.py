"""The vocabulary inside a GGUF: token texts, what kind each is, and the ids that mean something.

Reads and checks the `tokenizer.ggml.*` metadata, all of it distrusted. Which tokens are control
tokens and which end a generation follows llama.cpp (`llama_vocab::impl::load`), which goes by the
tokens' texts because many files mark them wrongly. How text becomes tokens is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.errors import HaloError

BYTE_LEVEL: Final = "gpt2"
SENTENCE_PIECE: Final = "llama"

_PREFIX: Final = "tokenizer.ggml."

# Tokens that end a generation wherever they occur, by their text.
_END_OF_GENERATION: Final = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[",
)  # fmt: skip

# Fill-in-the-middle tokens: the metadata key of each, and its texts where the key is missing.
_FILL_IN_MIDDLE: Final = {
    "fim_pre_token_id": (
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim\u2581begin\uff5c>", "<PRE>",
        "\u2581<PRE>", "<|code_prefix|>", "<|prefix|>",
    ),
    "fim_suf_token_id": (
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim\u2581hole\uff5c>", "<SUF>",
        "\u2581<SUF>", "<|code_suffix|>", "<|suffix|>",
    ),
    "fim_mid_token_id": (
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim\u2581end\uff5c>", "<MID>",
        "\u2581<MID>", "<|code_middle|>", "<|middle|>",
    ),
    "fim_pad_token_id": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep_token_id": (
        "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>",
    ),
    "fim_sep_token_id": ("<|file_sep|>",),
}  # fmt: skip
_OLD_NAMES: Final = {
    "fim_pre_token_id": "prefix_token_id",
    "fim_suf_token_id": "suffix_token_id",
    "fim_mid_token_id": "middle_token_id",
}
_ENDS_GENERATION_TOO: Final = ("fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")


class TokenType(IntEnum):
    """GGUF's kinds of tokens; `gguf`'s own, which takes longer to import than a vocabulary to
    read."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Token `i` has the text `texts[i]` (as stored, not what it stands for) and kind `kinds[i]`.

    `kinds` holds `TokenType` values. `ids` is the inverse of `texts`.
    """

    texts: Sequence[str]
    ids: Mapping[str, int]
    kinds: Sequence[int]
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    eog_ids: frozenset[int]

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Vocabulary:
        """Raises `HaloError` if the vocabulary is missing or damaged."""
        texts = need_strings(metadata, "tokens")
        # An empty text would match everywhere; llama.cpp gives these the same names.
        texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(texts)]
        ids = {text: i for i, text in enumerate(texts)}
        if not texts or len(ids) != len(texts):
            raise damaged("tokens", "is empty or lists a token twice")
        kinds = _kinds(metadata, texts)
        is_spm = need_string(metadata, "model") == SENTENCE_PIECE
        named = {
            key: special_id(metadata, key, len(texts))
            for key in ("bos_token_id", "eos_token_id", "unknown_token_id", "eot_token_id",
                        "eom_token_id", *_FILL_IN_MIDDLE, *_OLD_NAMES.values())
        }  # fmt: skip
        if is_spm:  # SentencePiece's own order, which files may leave out
            for key, default in (("unknown_token_id", 0), ("bos_token_id", 1), ("eos_token_id", 2)):
                if named[key] is None and default < len(texts):
                    named[key] = default

        by_text = {ids[text] for text in _END_OF_GENERATION if text in ids}
        eog_ids = by_text | {
            token for key in ("eos_token_id", "eot_token_id", "eom_token_id")
            if (token := named[key]) is not None
        }  # fmt: skip
        control = set(by_text)
        for key, names in _FILL_IN_MIDDLE.items():
            token = named[key]
            if token is None and key in _OLD_NAMES:
                token = named[_OLD_NAMES[key]]
            if token is None:
                token = next((ids[name] for name in names if name in ids), None)
                control |= {token} if token is not None else set()
            if token is not None and key in _ENDS_GENERATION_TOO:
                eog_ids.add(token)
        for token in control:
            kinds[token] = TokenType.CONTROL
        return cls(
            texts,
            ids,
            kinds,
            named["bos_token_id"],
            named["eos_token_id"],
            named["unknown_token_id"],
            frozenset(eog_ids),
        )


def _kinds(metadata: Mapping[str, object], texts: Sequence[str]) -> list[int]:
    """The kind of each token; all normal where the file does not say, as llama.cpp has it."""
    if _PREFIX + "token_type" not in metadata:
        return [int(TokenType.NORMAL)] * len(texts)
    kinds = numbers(metadata, "token_type", len(texts), kinds="iu")
    byte_tokens = np.flatnonzero(kinds == TokenType.BYTE)
    if any(byte_value(texts[i]) is None for i in byte_tokens.tolist()):
        raise damaged("tokens", "has a byte token that is not of the form <0x00>")
    found: list[int] = kinds.tolist()
    return found


def byte_value(text: str) -> int | None:
    """The byte that a byte token's text `<0xNN>` stands for; `None` if it is of another form."""
    if len(text) != 6 or not (text.startswith("<0x") and text.endswith(">")):
        return None
    try:
        return bytes.fromhex(text[3:5])[0]
    except (ValueError, IndexError):
        return None


def need_string(metadata: Mapping[str, object], name: str) -> str:
    """The text under `tokenizer.ggml.<name>`. Raises `HaloError` if missing or of another type."""
    value = _need(metadata, name)
    if not isinstance(value, str):
        raise damaged(name, "is not a text")
    return value


def need_strings(metadata: Mapping[str, object], name: str) -> list[str]:
    """The texts under `tokenizer.ggml.<name>`. Raises `HaloError` if missing or otherwise typed."""
    value = _need(metadata, name)
    if not isinstance(value, list) or not set(map(type, value)) <= {str}:
        raise damaged(name, "is not a list of texts")
    return value


def numbers(
    metadata: Mapping[str, object], name: str, count: int, *, kinds: Collection[str]
) -> NDArray[np.generic]:
    """The first `count` numbers under `tokenizer.ggml.<name>`, of numpy's `kinds` of dtype.

    Raises `HaloError` if they are missing, fewer or of another type.
    """
    value = _need(metadata, name)
    if not isinstance(value, list | np.ndarray):
        raise damaged(name, "is not a list of numbers")
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        raise damaged(name, "is not a list of numbers") from None
    if array.ndim != 1 or array.dtype.kind not in kinds:
        raise damaged(name, "is not a list of numbers")
    if len(array) < count:
        raise damaged(name, f"has {len(array)} entries for {count} tokens")
    return array[:count]


def flag(metadata: Mapping[str, object], name: str, default: bool) -> bool:
    """The truth value under `tokenizer.ggml.<name>`. Raises `HaloError` if of another type."""
    value = metadata.get(_PREFIX + name, default)
    if not isinstance(value, bool):
        raise damaged(name, "is neither true nor false")
    return value


def special_id(metadata: Mapping[str, object], name: str, n_tokens: int) -> int | None:
    """The token id under `tokenizer.ggml.<name>`, if any. Raises `HaloError` if out of range."""
    value = metadata.get(_PREFIX + name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < n_tokens:
        raise damaged(name, f"is {str(value)[:20]!r}, not one of the {n_tokens} tokens")
    return value


def damaged(name: str, what: str) -> HaloError:
    """The error for metadata `tokenizer.ggml.<name>` that is not what it must be."""
    return HaloError(f"unusable vocabulary: {_PREFIX}{name} {what}; fetch the model file again")


def _need(metadata: Mapping[str, object], name: str) -> object:
    try:
        return metadata[_PREFIX + name]
    except KeyError:
        raise damaged(name, "is missing") from None
