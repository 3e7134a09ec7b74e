"""How tokens are chosen: the options of the commands that generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from typer import Option

from halo_edge.engine.sampling import SamplingParams

_SAMPLING: Final = "Sampling"
_DEFAULTS: Final = SamplingParams()


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How tokens are chosen."""

    temperature: Annotated[
        float, Option(rich_help_panel=_SAMPLING, help="0 always takes the likeliest token.")
    ] = _DEFAULTS.temperature
    top_k: Annotated[int, Option(rich_help_panel=_SAMPLING, help="0: off.")] = _DEFAULTS.top_k
    top_p: Annotated[float, Option(rich_help_panel=_SAMPLING, help="1: off.")] = _DEFAULTS.top_p
    min_p: Annotated[float, Option(rich_help_panel=_SAMPLING, help="0: off.")] = _DEFAULTS.min_p
    repetition_penalty: Annotated[
        float, Option(rich_help_panel=_SAMPLING, help="Over the last 64 tokens; 1: off.")
    ] = _DEFAULTS.repetition_penalty
    seed: Annotated[
        int | None, Option(rich_help_panel=_SAMPLING, help="Default: another each time.")
    ] = None
    max_tokens: Annotated[
        int | None,
        Option(
            "--max-tokens", "-n", rich_help_panel=_SAMPLING, help="Default: no limit but --ctx."
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        Option(rich_help_panel=_SAMPLING, help="End the answer before this text. Repeatable."),
    ] = None
    logprobs: Annotated[
        int | None,
        Option(
            rich_help_panel=_SAMPLING,
            help="With --json: log-probabilities of the chosen and of so many likeliest tokens.",
        ),
    ] = None

    def params(self) -> SamplingParams:
        """Raises `HaloError` for values out of range."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop=tuple(self.stop or ()),
            logprobs=self.logprobs,
        )
