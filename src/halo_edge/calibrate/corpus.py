"""The text that a model is calibrated on: a mix that needs no download.

Calibration on one kind of text does not carry to another, so the default mixes what every
installation has: the interpreter's standard library (code, and the English of its docstrings) and
what the model itself says to varied prompts in several languages. Files of the user's make further
parts. Every part gives as many tokens as the others, and one piece in `HELD_OUT_EVERY` of each is
kept for measuring what was learned from the rest.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from halo_edge.errors import HaloError
from halo_edge.model.tokenizer import Tokenizer

WINDOW: Final = 512
"""Tokens of a piece of text, each computed afresh; fewer where a model's context is smaller."""
HELD_OUT_EVERY: Final = 8
_MOST_CHARACTERS: Final = 8 * WINDOW  # of which a window's tokens are taken
_SHORTEST: Final = 64  # a shorter piece says little, and its beginning is all it has
_MOST_BYTES: Final = 64 << 20  # of a file of the user's


@dataclass(frozen=True)
class Sources:
    """What the text is made of."""

    python: bool = True
    generated: bool = True
    files: tuple[Path, ...] = ()

    @property
    def names(self) -> list[str]:
        """For the profile's metadata."""
        names = ["Python standard library"] if self.python else []
        names += ["own generations"] if self.generated else []
        return [*names, *(path.name for path in self.files)]


@dataclass(frozen=True)
class Text:
    """Pieces of at most `WINDOW` tokens, of all sources in turn."""

    learned: tuple[Sequence[int], ...]
    held_out: tuple[Sequence[int], ...]


def found_parts(
    sources: Sources, tokenizer: Tokenizer, longest: int, seed: int
) -> list[Iterator[list[int]]]:
    """The parts that need only be read, each as pieces in random order.

    Raises `HaloError` for a file that cannot be read.
    """
    rng = np.random.default_rng([seed, 0])
    texts = [_standard_library(rng)] if sources.python else []
    texts += [_parts(_read(path), rng) for path in sources.files]
    return [_windows(part, tokenizer, longest) for part in texts]


def take(part: Iterator[list[int]], tokens: int) -> Iterator[list[int]]:
    """Pieces of `part` until there are so many tokens, or no more."""
    for piece in part:
        taken = piece[:tokens]
        if len(taken) < min(_SHORTEST, tokens):
            continue
        yield taken
        tokens -= len(taken)
        if tokens < _SHORTEST:
            return


def mixed(parts: Sequence[Sequence[Sequence[int]]], seed: int) -> Text:
    """All pieces of all parts. Raises `HaloError` if there is none."""
    learned, held_out = [], []
    for part in parts:
        kept = part[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] if len(part) > 1 else []
        kept = kept or part[1:2]
        held_out.append(list(kept))
        learned += [piece for piece in part if not any(piece is other for other in kept)]
    if not learned:
        raise HaloError("there is no text to calibrate on; give some with --text FILE")
    order = np.random.default_rng([seed, 3]).permutation(len(learned))
    kept_in_turn = [
        part[i] for i in range(max(map(len, held_out))) for part in held_out if i < len(part)
    ]
    return Text(
        tuple(learned[i] for i in order),
        tuple(kept_in_turn) or tuple(learned[:1]),  # a single piece has to do for both
    )


def _windows(texts: Iterator[str], tokenizer: Tokenizer, longest: int) -> Iterator[list[int]]:
    """One window of each text."""
    for text in texts:
        yield tokenizer.encode(text, add_special=True)[:longest]


def _standard_library(rng: np.random.Generator) -> Iterator[str]:
    """Of each module, in random order, a part of its source and what its docstrings say."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    for i in rng.permutation(len(paths)):
        try:
            text = paths[i].read_text(encoding="utf-8")
            docstrings = _docstrings(text)
        except (OSError, UnicodeDecodeError, SyntaxError, ValueError):
            continue  # one module less
        yield _excerpt(text, rng)
        if len(docstrings) >= _MOST_CHARACTERS // 4:
            yield _excerpt(docstrings, rng)


def _docstrings(source: str) -> str:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))


def _excerpt(text: str, rng: np.random.Generator) -> str:
    """At most `_MOST_CHARACTERS`, from the beginning of a line."""
    start = int(rng.integers(max(1, len(text) - _MOST_CHARACTERS)))
    start = text.rfind("\n", 0, start) + 1
    return text[start : start + _MOST_CHARACTERS]


def _parts(text: str, rng: np.random.Generator) -> Iterator[str]:
    """Consecutive parts of a long text, in random order."""
    starts = range(0, max(1, len(text) - _SHORTEST), _MOST_CHARACTERS)
    for i in rng.permutation(len(starts)):
        yield text[starts[i] : starts[i] + _MOST_CHARACTERS]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode()
    except OSError as error:
        raise HaloError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        if error.start >= _MOST_BYTES - 4:  # the bound cuts a character
            return error.object[: error.start].decode()
        raise HaloError(f"{path} is not UTF-8 text (byte {error.start}); convert it") from None


def collect(
    sources: Sources,
    tokenizer: Tokenizer,
    generated: Callable[[], Iterator[list[int]]],
    tokens: int,
    longest: int,
    seed: int,
    progress: Callable[[int], None],
) -> Text:
    """`tokens` of text, if there are as many, in pieces of up to `longest`. `generated`: what the
    model says, without end. `progress` is told the tokens as they come.

    Raises `HaloError` where there is no text.
    """
    parts = found_parts(sources, tokenizer, longest, seed)
    if sources.generated:
        parts.append(generated())  # last: it can make up for what others lack
    taken: list[list[list[int]]] = []
    for i, part in enumerate(parts):
        pieces = []
        for piece in take(part, tokens // (len(parts) - i)):
            pieces.append(piece)
            tokens -= len(piece)
            progress(len(piece))
        taken.append(pieces)
    return mixed(taken, seed)
