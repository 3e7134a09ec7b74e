"""Cut a stream of text at the first stop string, showing nothing that might belong to one.

Pieces of text come from the detokenizer, split anywhere. The stop string that is complete first
ends the text, where it begins; of two that end at the same character, the longer one. (So the
result does not depend on where the pieces are split, and no token is generated merely to see
whether a longer stop string would have followed.)

It knows nothing of tokens, sequences, or why else a generation may end.
"""

from __future__ import annotations

from collections.abc import Sequence


class TextStream:
    """Text in, text that is safe to show out.

    `stop`: non-empty strings. Holds at most one character less than the longest of them.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; from then on nothing more is given out."""
        return self._stopped

    def push(self, piece: str) -> str:
        """Take the next piece; give what can be shown now, which may be nothing."""
        if self._stopped:
            return ""
        text = self._held + piece
        self._held = ""

        matches = [(start + len(s), start) for s in self._stop if (start := text.find(s)) >= 0]
        if matches:
            self._stopped = True
            _, cut = min(matches)
            return text[:cut]

        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            tail = text[start:]
            if any(s.startswith(tail) for s in self._stop):
                self._held = tail
                return text[:start]
        return text

    def flush(self) -> str:
        """Give what was held back: the text has ended, no stop string will be completed."""
        rest, self._held = self._held, ""
        return rest
