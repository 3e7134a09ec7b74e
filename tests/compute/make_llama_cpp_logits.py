"""Write data/llama_cpp_logits.json: logits of llama.cpp for tiny random models of many kinds.

Run once, not by the tests. It needs, beside this project, what the tests must not depend on:

    pip install llama_cpp_python==0.3.36
    PYTHONPATH=src python tests/compute/make_llama_cpp_logits.py

A model is not kept but made again from its case (shape, quantisation, metadata, seed), so a change
in `halo_edge.model.synth` that changes its random weights calls for new logits. Flash attention and
an f16 KV cache, as here, so that f32 weights leave nothing but the order of sums to differ in.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import FLOAT32, STRING, UINT32, GgufImage

from halo_edge.model.synth import SHAPES, write_synthetic

PROMPT_TOKENS = 40
KEPT_LOGITS = 24  # of 512: the first ones, and after them rms and argmax of all


def case(name: str, quantization: str = "f32", seed: int = 1, **fields: Any) -> dict[str, Any]:
    """`fields`: of `SyntheticShape`, or under `metadata` (key -> (GGUF type, value))."""
    metadata = fields.pop("metadata", {})
    return dict(name=name, quantization=quantization, seed=seed, shape=fields, metadata=metadata)


def scaling(arch: str, kind: str | None, factor: float, **more: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {f"{arch}.rope.scaling.factor": (FLOAT32, factor)}
    if kind is not None:
        metadata[f"{arch}.rope.scaling.type"] = (STRING, kind)
    for key, (gguf_type, value) in more.items():
        metadata[f"{arch}.rope.scaling.{key}"] = (gguf_type, value)
    return metadata


CASES = [
    case("llama"),
    case("llama, tied head", tied=True),
    case("llama, one KV head", n_kv_heads=1),
    case("llama, no shared KV heads", n_kv_heads=4),
    case("llama, wide heads", head_dim=64),  # 4 x 64 = 256 from hidden 128
    case("llama 3's rope factors", llama3_rope=True, rope_base=500000.0),
    case("qwen2", architecture="qwen2", rope_base=1000000.0, tied=True),
    case("qwen3", architecture="qwen3", head_dim=64, rope_base=1000000.0),
    case("linear rope", metadata=scaling("llama", "linear", 4.0)),
    case("linear rope, factor alone", metadata=scaling("llama", None, 4.0)),
    case("factor, but type none", metadata=scaling("llama", "none", 4.0)),
    case("old name of the factor", metadata={"llama.rope.scale_linear": (FLOAT32, 2.0)}),
    case(
        "yarn",
        metadata=scaling("llama", "yarn", 8.0, original_context_length=(UINT32, 64)),
    ),
    case("yarn, original context not told", metadata=scaling("llama", "yarn", 2.0)),
    case(
        "yarn, qwen2, attention factor",
        architecture="qwen2",
        metadata=scaling(
            "qwen2", "yarn", 4.0, original_context_length=(UINT32, 128), attn_factor=(FLOAT32, 1.5)
        ),
    ),
    case(
        "yarn, own betas",
        metadata=scaling(
            "llama",
            "yarn",
            8.0,
            original_context_length=(UINT32, 64),
            yarn_beta_fast=(FLOAT32, 8.0),
            yarn_beta_slow=(FLOAT32, 2.0),
        ),
    ),
    case("rms epsilon", metadata={"llama.attention.layer_norm_rms_epsilon": (FLOAT32, 0.3)}),
    *(
        case(f"llama in {quantization}", quantization, hidden=256, head_dim=64)
        for quantization in ("f16", "q8_0", "q4_0", "q4_1", "q4_K", "q6_K")
    ),
]  # fmt: skip


def logits_of(path: Path, tokens: list[int]) -> np.ndarray:
    """f32[vocab], after the last of `tokens`."""
    lib = llama_cpp
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = False  # no repacked weights: other kernels
    model = lib.llama_model_load_from_file(str(path).encode(), model_params)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type = 1
    context = lib.llama_init_from_model(model, params)
    ids = (ctypes.c_int32 * len(tokens))(*tokens)
    assert lib.llama_decode(context, lib.llama_batch_get_one(ids, len(tokens))) == 0
    vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (vocab,)).copy()
    lib.llama_free(context)
    lib.llama_model_free(model)
    return logits


def main() -> None:
    rng = np.random.default_rng(0)
    done = []
    with tempfile.TemporaryDirectory() as directory:
        for i, one in enumerate(CASES):
            path = Path(directory) / f"{i}.gguf"
            shape = dataclasses.replace(SHAPES["tiny"], **one["shape"])
            write_synthetic(shape, path, quantization=one["quantization"], seed=one["seed"])
            image = GgufImage.read(path)
            for key, (kind, value) in one["metadata"].items():
                image.set(key, kind, value)
            image.write(path)
            tokens = rng.integers(0, shape.vocab, PROMPT_TOKENS).tolist()
            logits = logits_of(path, tokens)
            one |= {
                "tokens": tokens,
                "logits": [round(float(x), 6) for x in logits[:KEPT_LOGITS]],
                "rms": round(float(np.sqrt(np.mean(logits.astype(np.float64) ** 2))), 6),
                "argmax": int(logits.argmax()),
            }
            done.append(json.dumps(one))
    target = Path(__file__).parent / "data" / "llama_cpp_logits.json"
    target.write_text("[\n" + ",\n".join(done) + "\n]\n")


if __name__ == "__main__":
    main()
