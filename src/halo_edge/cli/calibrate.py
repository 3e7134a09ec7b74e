"""`halo calibrate`: a model's profile, without which nothing can be gone on without."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer import Argument, Option

from halo_edge import __version__
from halo_edge.calibrate.calibration import SEED, Calibration, Findings
from halo_edge.calibrate.checkpoint import Checkpoint
from halo_edge.calibrate.corpus import WINDOW, Sources
from halo_edge.calibrate.own_words import CONTEXT
from halo_edge.calibrate.work import Settings
from halo_edge.cli.compute import model_path
from halo_edge.cli.console import notes, print_json
from halo_edge.cli.options import Json
from halo_edge.engine.load import load
from halo_edge.groups.profile import Floats, Profile
from halo_edge.groups.profile_store import destination
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.model.pull import DEMO_MODEL

# A layer is called fragile if it is so many times as sensitive as the median one.
FRAGILE: Final = 3.0
_DEFAULTS: Final = Settings()


def calibrate(
    model: Annotated[
        str, Argument(help="'smollm2', 'hf:owner/repo/file.gguf', or a path.")
    ] = DEMO_MODEL,
    output: Annotated[
        Path | None,
        Option("--output", "-o", help="Default: in the cache, where `halo run` finds it."),
    ] = None,
    text: Annotated[
        list[Path] | None,
        Option(exists=True, dir_okay=False, help="Text like what the model will see. Repeatable."),
    ] = None,
    tokens: Annotated[int, Option(min=1024, help="Of text to calibrate on.")] = _DEFAULTS.tokens,
    group_size: Annotated[
        int, Option(min=32, max=1024, help="Neurons of a group.")
    ] = _DEFAULTS.group_size,
    rank: Annotated[int, Option(min=1, max=512, help="Of the sketch.")] = _DEFAULTS.rank,
    python: Annotated[
        bool, Option("--python/--no-python", help="Use the Python standard library as text.")
    ] = True,
    generated: Annotated[
        bool, Option("--generated/--no-generated", help="Use what the model itself says.")
    ] = True,
    threads: Annotated[int | None, Option(min=1, help="Default: all cores.")] = None,
    json: Json = False,
) -> None:
    """Find out what a model can do without: its neuron groups' importance, and what fills for them.

    Takes some minutes for a small model. Interrupted, it goes on where it was when started again in
    the same way.
    """
    begun = time.monotonic()
    path = model_path(model)
    gguf = GgufFile.open(path)
    name = fingerprint(gguf)
    context = min(max(CONTEXT, WINDOW), HyperParameters.from_gguf(gguf).context)
    settings = Settings(tokens, group_size, rank, Sources(python, generated, tuple(text or ())))
    target = output or destination(name)
    checkpoint = Checkpoint(target, _key(name, settings))
    loaded = load(path, threads=threads or os.cpu_count() or 1, context=context)
    about = {
        "corpora": ", ".join(settings.sources.names),
        "command": _command(settings),
        "date": time.strftime("%Y-%m-%d"),
        "version": __version__,
    }
    with _progress() as progress:
        profile, findings = Calibration(loaded, settings, checkpoint, progress).run(name, about)
    profile.save(target)
    checkpoint.delete()
    figures = _figures(profile, findings)
    if json:
        took_s = time.monotonic() - begun
        print_json({"path": str(target), "seconds": round(took_s, 1), **figures})
        return
    _print(profile, findings)
    print(target)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    columns = (
        TextColumn("{task.description:>17}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task("text", total=1.0)

        def update(stage: str, done: float) -> None:
            bar.update(task, description=stage, completed=done)

        yield update


def _key(name: str, settings: Settings) -> str:
    """What has to be the same for a calibration to be gone on with."""
    texts = [(str(path), path.stat().st_size) for path in settings.sources.files]
    return repr((SEED, __version__, name, settings, texts))


def _command(settings: Settings) -> str:
    """What makes the same profile again, without anybody's paths."""
    sources = settings.sources
    parts = [
        "halo calibrate",
        f"--tokens {settings.tokens}",
        f"--group-size {settings.group_size}",
        f"--rank {settings.rank}",
        *([] if sources.python else ["--no-python"]),
        *([] if sources.generated else ["--no-generated"]),
        *(f"--text {path.name}" for path in sources.files),
    ]
    return " ".join(parts)


def _figures(profile: Profile, findings: Findings) -> dict[str, object]:
    return {
        "about": dict(profile.about),
        "special_positions": {special.position: special.nats for special in profile.special},
        "spearman": findings.spearman,
        "repaired": findings.repaired,
        "factor": findings.factor,
        "damage": {"zero fill": asdict(findings.zero), "sketch fill": asdict(findings.sketch)},
        "layers": [
            {
                "sensitivity": layer.sensitivity,
                "first_quarter_energy": _first_quarter(layer.energy),
                "left_after_fill": float(layer.residual.sum() / layer.energy.sum()),
            }
            for layer in profile.layers
        ],
    }


def _first_quarter(energy: Floats) -> float:
    """The share of energy of the most important quarter of the groups."""
    return float(energy[: max(1, len(energy) // 4)].sum() / energy.sum())


def _print(profile: Profile, findings: Findings) -> None:
    """What was found, for people."""
    layers = profile.layers
    limit = FRAGILE * float(np.median([layer.sensitivity for layer in layers]))
    fragile = [i for i, layer in enumerate(layers) if layer.sensitivity > limit]
    quarter = float(np.mean([_first_quarter(layer.energy) for layer in layers]))
    lines = [
        "fragile layers: " + (", ".join(map(str, fragile)) or "none"),
        *(f"position {s.position} is special: {s.nats:.1f} nats" for s in profile.special),
        f"the first quarter of the neuron groups has {quarter * 100:.0f} % of the energy",
        "on text that was held out:",
        f"  predicted energies rank groups with Spearman {findings.spearman:.2f}",
        f"  the fill repairs {findings.repaired * 100:.0f} % of the damage of lost partials",
    ]
    for line in lines:
        notes.print(line, style="dim", markup=False, soft_wrap=True)
