"""The profile of this machine, measured: what a device of the real lab costs, piece by piece."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from halo_edge.cluster.bench_rounds import WORKERS
from halo_edge.cluster.stopwatch import Stopwatch, typical
from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.runtime import Runtime
from halo_edge.engine.engine import PREFILL_CHUNK, Engine
from halo_edge.engine.forward import Forward
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.trace import Activity, Recorder, spans_of
from halo_edge.errors import HaloError
from halo_edge.lab.bench_cluster import BenchCluster
from halo_edge.lab.host_machine import measure_machine
from halo_edge.lab.profiles import OTHERS
from halo_edge.lab.shapes import read_shape
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.model.synth import SHAPES, write_synthetic
from halo_edge.plan.device_profile import HOST, DeviceProfile
from halo_edge.plan.model_shape import ModelShape

# The weights of so many layers do not fit into a processor's caches together.
LAYERS: Final = 4
# A prompt long enough to tell what a cell of the KV cache costs, and one that costs next to none.
FAR: Final = 2 * PREFILL_CHUNK
NEAR: Final = 4
TOKENS: Final = 24  # decoded after each
CONTEXT: Final = 512


def measure_host_profile(model: str) -> DeviceProfile:
    """`model`: a shape's name, of which random weights are made, or a GGUF file.

    One thread; takes some seconds. Raises `HaloError` for what is no model.
    """
    with _model_file(model) as path:
        shape, watch, spans = _measure(path)
    return _profile(shape, watch, spans)


@contextmanager
def _model_file(model: str) -> Iterator[Path]:
    if model not in SHAPES:
        read_shape(model)  # refuses what is no model
        yield Path(model)
        return
    sizes = SHAPES[model]
    with tempfile.TemporaryDirectory(prefix="halo-") as directory:
        path = Path(directory) / f"{model}.gguf"
        write_synthetic(replace(sizes, n_layers=min(LAYERS, sizes.n_layers)), path)
        yield path


def _measure(path: Path) -> tuple[ModelShape, Stopwatch, NDArray[Any]]:
    """Sizes, laps of the rounds, and what the root's engine recorded: NEAR steps, then FAR."""
    gguf = GgufFile.open(path)
    params = HyperParameters.from_gguf(gguf)
    params = replace(params, n_layers=min(LAYERS, params.n_layers))
    if params.context < CONTEXT:
        raise HaloError(f"{path} was trained on {params.context} tokens; {CONTEXT} are needed")
    recorder = Recorder()
    forward = Forward(
        gguf, params, Runtime(1), cells=CONTEXT, max_tokens=PREFILL_CHUNK, tracer=recorder
    )
    weights = [FfnWeights.from_gguf(gguf, layer) for layer in range(params.n_layers)]
    with BenchCluster(forward, weights, params.hidden) as cluster:
        engine = Engine(forward, cluster, context=CONTEXT, end_tokens=frozenset())
        for prompt in (NEAR, FAR):
            tokens = [token % params.vocab for token in range(prompt)]
            sequence = engine.add(tokens, SamplingParams(temperature=0))
            for _ in range(-(-prompt // PREFILL_CHUNK) + TOKENS):
                engine.step()
            engine.release(sequence)
    return read_shape(str(path)), cluster.watch, spans_of(recorder.data())


def _profile(shape: ModelShape, watch: Stopwatch, spans: NDArray[Any]) -> DeviceProfile:
    decode = spans[spans["tokens"] == 1]
    far_from = spans["step"][spans["tokens"] == PREFILL_CHUNK].min()

    def span_s(activity: Activity, *, far: bool | None = None) -> float:
        chosen = decode[decode["activity"] == activity]
        if far is not None:
            chosen = chosen[(chosen["step"] > far_from) == far]
        return typical(list((chosen["end"] - chosen["begin"]) / 1e9))

    whole_s, part_s = watch.typical_s("whole"), watch.typical_s("part")
    part_bytes = shape.ffn_weights * shape.weight_bytes / (WORKERS + 1)
    memory = WORKERS * part_bytes / max(whole_s - part_s, 1e-9)
    graph_s = max(0.0, part_s - part_bytes / memory)
    near_s, far_s = span_s(Activity.ATTENTION, far=False), span_s(Activity.ATTENTION, far=True)
    near, far = NEAR + TOKENS / 2, FAR + TOKENS / 2
    cell_bytes = 2 * 2 * shape.kv_width
    kv = min(cell_bytes * (far - near) / max(far_s - near_s, 1e-9), 1e12)
    attention_s = near_s - graph_s - shape.attention_weights * shape.weight_bytes / memory
    step_s = sum(span_s(a) for a in (Activity.PREPARE, Activity.EMBED, Activity.SAMPLING))
    add_s = (watch.typical_s("add") - graph_s) / WORKERS
    machine = measure_machine()
    return DeviceProfile(
        name=HOST,
        memory_bytes_per_s=memory,
        flop_per_s=2 * shape.ffn_weights * PREFILL_CHUNK / watch.typical_s("prefill"),
        kv_bytes_per_s=kv,
        graph_s=graph_s,
        attention_s=max(0.0, attention_s - cell_bytes * near / kv),
        token_s=step_s,
        encode_s=watch.typical_s("encode"),
        add_s=max(0.0, add_s),
        round_s=watch.typical_s("round"),
        serve_s=watch.typical_s("serve"),
        seal_s=watch.typical_s("seal"),
        send_s=watch.typical_s("send"),
        receive_s=watch.typical_s("receive"),
        crypto_s_per_byte=0.0,
        wake_s=watch.typical_s("wait") + machine.switch_s,
        sources={OTHERS: f"measured on this machine with {shape.name}"},
        machine=machine,
    )
