"""Byte-level byte-pair encoding (`tokenizer.ggml.model` = gpt2), as llama.cpp does it.

Text is cut into words by the pre-tokenizer's patterns, each word's UTF-8 bytes are spelled in
GPT-2's alphabet, and adjacent symbols are merged in the order of the merge list. The merging is
`tokenizers`' own; the patterns are llama.cpp's (`llm_tokenizer_bpe` and `unicode_regex_split`),
written for one regular-expression engine. Special tokens are cut out before text gets here.

`\\p{L}` and its like follow the engine's Unicode 16; llama.cpp's tables end with Unicode 15, so
words of scripts added since may be cut differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import tokenizers
from tokenizers import models, pre_tokenizers

from halo_edge.errors import HaloError
from halo_edge.model.vocabulary import damaged

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3: Final = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How words are cut: each pattern in turn cuts what the ones before it left.

    `ignore_merges`: a word that is itself a token is taken whole. `add_bos` holds where the file
    does not say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_LLAMA_BPE: Final = PreTokenizer((_LLAMA3 % "1,3",), ignore_merges=True, add_bos=True)
_QWEN2: Final = PreTokenizer((_LLAMA3 % "1",))
_PRE_TOKENIZERS: Final = {
    "default": PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "smollm": PreTokenizer((r"\p{N}", _GPT2)),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA_BPE,
    "llama3": _LLAMA_BPE,
    "llama-v3": _LLAMA_BPE,
}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer that a GGUF calls `name`. Raises `HaloError` if it is not supported."""
    try:
        return _PRE_TOKENIZERS[name]
    except KeyError:
        raise HaloError(
            f"unsupported pre-tokenizer {name[:40]!r}; supported are {', '.join(_PRE_TOKENIZERS)}"
        ) from None


class ByteLevelBpe:
    """Encodes text that holds no special tokens, and spells tokens as bytes."""

    def __init__(self, ids: Mapping[str, int], merges: Sequence[str], pre: PreTokenizer) -> None:
        """`merges` are "left right" in order of rank. Raises `HaloError` where one is unusable."""
        # A merge listed twice has its first rank in llama.cpp, its last in `tokenizers`.
        pairs = [tuple(merge.split(" ")) for merge in dict.fromkeys(merges)]
        if not set(map(len, pairs)) <= {2} or not all(map(all, pairs)):
            raise damaged("merges", "has a line that is not two tokens")
        try:
            model = models.BPE(dict(ids), pairs, ignore_merges=pre.ignore_merges)  # type: ignore[arg-type]
        except Exception:  # the library has no narrower type: a merge of or into no token
            raise damaged("merges", "names a token that does not exist") from None
        self._tokenizer = tokenizers.Tokenizer(model)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for p in pre.patterns]
            + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        self._bytes = _byte_alphabet()

    def encode(self, text: str, *, after_special: bool) -> list[int]:
        """Token ids of `text`. Bytes the vocabulary lacks are left out, as llama.cpp does."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def token_bytes(self, text: str) -> bytes:
        """The bytes that a normal token's `text` spells."""
        try:
            return bytes(self._bytes[character] for character in text)
        except KeyError:  # not of the alphabet: a token the converter added as plain text
            return text.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}
