"""Going on without chunks: predicts the damage, decides, puts fills in their place, and learns.

The root's side of rung 3 of the ladder in DESIGN.md. It is asked when everything that a round
still waits for is late; what is still to be waited for afterwards is recovery's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.relaxation import Place, RelaxOptions
from halo_edge.cluster.waiting import choice_of
from halo_edge.compute.activations import StepInputs
from halo_edge.compute.wire import WireCodec
from halo_edge.groups.damage import DamageModel
from halo_edge.groups.learning import Learner
from halo_edge.groups.profile import Profile
from halo_edge.groups.sketch import Sketch
from halo_edge.groups.surrogate import Surrogate
from halo_edge.sync.budget import Budget, SequenceKey
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.relax import Candidate
from halo_edge.sync.root import Overdue, RootRounds
from halo_edge.sync.transfer import chunks_of

Floats = NDArray[np.float32]

CAUTION: Final = 1.5
"""Charged for each nat predicted. On text unlike that of calibration, KL measured through a cluster
was up to twice the bare prediction, and to report too little is the worse mistake."""


@dataclass
class Filled:
    """What has been filled so far, in chunks, and its predicted damage."""

    chunks: int = 0
    nats: float = 0.0
    at: Counter[Place] = field(default_factory=Counter)
    by_device: Counter[int] = field(default_factory=Counter)
    by_layer: Counter[int] = field(default_factory=Counter)
    nats_by_layer: dict[int, float] = field(default_factory=dict)

    def add(self, device: int, layer: int, chunks: int, nats: float) -> None:
        self.chunks += chunks
        self.nats += nats
        self.at[device, layer] += chunks
        self.by_device[device] += chunks
        self.by_layer[layer] += chunks
        self.nats_by_layer[layer] = self.nats_by_layer.get(layer, 0.0) + nats


class Relaxing:
    """`sketch`: of the step's x; `inputs`: whose its rows are. `without`: devices of which nothing
    is ever gone on without. `filled` is added to."""

    def __init__(
        self,
        options: RelaxOptions,
        budget: Budget,
        inputs: StepInputs,
        sketch: Sketch,
        damage: DamageModel,
        surrogates: Mapping[int, Surrogate],
        without: frozenset[DeviceId],
        learner: Learner | None,
        codec: WireCodec,
        filled: Filled,
    ) -> None:
        self.filled = filled
        self.fullness = 1.0
        """Of the emptiest bucket when the step began. Any thread may ask."""
        self._inputs = inputs
        self._sketch = sketch
        self._damage = damage
        self._surrogates = surrogates
        self._without = without
        self._learner = learner
        self._codec = codec
        self.budget = budget
        self._choice = choice_of(options, self.budget)
        self._values: Floats = np.zeros((sketch.max_tokens, codec.width), np.float32)
        self._encoder = codec.encoder(self._values)
        self._owners: dict[SequenceKey, NDArray[np.intp]] = {}
        self._surrogate_used: set[DeviceId] = set()  # in this round
        self._layer = 0
        self._tokens = 0

    def begin_round(self, layer: int, tokens: int) -> None:
        """Layer 0 begins a step, or that in the middle of which this was made."""
        if layer == 0 or not self._tokens:
            self._begin_step(tokens)
        self._layer = layer
        self._surrogate_used.clear()
        self._choice.begin_round()

    def fill(
        self,
        rounds: RootRounds,
        overdue: Sequence[Overdue],
        otherwise_s: Callable[[DeviceId], float],
    ) -> None:
        """Go on without those of `overdue` that are worth it, by supplying their chunks.

        `overdue`: everything the round waits for. `otherwise_s`: how long it takes to get a
        device's partial without it.
        """
        if any(late.device in self._without for late in overdue):
            return  # it is waited for, and with it all
        candidates, missing = [], {}
        for late in overdue:
            charges = self._charges(rounds, late)
            wait_s = min(late.expected_s, otherwise_s(late.device))
            candidates.append(Candidate(late.device, wait_s, charges))
            missing[late.device] = late.missing
        for candidate in self._choice.choose(candidates, self._static):
            self.budget.charge(candidate.charges)
            # Nothing that was not judged: more may be on its way, of rows that must be exact.
            self._supply(rounds, candidate.device, missing[candidate.device], candidate.nats)

    def learn(self, rounds: RootRounds) -> bool:
        """Take in the partials of the round, which is complete; whether it was its turn."""
        learner, layer, tokens, sketch = self._learner, self._layer, self._tokens, self._sketch
        if learner is None:
            return False
        turn = learner.wants(layer, tokens)
        if turn:
            z, z_before = sketch.of(layer, tokens), sketch.before(layer, tokens)
            for device in self._surrogates:
                if device not in self._surrogate_used:
                    partial = self._codec.decode(rounds.partial(DeviceId(device)), tokens)
                    learner.observe(layer, device, z, z_before, partial)
        if layer == sketch.n_layers - 1:
            learner.end_step(tokens)
            turn = True
        return turn

    def _begin_step(self, tokens: int) -> None:
        self._tokens = tokens
        sequences = self._inputs.sequences[:tokens]
        if tokens == 1:
            self._owners = {SequenceKey(int(sequences[0])): np.zeros(1, np.intp)}
        else:
            self._owners = {
                SequenceKey(int(owner)): np.flatnonzero(sequences == owner)
                for owner in np.unique(sequences)
            }
        for owner, rows in self._owners.items():
            self.budget.earn(owner, len(rows))
        self.fullness = self.budget.fullness(dict.fromkeys(self._owners, 0.0))
        self._choice.begin_step(self.fullness)

    def _charges(self, rounds: RootRounds, late: Overdue) -> dict[SequenceKey, float]:
        layer, tokens = self._layer, self._tokens
        nats = self._damage.nats(
            layer,
            late.device,
            self._sketch.before(layer, tokens),
            self._inputs.positions[:tokens],
            self._missing_share(rounds, late.missing),
        )
        nats *= CAUTION
        charges = {owner: float(nats[rows].sum()) for owner, rows in self._owners.items()}
        return {owner: charge for owner, charge in charges.items() if charge > 0}

    def _missing_share(self, rounds: RootRounds, missing: int) -> Floats:
        """f32[T]: how much of each row is missing, 0 ... 1."""
        share = np.zeros(self._tokens, np.float32)
        row_bytes, spans = self._codec.row_bytes, rounds.partial_spans
        for chunk in chunks_of(missing):
            start, stop = spans[chunk]
            first, last = start // row_bytes, (stop - 1) // row_bytes
            if first == last:
                share[first] += (stop - start) / row_bytes
            else:  # whole rows
                share[first : last + 1] = 1.0
        return share

    def _static(self, device: DeviceId) -> float:
        return self._damage.static(self._layer, device)

    def _supply(self, rounds: RootRounds, device: DeviceId, missing: int, nats: float) -> None:
        layer, tokens = self._layer, self._tokens
        surrogate, values = self._surrogates.get(device), self._values[:tokens]
        if surrogate is None:  # it holds no neurons
            values[:] = 0.0
        else:
            surrogate.fill(layer, self._sketch.of(layer, tokens), values)
        encoded, spans = self._encoder.encode(tokens), rounds.partial_spans
        chunks = chunks_of(missing)
        for chunk in chunks:
            start, stop = spans[chunk]
            rounds.supply(device, chunk, encoded[start:stop])
        self._surrogate_used.add(device)
        self.filled.add(device, layer, len(chunks), nats)


@dataclass(frozen=True, eq=False)
class Relaxable:
    """All that relaxing a cluster's rounds takes, for as long as its plan lasts.

    `shares`: the neuron groups of each device, the root's first. `weights`: C_d of each worker that
    holds any, f16[L, H, K + 1]; but for those `without`. `sketch`, `inputs`: of the step under way.
    `codec`: of partials.
    """

    profile: Profile
    shares: Sequence[range]
    weights: Mapping[DeviceId, NDArray[np.float16]]
    without: frozenset[DeviceId]
    sketch: Sketch
    inputs: StepInputs
    codec: WireCodec

    def relaxing(self, options: RelaxOptions, budget: Budget, filled: Filled) -> Relaxing:
        """Afresh from the profile: what was learned before is not used."""
        damage = DamageModel(self.profile, self.shares, options.fill)
        surrogates: dict[int, Surrogate] = {
            device: Surrogate.of(options.fill, weights.astype(np.float32), self.profile)
            for device, weights in self.weights.items()
        }
        learner = None
        if options.learning:
            learner = Learner(self.profile, surrogates, damage, self.sketch.extension)
        return Relaxing(
            options,
            budget,
            self.inputs,
            self.sketch,
            damage,
            surrogates,
            self.without,
            learner,
            self.codec,
            filled,
        )
