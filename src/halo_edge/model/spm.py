"""SentencePiece-style encoding (`tokenizer.ggml.model` = llama), as llama.cpp does it.

Of all neighbouring symbols whose concatenation is a token, the pair with the highest score is
merged, of equal ones the leftmost, until none is left; what is then no token is spelled in byte
tokens. `tokenizers`' BPE cannot do this exactly: it ranks pairs, not scores (which may be equal),
and knows no symbol outside the vocabulary that may yet merge into it. Source: llama.cpp,
`llm_tokenizer_spm_session`. Special tokens are cut out before text gets here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

_SPACE: Final = "\u2581"  # how SentencePiece writes a space


class SentencePiece:
    """Encodes text that holds no special tokens, and spells tokens as bytes."""

    def __init__(
        self,
        ids: Mapping[str, int],
        scores: Sequence[float],
        *,
        unknown_id: int,
        add_space_prefix: bool,
    ) -> None:
        """`scores[i]` is token i's. Bytes without a byte token become `unknown_id`."""
        self._ids = ids
        self._scores = scores
        self._byte_ids = [ids.get(f"<0x{byte:02X}>", unknown_id) for byte in range(256)]
        self._add_space_prefix = add_space_prefix

    def encode(self, text: str, *, after_special: bool) -> list[int]:
        """Token ids of `text`; `after_special`: it begins the prompt or follows a special token."""
        if self._add_space_prefix and after_special:
            text = " " + text
        ids: list[int] = []
        for symbol in self._merge(text.replace(" ", _SPACE)):
            token = self._ids.get(symbol)
            if token is None:
                ids.extend(self._byte_ids[byte] for byte in symbol.encode())
            else:
                ids.append(token)
        return ids

    def _merge(self, text: str) -> list[str]:
        ids, scores = self._ids, self._scores
        symbols = list(text)  # a symbol merged into its left neighbour becomes ""
        before = list(range(-1, len(symbols) - 1))
        after = list(range(1, len(symbols) + 1))
        end = len(symbols)
        # (-score, left, right, length): what heapq pops first is what llama.cpp's queue does.
        queue: list[tuple[float, int, int, int]] = []
        for left in range(end - 1):
            token = ids.get(symbols[left] + symbols[left + 1])
            if token is not None:
                queue.append((-scores[token], left, left + 1, 2))
        heapify(queue)
        while queue:
            _, left, right, length = heappop(queue)
            if not symbols[left] or not symbols[right]:
                continue  # one of the two is merged already
            joined = symbols[left] + symbols[right]
            if len(joined) != length:
                continue  # one of the two has grown since
            symbols[left], symbols[right] = joined, ""
            after[left] = after[right]
            if after[right] < end:
                before[after[right]] = left
            for first, second in ((before[left], left), (left, after[left])):
                if first >= 0 and second < end:
                    pair = symbols[first] + symbols[second]
                    token = ids.get(pair)
                    if token is not None:
                        heappush(queue, (-scores[token], first, second, len(pair)))
        return [symbol for symbol in symbols if symbol]

    def token_bytes(self, text: str) -> bytes:
        """The bytes that a normal token's `text` spells."""
        return text.replace(_SPACE, " ").encode()
