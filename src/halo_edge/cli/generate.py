"""`halo run` and `halo chat`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from halo_edge.cli.compute import compute_session
from halo_edge.cli.console import notes, print_json, print_piece
from halo_edge.cli.options import ComputeOptions, Context, Json, SamplingOptions
from halo_edge.cli.prompt import DEFAULT_SYSTEM, chat_tokens, prompt_tokens, text_argument
from halo_edge.cli.report import Marks, TrafficMark, figures, summary
from halo_edge.cli.stats import stats_of
from halo_edge.cluster.session import Session
from halo_edge.engine.engine import Engine
from halo_edge.engine.generation import Generation, Generator
from halo_edge.engine.sampling import SamplingParams
from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message

System = Annotated[
    str | None,
    Option(
        "--system",
        "-s",
        help=f"The system message; '' leaves it to the model's template. Default: "
        f"'{DEFAULT_SYSTEM}'",
    ),
]


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
        generator, marks = _generator(session), Marks(TrafficMark.now(session))
        generation = generator.start(tokens, params)
        _stream(session, generator, generation, marks, quiet=json)
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


def chat(
    *,
    system: System = None,
    ctx: Context = None,
    sampling: SamplingOptions,
    options: ComputeOptions,
) -> None:
    """Talk with the model. /clear forgets what was said; /exit or Ctrl-D ends."""
    params = sampling.params()
    with compute_session(options, ctx) as session:
        if session.model.template is None:
            raise HaloError("this model has no chat template; use `halo run --raw`")
        _chat(session, params, system)


def _chat(session: Session, params: SamplingParams, system: str | None) -> None:
    generator = _generator(session)
    messages: list[Message] = []
    notes.print("/clear forgets what was said, /exit ends", style="dim")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if line in ("/exit", "/quit", "/bye"):
            return
        if line == "/clear":
            messages.clear()
        elif line.startswith("/"):
            notes.print("commands: /clear, /exit", style="dim")
        elif line:
            messages.append(Message("user", line))
            try:
                tokens = chat_tokens(session.model, system, messages)
                marks = Marks(TrafficMark.now(session))
                generation = generator.start(tokens, params)
            except HaloError as error:  # the conversation no longer fits, but can be cleared
                notes.print(f"halo: {error}; /clear forgets what was said", style="red")
                messages.pop()
                continue
            _stream(session, generator, generation, marks, quiet=False)
            messages.append(Message("assistant", generation.text))
            print(flush=True)
            line = summary(figures(session, generation, marks))
            notes.print(line, style="dim", soft_wrap=True)


def _generator(session: Session) -> Generator:
    model = session.model
    engine = Engine(
        model.forward, session.gather, context=model.context, end_tokens=model.tokenizer.eog_ids
    )
    return Generator(engine, model.tokenizer)


def _stream(
    session: Session, generator: Generator, generation: Generation, marks: Marks, *, quiet: bool
) -> None:
    """Run a generation to its end, showing it unless `quiet`."""
    for piece in generator.run(generation):
        if marks.first_token is None:
            marks.first_token = TrafficMark.now(session)
        if not quiet:
            print_piece(piece)
    marks.end = TrafficMark.now(session)
