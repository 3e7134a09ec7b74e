"""A model file opened and made ready for computing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.engine.engine import PREFILL_CHUNK
from halo_edge.engine.forward import Forward
from halo_edge.engine.gather import LocalFfn
from halo_edge.engine.trace import Tracer
from halo_edge.errors import HaloError
from halo_edge.model.chat_template import ChatTemplate
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.model.tokenizer import Tokenizer

# Models trained on 128k positions would want gigabytes of KV cache that few prompts use.
DEFAULT_CONTEXT: Final = 8192

# For the KV cache of many users: what a computer of 2 GB can spare.
DEFAULT_KV_BYTES: Final = 512 << 20
# And in contexts: more would be of use only to more sequences than an engine computes together.
MAX_CONTEXTS: Final = 8


@dataclass(frozen=True)
class LoadedModel:
    """Everything of a model that does not depend on who computes the FFN."""

    gguf: GgufFile
    params: HyperParameters
    tokenizer: Tokenizer
    template: ChatTemplate | None
    runtime: Runtime
    forward: Forward
    context: int

    def local_ffn(self) -> LocalFfn:
        """The whole FFN in this process."""
        acts = self.forward.activations
        weights = [(FfnWeights.from_gguf(self.gguf, i),) for i in range(self.params.n_layers)]
        graphs = FfnGraphs(self.runtime, weights, Rows.f32(acts.x), Rows.f32(acts.ffn))
        return LocalFfn(graphs, self.forward.tracer)


def kv_cells(params: HyperParameters, context: int, kv_bytes: int) -> int:
    """How many cells `kv_bytes` make: at least one context, at most MAX_CONTEXTS of them."""
    cell_bytes = params.n_layers * 2 * params.n_kv_heads * params.head_dim * 2  # keys, values; f16
    return min(max(context, kv_bytes // cell_bytes), MAX_CONTEXTS * context)


def load(
    path: Path,
    *,
    threads: int,
    context: int | None = None,
    kv_bytes: int = 0,
    tracer: Tracer | None = None,
) -> LoadedModel:
    """Open the model at `path` for sequences of up to `context` tokens, with a KV cache of
    `kv_bytes`, or one context where that is more. `tracer`: see `Forward`.

    Raises `HaloError` for a file that is not a supported model, or a context it was not trained
    for.
    """
    gguf = GgufFile.open(path)
    params = HyperParameters.from_gguf(gguf)
    if context is None:
        context = min(params.context, DEFAULT_CONTEXT)
    elif not 1 < context <= params.context:
        raise HaloError(
            f"--ctx must be between 2 and {params.context}, what the model was trained on"
        )
    tokenizer = Tokenizer.from_gguf(gguf.metadata)
    if tokenizer.vocab_size > params.vocab:
        raise HaloError(
            f"{path}: {tokenizer.vocab_size} tokens in the vocabulary, "
            f"but {params.vocab} rows in the embedding table"
        )
    template = ChatTemplate.from_gguf(gguf.metadata, tokenizer)
    runtime = Runtime(threads)
    cells = kv_cells(params, context, kv_bytes)
    forward = Forward(gguf, params, runtime, cells=cells, max_tokens=PREFILL_CHUNK, tracer=tracer)
    return LoadedModel(gguf, params, tokenizer, template, runtime, forward, context)
