"""How long each thing takes that a device does for a model, by its profile. Times are CPU time."""

from __future__ import annotations

from halo_edge.plan.device_profile import DeviceProfile
from halo_edge.plan.model_shape import ModelShape


class Costs:
    """One device's."""

    def __init__(self, profile: DeviceProfile, shape: ModelShape) -> None:
        self._profile = profile
        self._shape = shape

    def prepare_s(self, tokens: int) -> float:
        """A step, outside of its layers and the head."""
        return self._profile.token_s * tokens

    def attention_s(self, tokens: int, context: int) -> float:
        """A layer's, for `tokens` tokens that look at `context` cells, their own among them."""
        profile, shape = self._profile, self._shape
        kv_bytes = 2 * 2 * shape.kv_width * context  # f16 keys and values
        return self._multiply_s(shape.attention_weights, tokens) + tokens * (
            profile.attention_s + kv_bytes / profile.kv_bytes_per_s
        )

    def ffn_s(self, neurons: int, tokens: int) -> float:
        """A layer's FFN, or the part of it that consists of so many neurons."""
        if not neurons:
            return 0.0
        return self._multiply_s(self._shape.ffn_weights * neurons // self._shape.ffn, tokens)

    def head_s(self) -> float:
        """One token's logits."""
        return self._multiply_s(self._shape.head_weights, 1)

    def encode_s(self, tokens: int) -> float:
        return self._profile.encode_s * tokens

    def add_s(self, partials: int, tokens: int) -> float:
        return self._profile.graph_s + self._profile.add_s * partials * tokens if partials else 0.0

    @property
    def round_s(self) -> float:
        return self._profile.round_s

    @property
    def serve_s(self) -> float:
        return self._profile.serve_s

    @property
    def send_s(self) -> float:
        return self._profile.send_s

    @property
    def wake_s(self) -> float:
        return self._profile.wake_s

    def seal_s(self, datagrams: int, nbytes: int) -> float:
        return self._profile.seal_s * datagrams + self._profile.crypto_s_per_byte * nbytes

    def receive_s(self, datagrams: int, nbytes: int) -> float:
        return self._profile.receive_s * datagrams + self._profile.crypto_s_per_byte * nbytes

    def _multiply_s(self, weights: int, tokens: int) -> float:
        """One graph: by memory for few tokens, by arithmetic for many."""
        profile = self._profile
        streamed_s = weights * self._shape.weight_bytes / profile.memory_bytes_per_s
        return profile.graph_s + max(streamed_s, 2.0 * weights * tokens / profile.flop_per_s)
