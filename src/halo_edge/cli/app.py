"""The `halo` command."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from halo_edge import __version__
from halo_edge.cli import bench, calibrate, chat, lab, models, plan, run, serve, workers
from halo_edge.cli.console import notes
from halo_edge.cli.grouped import grouped
from halo_edge.errors import HaloError

app = typer.Typer(
    name="halo",
    help="Run a language model on several small machines joined by a bad network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.run,
    chat.chat,
    serve.serve,
    models.pull,
    models.perplexity,
    calibrate.calibrate,
    models.tokenize,
    models.synth,
    workers.worker,
    workers.devices,
    plan.plan,
):
    app.command()(grouped(command))
app.add_typer(lab.app, name="lab")
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"halo-edge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _terminate(*_: object) -> NoReturn:
    """Leave as after Ctrl-C, so that workers and temporary files go too."""
    sys.exit(128 + signal.SIGTERM)


def main() -> None:
    """Exit status: 0 done, 1 failed (one line on standard error says why), 2 wrong usage."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except HaloError as error:
        notes.print(f"halo: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # e.g. `halo run ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
