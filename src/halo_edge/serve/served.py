"""What is served: a model under its name, as the HTTP side needs it."""

from __future__ import annotations

from dataclasses import dataclass

from halo_edge.model.chat_template import ChatTemplate
from halo_edge.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Served:
    """`name`: what requests call it. `created_s`: Unix time. `context`: tokens of one prompt and
    its answer. `vocab`: width of the logits, which may be more than the tokenizer has tokens."""

    name: str
    created_s: int
    tokenizer: Tokenizer
    template: ChatTemplate | None
    context: int
    vocab: int
