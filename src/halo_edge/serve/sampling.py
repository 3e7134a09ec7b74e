"""From the fields of a request to how the engine samples.

What a request leaves out is the engine's default, as with llama.cpp's server, so that the same
prompt means the same in `halo run` and over HTTP.
"""

from __future__ import annotations

from typing import Final

from halo_edge.cluster.relaxation import LEVELS
from halo_edge.engine.sampling import SamplingParams
from halo_edge.errors import HaloError
from halo_edge.serve.errors import ApiError
from halo_edge.serve.schemas import HaloRequest, SamplingFields, Stop

_SEEDS: Final = 1 << 64
_NAMES: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def params_of(
    request: SamplingFields, *, max_tokens: int | None, logprobs: int | None, index: int
) -> SamplingParams:
    """Of the request's sequence `index`: each has a seed of its own. Raises `ApiError`."""
    given = {name: getattr(request, name) for name in _NAMES}
    seed = None if request.seed is None else (request.seed + index) % _SEEDS
    try:
        return SamplingParams(
            **{name: value for name, value in given.items() if value is not None},
            seed=seed,
            max_tokens=max_tokens,
            stop=_stops(request.stop),
            logprobs=logprobs,
        )
    except HaloError as error:
        raise ApiError(400, str(error), code="invalid_value") from None


def budget_of(halo: HaloRequest | None) -> float | None:
    """Nats a token; None: the server's."""
    if halo is None or halo.kl_budget is None:
        return None
    return LEVELS[halo.kl_budget] if isinstance(halo.kl_budget, str) else halo.kl_budget


def _stops(stop: Stop | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)
