"""From tokens to text, one token at a time.

A token may end in the middle of a character; its bytes are held back until the rest comes. What
bytes a token stands for is the tokenizer's business.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable


class Detokenizer:
    """Text of one sequence of tokens. Bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, token_bytes: Callable[[int], bytes], *, strip_space: bool) -> None:
        """`strip_space`: one space at the start of the first token is not part of the text."""
        self._token_bytes = token_bytes
        self._strip_space = strip_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes, maybe none. Raises `HaloError` for no such token."""
        piece = self._token_bytes(token_id)
        if self._strip_space:
            piece = piece.removeprefix(b" ")
            self._strip_space = False
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What is still held back: U+FFFD if the sequence ended inside a character."""
        return self._decoder.decode(b"", final=True)
