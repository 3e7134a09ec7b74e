"""How far the rounds may be relaxed: from the command line to `RelaxOptions`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final

from typer import Option

from halo_edge.cluster.relaxation import BALANCED, LEVELS, STRICT, RelaxOptions
from halo_edge.errors import HaloError
from halo_edge.groups.surrogate import Fill

_RELAXING: Final = "Relaxing"


@dataclass(frozen=True, kw_only=True)
class RelaxingOptions:
    """What may be late or lost, and what stands in its place."""

    kl_budget: Annotated[
        str | None,
        Option(
            "--kl-budget",
            rich_help_panel=_RELAXING,
            metavar="NATS",
            help="KL divergence that a token may cost by going on without what is late or lost, "
            "in nats; or strict (0), balanced (0.005) or fast (0.02). Default: balanced where "
            "there is a profile, else strict.",
        ),
    ] = None
    fill: Annotated[
        Fill,
        Option("--fill", rich_help_panel=_RELAXING, help="What is put in the place of the rest."),
    ] = Fill.SKETCH
    no_learning: Annotated[
        bool,
        Option(
            "--no-learning",
            rich_help_panel=_RELAXING,
            help="Do not improve the fill by what does arrive.",
        ),
    ] = False

    def relax_options(self, has_profile: bool) -> RelaxOptions:
        """Raises `HaloError` for a budget that is none, or that nobody could keep."""
        budget = BALANCED if has_profile else STRICT
        if self.kl_budget is not None:
            budget = parse_budget(self.kl_budget)
        if budget > 0 and not has_profile:
            raise HaloError(
                "--kl-budget takes a profile, which says what going on would cost; make one with "
                "`halo calibrate`"
            )
        return RelaxOptions(kl_budget=budget, fill=self.fill, learning=not self.no_learning)


def parse_budget(text: str) -> float:
    """Nats a token, by number or by name. Raises `HaloError`."""
    if text in LEVELS:
        return LEVELS[text]
    try:
        nats = float(text)
    except ValueError:
        nats = math.nan
    if not 0 <= nats < math.inf:
        raise HaloError(f"--kl-budget is a number of nats, or {', '.join(LEVELS)}; not {text!r}")
    return nats
