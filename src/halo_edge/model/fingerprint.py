"""A model file's fingerprint: what a profile is recognised by.

Hashing all of a 4 GB file takes seconds at every start, so only its header and the first bytes of
every tensor are hashed: models that differ in any layer, or in how they are quantised, differ
there.
"""

from __future__ import annotations

import hashlib
from typing import Final

from halo_edge.model.gguf_file import GgufFile

SAMPLED_BYTES: Final = 256


def fingerprint(gguf: GgufFile) -> str:
    """64 hexadecimal digits, from the names, types, shapes and first bytes of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(gguf.tensors):
        info = gguf.tensors[name]
        digest.update(repr((name, int(info.ggml_type), tuple(map(int, info.shape)))).encode())
        digest.update(gguf.tensor_bytes(name)[:SAMPLED_BYTES].tobytes())
    return digest.hexdigest()
