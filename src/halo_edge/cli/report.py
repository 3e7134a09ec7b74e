"""The figures of a generation, for people and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, replace

from halo_edge.cluster.relaxation import Spent
from halo_edge.cluster.session import Session
from halo_edge.engine.generation import Generation
from halo_edge.model.tokenizer import Tokenizer
from halo_edge.sync.statistics import Statistics


@dataclass(frozen=True)
class TrafficMark:
    """What the rounds had counted, and spent, at some moment."""

    statistics: Statistics
    spent: Spent

    @classmethod
    def now(cls, session: Session) -> TrafficMark | None:
        """None where there are no rounds."""
        cluster = session.cluster
        return None if cluster is None else cls(replace(cluster.statistics), cluster.spent)


@dataclass
class Marks:
    """Of one generation."""

    start: TrafficMark | None
    first_token: TrafficMark | None = None
    end: TrafficMark | None = None

    @property
    def spent(self) -> Spent | None:
        """By the generation; None where there are no rounds."""
        if self.start is None or self.end is None:
            return None
        return self.end.spent.since(self.start.spent)


def figures(session: Session, generation: Generation, marks: Marks) -> dict[str, object]:
    """The fields of `halo run --json`. Bytes a token are of decode, prefill left out."""
    tpot_ms = generation.tpot_ms
    result: dict[str, object] = {
        "text": generation.text,
        "token_ids": [token.token_id for token in generation.tokens],
        "finish_reason": generation.finish.value if generation.finish is not None else None,
        "prompt_tokens": generation.sequence.n_prompt,
        "completion_tokens": len(generation.tokens),
        "ttft_ms": generation.ttft_ms,
        "tpot_ms": tpot_ms,
        "tokens_per_s": 1e3 / tpot_ms if tpot_ms else None,
        "devices": 1 if session.cluster is None else 1 + len(session.cluster.members),
    }
    if generation.sequence.params.logprobs is not None:
        result["logprobs"] = _logprobs(generation, session.model.tokenizer)
    spent, first, end = marks.spent, marks.first_token or marks.end, marks.end
    if spent is not None and first is not None and end is not None:
        counted, before = end.statistics, first.statistics
        decoded = len(generation.tokens) - 1
        moved = counted.bytes_sent + counted.bytes_received
        moved -= before.bytes_sent + before.bytes_received
        result |= {
            "datagrams_sent": counted.datagrams_sent,
            "datagrams_received": counted.datagrams_received,
            "bytes_per_token": moved / decoded if decoded > 0 else None,
            "retransmissions": counted.retransmissions,
        } | spent_fields(spent)
    return result


def summary(fields: dict[str, object]) -> str:
    """One line for people."""
    parts = [f"{fields['completion_tokens']} tokens on {_devices(fields['devices'])}"]
    for name, key, layout in (
        ("TTFT", "ttft_ms", "{:.0f} ms"),
        ("TPOT", "tpot_ms", "{:.1f} ms"),
        ("", "tokens_per_s", "{:.1f} tokens/s"),
    ):
        if (value := fields[key]) is not None:
            parts.append(f"{name} {layout.format(value)}".strip())
    if (moved := fields.get("bytes_per_token")) is not None:
        parts.append(f"{moved / 1e3:.1f} kB a token")  # type: ignore[operator]
    if (resent := fields.get("retransmissions")) is not None:
        parts.append(f"{resent} retransmissions")
    if fields.get("chunks_filled"):
        parts.append(f"{fields['chunks_filled']} filled, fidelity {fields['fidelity']:.4f}")
    return ", ".join(parts)


def spent_fields(spent: Spent) -> dict[str, object]:
    """What going on without chunks cost, as JSON."""
    return {
        "rounds": spent.rounds,
        "strict_rounds": spent.strict_rounds,
        "chunks_recovered": spent.chunks_recovered,
        "chunks_filled": spent.chunks_filled,
        "chunks_taken_over": spent.chunks_taken_over,
        "nats": spent.nats,
        "fidelity": spent.fidelity,
    }


def _devices(count: object) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _logprobs(generation: Generation, tokenizer: Tokenizer) -> list[dict[str, object]]:
    def named(token_id: int, logprob: float | None) -> dict[str, object]:
        text = tokenizer.token_bytes(token_id).decode(errors="replace")
        return {"token_id": token_id, "token": text, "logprob": logprob}

    return [
        named(token.token_id, token.logprob)
        | {"top": [named(other, logprob) for other, logprob in token.top_logprobs]}
        for token in generation.tokens
    ]
