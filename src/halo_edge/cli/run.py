"""`halo run`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from halo_edge.cli.compute import compute_session
from halo_edge.cli.compute_options import ComputeOptions
from halo_edge.cli.console import notes, print_json, print_piece
from halo_edge.cli.generate import System, generator_of, stream
from halo_edge.cli.options import Context, Json
from halo_edge.cli.prompt import chat_tokens, prompt_tokens, text_argument
from halo_edge.cli.report import Marks, TrafficMark, figures, summary
from halo_edge.cli.sampling_options import SamplingOptions
from halo_edge.cli.stats import stats_of
from halo_edge.model.chat_template import Message


def run(
    *,
    prompt: Annotated[str, Argument(help="The prompt, or - for standard input.")],
    raw: Annotated[bool, Option("--raw", help="No chat template: go on with the text.")] = False,
    system: System = None,
    json: Json = False,
    stats: Annotated[
        bool,
        Option("--stats", help="Print what the rounds needed, by device and layer, afterwards."),
    ] = False,
    ctx: Context = None,
    sampling: SamplingOptions,
    options: ComputeOptions,
) -> None:
    """Generate text from a prompt, by default on four devices: processes on this machine."""
    text, params = text_argument(prompt), sampling.params()
    with compute_session(options, ctx) as session:
        if raw or session.model.template is None:
            tokens = prompt_tokens(session.model, text)
        else:
            tokens = chat_tokens(session.model, system, [Message("user", text)])
        generator, marks = generator_of(session), Marks(TrafficMark.now(session))
        generation = generator.start(tokens, params)
        stream(session, generator, generation, marks, (lambda _: None) if json else print_piece)
        fields = figures(session, generation, marks)
        spent = stats_of(session.cluster, marks.spent) if stats else []
        if not json:
            print(flush=True)
    if json:
        print_json(fields)
    else:
        notes.print(summary(fields), style="dim", soft_wrap=True)
    for part in spent:
        notes.print(part, soft_wrap=isinstance(part, str))
