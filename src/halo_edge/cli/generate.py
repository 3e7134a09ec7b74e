"""What `halo run` and `halo chat` share: a generation driven to its end, and shown meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from typer import Option

from halo_edge.cli.prompt import DEFAULT_SYSTEM
from halo_edge.cli.report import Marks, TrafficMark
from halo_edge.cluster.session import Session
from halo_edge.engine.engine import Engine, NewToken
from halo_edge.engine.generation import Generation, Generator

System = Annotated[
    str | None,
    Option(
        "--system",
        "-s",
        help=f"The system message; '' leaves it to the model's template. Default: "
        f"'{DEFAULT_SYSTEM}'",
    ),
]


class _Watched(Engine):
    """An engine that says so before each step, also while a long prompt brings no tokens."""

    before_step: Callable[[], None] = staticmethod(lambda: None)

    def step(self) -> list[NewToken]:
        """See `Engine`."""
        self.before_step()
        return super().step()


def generator_of(session: Session, before_step: Callable[[], None] = lambda: None) -> Generator:
    """`before_step` may end a generation by raising: between two steps nothing is half done."""
    model = session.model
    engine = _Watched(
        model.forward, session.gather, context=model.context, end_tokens=model.tokenizer.eog_ids
    )
    engine.before_step = before_step
    return Generator(engine, model.tokenizer)


def stream(
    session: Session,
    generator: Generator,
    generation: Generation,
    marks: Marks,
    show: Callable[[str], None],
) -> None:
    """Run a generation to its end; `show` is given each piece of text. Raises `HaloError`."""
    try:
        for piece in generator.run(generation):
            if marks.first_token is None:
                marks.first_token = TrafficMark.now(session)
            show(piece)
    finally:
        marks.end = TrafficMark.now(session)
