"""All experiments, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from halo_edge.bench.ablation import ablation
from halo_edge.bench.burst import BURSTS
from halo_edge.bench.experiment import Experiment
from halo_edge.bench.loading import LOADING
from halo_edge.bench.loss import LOSS
from halo_edge.bench.off_domain import off_domain
from halo_edge.bench.outage import OUTAGE
from halo_edge.bench.overhead import overhead
from halo_edge.bench.predictor import predictor
from halo_edge.bench.prefill import PREFILL
from halo_edge.bench.quality import quality
from halo_edge.bench.relaxed import relaxed
from halo_edge.bench.replanning import REPLANNING
from halo_edge.bench.scale import SCALE
from halo_edge.bench.scaling import SCALING
from halo_edge.bench.start import START
from halo_edge.bench.unequal import UNEQUAL
from halo_edge.bench.unreliable import unreliable
from halo_edge.bench.validation import VALIDATION

AnyExperiment = Experiment[Any, Any, Any]
# Those without options of their own.
EXPERIMENTS: Final = (PREFILL, SCALE)
LAB_EXPERIMENTS: Final = (
    LOSS,
    BURSTS,
    OUTAGE,
    SCALING,
    UNEQUAL,
    REPLANNING,
    LOADING,
    START,
    VALIDATION,
)


def usual_experiments() -> Mapping[str, AnyExperiment]:
    """With the options that they have when nothing else is said."""
    text = Path("text")
    every: tuple[AnyExperiment, ...] = (
        overhead(),
        *EXPERIMENTS,
        *LAB_EXPERIMENTS,
        quality(text),
        relaxed(text),
        unreliable(text),
        ablation(text),
        off_domain(Path("profile")),
        predictor(text),
    )
    return {experiment.name: experiment for experiment in every}
