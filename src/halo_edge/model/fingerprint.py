"""A model file's fingerprint: what a profile is recognised by.

Hashing all of a 4 GB file takes seconds at every start, so only its header and the first bytes of
every tensor are hashed: models that differ in any layer, or in how they are quantised, differ
there.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile

SAMPLED_BYTES: Final = 256


def fingerprint(gguf: GgufFile) -> str:
    """64 hexadecimal digits, from the names, types, shapes and first bytes of all tensors.

    Raises `HaloError` for a file that is no longer there.
    """
    digest = hashlib.sha256()
    try:
        # Not where it is mapped: there the kernel reads megabytes around each of them.
        with gguf.path.open("rb", buffering=0) as file:
            for name in sorted(gguf.tensors):
                info = gguf.tensors[name]
                what = (name, int(info.ggml_type), tuple(map(int, info.shape)))
                digest.update(repr(what).encode())
                sampled = min(info.nbytes, SAMPLED_BYTES)
                digest.update(os.pread(file.fileno(), sampled, info.offset))
    except OSError as error:
        raise HaloError(f"cannot read {gguf.path}: {error.strerror}") from None
    return digest.hexdigest()
