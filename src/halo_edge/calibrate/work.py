"""How much a calibration has to do, as its settings say, and how much of that is done.

It counts tokens through the model; what they are for is `calibration.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from halo_edge.calibrate.corpus import Sources

FIRST_PASS_SHARE: Final = 0.25
"""Of the text: importance and directions need less of it than regressions do."""
SWEEP_TOKENS: Final = 640
"""Of held-out text, in windows."""
SPECIAL_LAYERS: Final = 4
"""Those most out of the ordinary are tried, of each special position."""


@dataclass(frozen=True)
class Settings:
    """What the user may choose."""

    tokens: int = 20_480
    group_size: int = 64
    rank: int = 64
    sources: Sources = field(default_factory=Sources)


class Work:
    """How much of all the work is done, in tokens through the model, roughly."""

    # What a token of each stage takes, in passes without logits on the demo model.
    COSTS: Final = {
        "text": 0.8,  # half of it is read, the other half generated
        "first pass": 1.1,
        "second pass": 1.0,
        "held-out text": 1.3,
        "sweep": 0.9,
        "check": 1.1,
    }

    def __init__(self, settings: Settings, n_layers: int, tell: Callable[[str, float], None]):
        learned = settings.tokens * 7 / 8
        tokens = {
            "text": settings.tokens,
            "first pass": learned * FIRST_PASS_SHARE,
            "second pass": learned,
            "held-out text": settings.tokens / 8,
            "sweep": (n_layers + SPECIAL_LAYERS) * SWEEP_TOKENS,
            "check": 2 * SWEEP_TOKENS,
        }
        whole = sum(self.COSTS[stage] * n for stage, n in tokens.items())
        self._shares = {stage: self.COSTS[stage] * n / whole for stage, n in tokens.items()}
        self._tokens = tokens
        self._tell = tell

    def stage(self, name: str) -> Callable[[int], None]:
        """Told the tokens that were done, of a stage that begins now."""
        before, done = sum(list(self._shares.values())[: list(self._shares).index(name)]), 0

        def progress(tokens: int) -> None:
            nonlocal done
            done += tokens
            part = min(1.0, done / self._tokens[name])
            self._tell(name, min(1.0, before + self._shares[name] * part))

        progress(0)
        return progress

    def end(self) -> None:
        """All is done, whatever it was thought to take."""
        self._tell("done", 1.0)
