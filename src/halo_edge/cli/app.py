"""The `halo` command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Annotated, Final, NoReturn

import typer

from halo_edge import __version__
from halo_edge.cli.grouped import grouped
from halo_edge.errors import HaloError

# Each in the module of this package that has a function of its name.
_COMMANDS: Final = MappingProxyType(
    {
        "run": "run",
        "chat": "chat",
        "serve": "serve",
        "pull": "models",
        "perplexity": "models",
        "calibrate": "calibrate",
        "tokenize": "models",
        "synth": "models",
        "worker": "workers",
        "devices": "workers",
        "plan": "plan",
    }
)
# Modules with an `app` of that name.
_GROUPS: Final = ("lab", "bench")


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """With the one command that `arguments` call, if they begin with one, else with all of them.

    What the others need is not imported: on a Raspberry Pi that takes seconds.
    """
    app = typer.Typer(
        name="halo",
        help="Run a language model on several small machines joined by a bad network.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    called = arguments[:1]
    if not called or called[0] not in (*_COMMANDS, *_GROUPS):
        called = (*_COMMANDS, *_GROUPS)
    for name in called:
        module = import_module(f"halo_edge.cli.{_COMMANDS.get(name, name)}")
        if name in _GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command()(grouped(getattr(module, name)))
    return app


def _version(wanted: bool) -> None:
    if wanted:
        print(f"halo-edge {__version__}")
        raise typer.Exit


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
        app_for(sys.argv[1:])()
    except HaloError as error:
        from halo_edge.cli.console import notes

        notes.print(f"halo: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # e.g. `halo run ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
