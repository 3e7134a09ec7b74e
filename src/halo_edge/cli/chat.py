"""`halo chat`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

from halo_edge.cli.chat_commands import COMMANDS, EXITS, obey
from halo_edge.cli.chat_input import PipedInput, TerminalInput
from halo_edge.cli.chat_screen import PlainScreen, TerminalScreen
from halo_edge.cli.compute import compute_session
from halo_edge.cli.compute_options import ComputeOptions
from halo_edge.cli.console import notes
from halo_edge.cli.generate import System
from halo_edge.cli.options import Context
from halo_edge.cli.sampling_options import SamplingOptions
from halo_edge.cli.talk import Talk
from halo_edge.errors import HaloError


def chat(
    *,
    system: System = None,
    ctx: Context = None,
    sampling: SamplingOptions,
    options: ComputeOptions,
) -> None:
    """Talk with the model. /help lists the commands; Ctrl-C stops an answer; Ctrl-D ends."""
    params = sampling.params()
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    on_terminal = on_terminal and os.environ.get("TERM", "dumb") != "dumb"
    screen = TerminalScreen() if on_terminal else PlainScreen()
    with ExitStack() as stack:
        session = stack.enter_context(compute_session(options, ctx, tell=screen.note))
        if session.model.template is None:
            raise HaloError("this model has no chat template; use `halo run --raw`")
        talk = Talk(session, params, system, screen)
        if session.cluster is not None:
            has_profile = session.cluster.packing.profile is not None
            talk.relax = options.relax_options(has_profile)
        if on_terminal:
            lines: TerminalInput | PipedInput = TerminalInput((*COMMANDS, EXITS[0]), talk.devices)
        else:
            lines = PipedInput(sys.stdin.buffer)
        notes.print("/help lists the commands, /exit ends", style="dim")
        while (text := lines.read()) is not None:
            if not text.startswith("/"):
                talk.ask(text)
            elif not obey(talk, text):
                return
