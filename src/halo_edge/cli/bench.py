"""`halo bench`: the experiments behind the figures in docs/."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from rich.markup import escape
from typer import Option, Typer

from halo_edge.bench.ablation import ablation
from halo_edge.bench.experiment import Settings, measure, sized
from halo_edge.bench.experiments import EXPERIMENTS, LAB_EXPERIMENTS, AnyExperiment
from halo_edge.bench.off_domain import off_domain
from halo_edge.bench.overhead import overhead
from halo_edge.bench.plot import to_svg
from halo_edge.bench.predictor import predictor
from halo_edge.bench.profiles import lent_profile, own_profile
from halo_edge.bench.quality import quality
from halo_edge.bench.relaxed import relaxed
from halo_edge.bench.report import render, write_plots
from halo_edge.bench.result import Document, document, rows_of, to_json
from halo_edge.bench.unreliable import unreliable
from halo_edge.cli.compute import model_path
from halo_edge.cli.console import byte_progress, notes, print_json
from halo_edge.cli.grouped import grouped
from halo_edge.cli.options import Json, Model
from halo_edge.compute.wire import Wire
from halo_edge.errors import HaloError
from halo_edge.lab.lab import check_possible
from halo_edge.model.cache import user_cache
from halo_edge.model.synth import write_synthetic

PAGE: Final = Path("docs/RESULTS.md")
RESULTS: Final = Path("docs/results")
Text = Annotated[
    Path,
    Option("--text", exists=True, dir_okay=False, help="A text file, scored 512 tokens a time."),
]

Profile = Annotated[
    Path,
    Option(
        "--profile",
        exists=True,
        dir_okay=False,
        help="A profile made without source code, for off-domain.",
    ),
]

app = Typer(help="Measure. Every figure in docs/ comes from one of these.", no_args_is_help=True)


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How much is measured, and what becomes of it."""

    quick: Annotated[bool, Option("--quick", help="Fewer cases, repetitions and tokens.")] = False
    repetitions: Annotated[int | None, Option("--repetitions", "-r", min=1)] = None
    tokens: Annotated[
        int | None, Option("--tokens", "-n", min=1, help="Tokens of each measurement.")
    ] = None
    model: Model = None
    json: Json = False
    out: Annotated[
        Path | None, Option("--out", help="Write JSON (and a plot) into this directory, too.")
    ] = None


def _overhead(
    *, wire: Annotated[Wire, Option("--wire")] = Wire.MIXED, options: BenchOptions
) -> None:
    """Four processes on one core against one: what the rounds cost, and where it goes."""
    _run(overhead(wire), options)


def _quality(*, text: Text, profile: Profile | None = None, options: BenchOptions) -> None:
    """What splitting, losing packets and going on without them do to what a model says.

    First with `--impair`; then, where a lab is possible, as `relaxed`, and with --profile as
    `off-domain`.
    """
    _run_all([quality(text)], [relaxed(text)], profile, options)


def _relaxed(*, text: Text, options: BenchOptions) -> None:
    """Perplexity and KL under losses, bursts and outages, strict or on a budget (Linux, root)."""
    _run(relaxed(text), options)


def _unreliable(*, text: Text, options: BenchOptions) -> None:
    """One of four devices loses 15 %: what the scheduler makes of it, in time and quality (Linux,
    root)."""
    _run(unreliable(text), options)


def _off_domain(*, profile: Profile, options: BenchOptions) -> None:
    """What fills repair on source code, with a profile made without any (Linux, root)."""
    _run(off_domain(profile), options)


def _ablation(*, text: Text, options: BenchOptions) -> None:
    """What each part brings at 10 % loss (Linux, root)."""
    _run(ablation(text), options)


def _predictor(*, text: Text | None = None, options: BenchOptions) -> None:
    """How well the energies of neuron groups are known before they are computed."""
    _run(predictor(text), options)


def _all(
    *, text: Text | None = None, profile: Profile | None = None, options: BenchOptions
) -> None:
    """Every experiment: those of the lab where it is possible, those on text where --text is given,
    off-domain where --profile is."""
    on_text: list[AnyExperiment] = [] if text is None else [quality(text)]
    on_text_in_lab: list[AnyExperiment] = []
    if text is not None:
        on_text_in_lab = [relaxed(text), unreliable(text), ablation(text)]
    _run_all(
        [overhead(), *EXPERIMENTS, *on_text], [*LAB_EXPERIMENTS, *on_text_in_lab], profile, options
    )


