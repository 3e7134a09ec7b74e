"""The /commands of a chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from halo_edge.cli.chat_status import device_table
from halo_edge.cli.console import notes
from halo_edge.cli.relax_options import parse_budget
from halo_edge.cli.stats import stats_of
from halo_edge.cli.talk import Talk
from halo_edge.cluster.relaxation import LEVELS
from halo_edge.errors import HaloError

EXITS: Final = ("/exit", "/quit", "/bye")


@dataclass(frozen=True)
class _Command:
    """`takes`: what its argument is called; empty: it takes none."""

    act: Callable[[Talk, str], None]
    words: str
    takes: str = ""


def obey(talk: Talk, line: str) -> bool:
    """Do what a line that begins with a slash says; False if the chat is to end."""
    name, _, argument = line.partition(" ")
    if name in EXITS:
        return False
    command = COMMANDS.get(name)
    if command is None:
        talk.screen.complain(f"no command {name}; /help lists those there are")
        return True
    try:
        command.act(talk, argument.strip())
    except HaloError as error:
        talk.screen.complain(str(error))
    return True


def _help(talk: Talk, _: str) -> None:
    width = max(len(f"{name} {command.takes}") for name, command in COMMANDS.items())
    for name, command in COMMANDS.items():
        talk.screen.note(f"{f'{name} {command.takes}':{width}}  {command.words}")
    talk.screen.note(
        'Several lines: between """ and """, or with \\ at the end of a line, or Alt-Enter.\n'
        "Ctrl-C stops an answer; /exit or Ctrl-D ends the chat."
    )


def _clear(talk: Talk, _: str) -> None:
    talk.conversation.clear()
    talk.screen.note("forgotten")


def _system(talk: Talk, text: str) -> None:
    if text:
        talk.conversation.system = text
    system = talk.conversation.system
    talk.screen.note("the system message is the usual one" if system is None else system)


def _save(talk: Talk, name: str) -> None:
    talk.conversation.save(_path(name))
    talk.screen.note(f"saved: {len(talk.conversation.messages)} messages")


def _load(talk: Talk, name: str) -> None:
    talk.conversation.load(_path(name))
    talk.screen.note(f"loaded: {len(talk.conversation.messages)} messages")


def _path(name: str) -> Path:
    if not name:
        raise HaloError("give the name of a file")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise HaloError(f"no home directory for {name}") from None


def _retry(talk: Talk, _: str) -> None:
    talk.retry()


def _stats(talk: Talk, _: str) -> None:
    if talk.last is None:
        raise HaloError("there was no answer yet")
    generation, marks = talk.last
    sequence = generation.sequence
    talk.screen.note(
        f"{sequence.n_prompt} tokens of prompt, {len(generation.tokens)} of answer, of the "
        f"{talk.session.model.context} that the context holds"
    )
    for part in stats_of(talk.session.cluster, marks.spent):
        notes.print(part, soft_wrap=isinstance(part, str))


def _budget(talk: Talk, level: str) -> None:
    cluster = talk.session.cluster
    if cluster is None:
        raise HaloError("one device loses nothing, and has no budget")
    if level:
        relax = replace(talk.relax, kl_budget=parse_budget(level))
        cluster.relax(relax)
        talk.relax = relax
    nats = talk.relax.kl_budget
    names = [name for name, value in LEVELS.items() if value == nats]
    talk.screen.note(f"budget: {nats:g} nats a token{f' ({names[0]})' if names else ''}")


def _devices(talk: Talk, _: str) -> None:
    overview = talk.overview()
    if overview is None:
        talk.screen.note("1 device: everything is computed in this process")
        return
    assert talk.session.cluster is not None
    talk.session.cluster.hear()
    overview = talk.session.cluster.overview()
    notes.print(device_table(overview))


COMMANDS: Final[Mapping[str, _Command]] = MappingProxyType(
    {
        "/help": _Command(_help, "this list"),
        "/clear": _Command(_clear, "forget what was said"),
        "/system": _Command(_system, "set the system message, or show it", "[TEXT]"),
        "/save": _Command(_save, "write the chat to a file, as JSON", "FILE"),
        "/load": _Command(_load, "go on with a chat that was saved", "FILE"),
        "/retry": _Command(_retry, "another answer to what was said last"),
        "/stats": _Command(_stats, "what the last answer needed"),
        "/budget": _Command(
            _budget, "nats a token, or strict, balanced, fast; or show it", "[LEVEL]"
        ),
        "/devices": _Command(_devices, "who computes, and how the links are"),
    }
)
