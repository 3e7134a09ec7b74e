"""How well the energies of neuron groups are known before the groups are computed.

By the profile's predictor, and by what could be used in its place. Only the order of the groups of
one token in one layer is judged: which to wait for, not how many.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import numpy as np

from halo_edge.bench import markdown
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.group_energies import Observed, Observer
from halo_edge.bench.markdown import Column
from halo_edge.bench.scoring import read_text
from halo_edge.calibrate.own_words import OwnWords
from halo_edge.calibrate.tap import Floats
from halo_edge.engine.load import LoadedModel, load
from halo_edge.errors import HaloError
from halo_edge.groups.predictor import Predictor
from halo_edge.groups.profile import Profile
from halo_edge.model.fingerprint import fingerprint

WINDOW: Final = 512  # tokens of a piece of text, at most
SHARE: Final = 0.25
"""Recall is of this share of the groups, those with the most energy."""
ROOT_SHARE: Final = 0.25
"""Of the groups, the first: what a root of four equal devices holds."""
# A large module of the standard library, of which calibration takes an excerpt at most.
SOURCE: Final = Path(argparse.__file__)
SEED: Final = 1_000_003  # own words unlike those of calibration
_RIDGE: Final = 0.1  # of the mean square of a feature
_TINY: Final = 1e-12
Score = Callable[[int, Observed], Floats]
"""What is thought of the groups of a layer for each token of a piece, f32[T, G], in any unit."""


class Method(Enum):
    """PREDICTOR: from the sketch of the layer before. STATIC: mean energies of calibration. LOCAL:
    ranks of those and of the mean energies in the first half of the same piece, added up (as GLASS
    does). EMBEDDING: a linear map of the token's embedding, fitted to other pieces of the same
    text. ORACLE: the energies themselves."""

    PREDICTOR = "predictor"
    STATIC = "static"
    LOCAL = "prompt-local"
    EMBEDDING = "token embedding"
    ORACLE = "oracle"


@dataclass(frozen=True)
class Case:
    text: str
    method: Method

    @property
    def name(self) -> str:
        return f"{self.text}, {self.method.value}"


@dataclass(frozen=True)
class Sample:
    """Means over tokens and layers. `recall_remote`: among the groups that the root has not."""

    spearman: float
    recall: float
    recall_remote: float
    tokens: int

    def __str__(self) -> str:
        return f"Spearman {self.spearman:.3f}, recall {self.recall:.3f}"


@dataclass(frozen=True)
class Row:
    """`tokens`: scored."""

    text: str
    method: str
    spearman: float
    recall: float
    recall_remote: float
    tokens: int


def predictor(text: Path | None = None) -> Experiment[Case, Sample, Row]:
    """On Python source, on the model's own words, and on the `text` in a file. Of `Size`, `tokens`
    is how many are computed of each; the second halves of the later pieces are scored."""

    def cases(settings: Settings) -> Sequence[Case]:
        texts = ["Python source", "own words"] + ([] if text is None else [text.name])
        return [Case(name, method) for name in texts for method in Method]

    @contextmanager
    def opened(
        settings: Settings, cases: Sequence[Case], tell: Tell
    ) -> Iterator[Opened[Case, Sample]]:
        if settings.profile is None:
            raise HaloError("there is no profile of this model; make one with `halo calibrate`")
        profile, tokens = Profile.load(settings.profile), settings.size.tokens
        model = load(settings.model, threads=os.cpu_count() or 1)
        params = model.params
        profile.check_fits(fingerprint(model.gguf), params.n_layers, params.hidden, params.ffn)
        observer = Observer(model, profile)
        observed: dict[str, tuple[list[Observed], list[Observed]]] = {}

        def measure(case: Case) -> Sample:
            if case.text not in observed:
                observed.clear()  # one text at a time
                if case.text == "own words":
                    pieces = _own_words(model, tokens)
                else:
                    path = SOURCE if case.text == "Python source" or text is None else text
                    pieces = _windows(model, read_text(path), tokens)
                if len(pieces) < 2:
                    raise HaloError(f"{case.text}: {tokens} tokens are too few; use more --tokens")
                every = [observer.observe(piece) for piece in pieces]
                observed[case.text] = every[: len(every) // 2], every[len(every) // 2 :]
            fitted, scored = observed[case.text]
            return judged(score_of(case.method, profile, observer, fitted), scored)

        yield Opened(measure)

    return Experiment(
        name="predictor",
        row=Row,
        model=None,
        full=Size(repetitions=1, tokens=8192, limit_s=3600),
        quick=Size(repetitions=1, tokens=1024, limit_s=600),
        cases=cases,
        open=opened,
        rows=_rows,
        table=_table,
        plot=None,
        options={} if text is None else {"text": text.name},
        uses_profile=True,
    )


def score_of(
    method: Method, profile: Profile, observer: Observer, fitted: Sequence[Observed]
) -> Score:
    """`fitted`: pieces of the text that are not scored."""
    if method is Method.PREDICTOR:
        maps = Predictor(profile)
        return lambda layer, seen: maps.log_energies(layer, seen.sketches[max(layer - 1, 0)])
    if method is Method.STATIC:
        return lambda layer, seen: _each_row(profile.layers[layer].energy, seen)
    if method is Method.LOCAL:
        return lambda layer, seen: _each_row(
            _ranks(profile.layers[layer].energy)
            + _ranks(seen.energies[layer, : _half(seen)].mean(axis=0)),
            seen,
        )
    if method is Method.EMBEDDING:
        maps_of_tokens = _fit_embeddings(observer, fitted)
        return lambda layer, seen: (
            _with_one(observer.embeddings(seen.tokens)) @ maps_of_tokens[layer]
        )
    return lambda layer, seen: seen.energies[layer]


def judged(score: Score, pieces: Sequence[Observed]) -> Sample:
    """On the second half of each piece."""
    correlations, recalls, recalls_remote, tokens = [], [], [], 0
    for seen in pieces:
        scored = slice(_half(seen), None)
        tokens += len(seen.tokens) - _half(seen)
        for layer in range(len(seen.energies)):
            true, guess = seen.energies[layer, scored], score(layer, seen)[scored]
            correlations.append(_correlations(_ranks(true), _ranks(guess)))
            recalls.append(recall(true, guess))
            first = round(ROOT_SHARE * true.shape[1])
            recalls_remote.append(recall(true[:, first:], guess[:, first:]))
    spearman, recall_all, recall_remote = (
        float(np.concatenate(found).mean()) for found in (correlations, recalls, recalls_remote)
    )
    return Sample(spearman, recall_all, recall_remote, tokens)


def recall(true: Floats, guess: Floats) -> Floats:
    """Of the `SHARE` of groups with the most energy, the share that is among as many that were
    thought to have the most, f64[T]."""
    n = max(1, round(SHARE * true.shape[1]))
    most = true.shape[1] - n
    hits = (_ranks(true) >= most) & (_ranks(guess) >= most)
    share: Floats = hits.sum(axis=1) / n
    return share


def _correlations(a: Floats, b: Floats) -> Floats:
    """Of ranks without ties: Pearson's of them is Spearman's, f64[T]."""
    n = a.shape[1]
    if n < 2:
        return np.ones(len(a), np.float32)
    result: Floats = 1 - 6 * ((a - b) ** 2).sum(axis=1) / (n * (n**2 - 1))
    return result


def _ranks(values: Floats) -> Floats:
    """0 is the least, along the last axis."""
    return np.argsort(np.argsort(values, axis=-1), axis=-1).astype(np.float64)


def _each_row(values: Floats, seen: Observed) -> Floats:
    return np.broadcast_to(values, (len(seen.tokens), len(values)))


def _half(seen: Observed) -> int:
    return len(seen.tokens) // 2


def _fit_embeddings(observer: Observer, pieces: Sequence[Observed]) -> list[Floats]:
    """For each layer f32[H + 1, G], to the logarithms of energies: ridge regression."""
    features = _with_one(observer.embeddings(np.concatenate([seen.tokens for seen in pieces])))
    gram = features.T @ features
    gram[np.diag_indices(len(gram) - 1)] += _RIDGE * np.trace(gram[:-1, :-1]) / (len(gram) - 1)
    maps = []
    for layer in range(len(pieces[0].energies)):
        energies = np.concatenate([seen.energies[layer] for seen in pieces])
        maps.append(np.linalg.solve(gram, features.T @ np.log(energies + _TINY)))
    return maps


def _with_one(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)


def _windows(model: LoadedModel, text: str, tokens: int) -> list[list[int]]:
    """Consecutive pieces, at least two."""
    ids = model.tokenizer.encode(text, add_special=True)[:tokens]
    size = min(WINDOW, model.context, len(ids) // 2)
    if size < 2:
        return []
    return [ids[i : i + size] for i in range(0, len(ids) - size + 1, size)]


def _own_words(model: LoadedModel, tokens: int) -> list[list[int]]:
    words, pieces, number = OwnWords(model, SEED), list[list[int]](), 0
    while sum(map(len, pieces)) < tokens:
        pieces += [piece for piece in words.batch(number) if len(piece) > 1]
        number += 1
    return pieces


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    return [
        Row(
            text=case.text,
            method=case.method.value,
            spearman=sample.spearman,
            recall=sample.recall,
            recall_remote=sample.recall_remote,
            tokens=sample.tokens,
        )
        for case, (sample, *_) in taken.items()
    ]


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("text", lambda row: row.text, left=True),
        Column[Row]("known from", lambda row: row.method, left=True),
        Column[Row]("Spearman", lambda row: f"{row.spearman:.2f}"),
        Column[Row]("recall@25 %", lambda row: f"{row.recall:.2f}"),
        Column[Row]("of the workers' groups", lambda row: f"{row.recall_remote:.2f}"),
        Column[Row]("tokens", lambda row: markdown.number(row.tokens)),
    )
    return markdown.table(columns, rows)