def _report(
    *,
    page: Annotated[Path, Option("--page", help="The page with the blocks to replace.")] = PAGE,
    results: Annotated[Path, Option("--results", help="Where `--out` wrote to.")] = RESULTS,
) -> None:
    """Make the tables and plots of docs/RESULTS.md anew, from the results in docs/results."""
    try:
        text = page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise HaloError(f"cannot read {page}: {error}") from None
    write_plots(results)
    page.write_text(render(text, results, results.name))
    notes.print(f"{page} is made of {results}")


def _command(experiment: AnyExperiment) -> Callable[..., None]:
    """Of one without options of its own."""

    def run(*, options: BenchOptions) -> None:
        _run(experiment, options)

    run.__doc__ = experiment.about
    return run


_COMMANDS: Final[Sequence[tuple[str, Callable[..., None]]]] = (
    ("overhead", _overhead),
    ("quality", _quality),
    ("relaxed", _relaxed),
    ("unreliable", _unreliable),
    ("off-domain", _off_domain),
    ("ablation", _ablation),
    ("predictor", _predictor),
    *((each.name, _command(each)) for each in (*EXPERIMENTS, *LAB_EXPERIMENTS)),
    ("all", _all),
    ("report", _report),
)
for _name, _of in _COMMANDS:
    app.command(_name)(grouped(_of))


def _run_all(
    anywhere: Sequence[AnyExperiment],
    in_lab: Sequence[AnyExperiment],
    profile: Path | None,
    options: BenchOptions,
) -> None:
    """Those of the lab, and off-domain with `profile`, as far as they are possible."""
    experiments = list(anywhere)
    if profile is None:
        notes.print("without off-domain: it takes --profile FILE", style="yellow", soft_wrap=True)
    else:
        in_lab = [*in_lab, off_domain(profile)]
    try:
        check_possible()
        experiments += in_lab
    except HaloError as error:
        names = ", ".join(experiment.name for experiment in in_lab)
        notes.print(f"without {names}: {error}", style="yellow", soft_wrap=True)
    for experiment in experiments:
        _run(experiment, options)


def _run(experiment: AnyExperiment, options: BenchOptions) -> None:
    if experiment.in_lab:
        check_possible()
    usual = experiment.quick if options.quick else experiment.full
    size = sized(usual, options.repetitions, options.tokens)
    model = _model(experiment, options.model)
    with tempfile.TemporaryDirectory(prefix="halo-bench-") as directory:
        profile = own_profile(model) if experiment.uses_profile else None
        if profile is not None:
            _note(f"{model.name} has a profile of its own, which is used: {profile}")
        elif experiment.uses_profile and experiment.model is not None:
            lender = model_path(None)
            profile = lent_profile(model, lender, Path(directory))
            if profile is not None:
                _note(f"{model.name} has no profile; it is lent the damages of {lender.name}")
        _measure(experiment, Settings(model, size, options.quick, profile), options)


def _measure(experiment: AnyExperiment, settings: Settings, options: BenchOptions) -> None:
    measured = measure(experiment, settings, _note)
    result = document(experiment, settings, measured)
    if options.out is not None:
        _write(experiment, result, options.out)
    if options.json:
        print_json(msgspec.to_builtins(result))
    else:
        print(f"\n{experiment.table(measured.rows)}\n", flush=True)
    for warning in measured.warnings:
        notes.print(f"warning: {escape(warning)}", style="yellow", soft_wrap=True)


def _note(line: str) -> None:
    notes.print(escape(line), style="dim", soft_wrap=True)


def _model(experiment: AnyExperiment, model: str | None) -> Path:
    if model is not None or experiment.model is None:
        return model_path(model)
    path = user_cache() / "models" / f"synth-{experiment.model}-q4_0.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with byte_progress(f"writing {path.name}") as progress:
            write_synthetic(experiment.model, path, progress=progress)
    return path


def _write(experiment: AnyExperiment, result: Document, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{experiment.name}.json"
        path.write_text(to_json(result))
        if experiment.plot is not None:
            figure = experiment.plot(rows_of(result, experiment))
            path.with_suffix(".svg").write_text(to_svg(figure))
    except OSError as error:
        raise HaloError(f"cannot write to {directory}: {error.strerror}") from None
