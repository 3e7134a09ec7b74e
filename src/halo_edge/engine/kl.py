"""KL divergence of a run from a base run over the same text, position by position.

The base's distributions are kept in a file, as they are large: two bytes for each token of the
vocabulary at each scored position. They are written and read position by position. What is kept is
how far each logit lies below the highest, in 2^16 steps up to `FLOOR_NATS`. Rounding by half a step
(0.0002 nats) and normalising afterwards changes the distribution by a KL of some 10^-8, and a KL of
10^-4 measured against it by less than a percent.

The file: `MAGIC`, the length of the header (u32), the header (`Origin`, JSON), then u16[positions,
vocab], little-endian. It is distrusted when it is read.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from halo_edge.engine.load import LoadedModel
from halo_edge.engine.windows import MIN_CONTEXT, Scope, scored_positions
from halo_edge.errors import HaloError
from halo_edge.model.fingerprint import fingerprint

MAGIC: Final = b"HALO-KL1"
# What is further below the likeliest token counts as impossible: e^-32 is 10^-14.
FLOOR_NATS: Final = 32.0
_LEVELS: Final = 0xFFFF
_STEP_NATS: Final = FLOOR_NATS / _LEVELS
_WEIGHTS: Final = np.append(np.exp(-_STEP_NATS * np.arange(_LEVELS)), 0.0)
# Some models give tokens that nothing was trained for a logit of -inf.
_MAX_NATS: Final = 1e4
_LENGTH: Final = struct.Struct("<I")
MAX_HEADER_BYTES: Final = 4096
_U16: Final = np.dtype("<u2")

_Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Origin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the distributions of a file are of. `model`: its fingerprint; `text`: sha256."""

    model: _Hash
    text: _Hash
    context: Annotated[int, Meta(ge=MIN_CONTEXT, le=1 << 24)]
    first: Annotated[int, Meta(ge=0, le=1 << 32)]
    windows: Annotated[int, Meta(ge=1, le=1 << 32)]
    vocab: Annotated[int, Meta(ge=1, le=1 << 24)]

    @classmethod
    def of(cls, model: LoadedModel, text: str, scope: Scope, windows: int) -> Origin:
        """`windows`: how many are scored."""
        return cls(
            model=fingerprint(model.gguf),
            text=hashlib.sha256(text.encode()).hexdigest(),
            context=scope.context,
            first=scope.first,
            windows=windows,
            vocab=model.params.vocab,
        )

    @property
    def n_bytes(self) -> int:
        """Of the distributions."""
        return self.windows * scored_positions(self.context) * self.vocab * _U16.itemsize


@dataclass(frozen=True)
class Divergence:
    """KL(base || this) over `positions` positions, nats: its mean, the mean's standard error, and
    the 99th percentile. `same_top`: the share of positions where both have the same likeliest
    token."""

    kl: float
    stderr: float
    p99: float
    same_top: float
    positions: int

    @classmethod
    def of(cls, kls: NDArray[np.float64], same_top: int) -> Divergence:
        """`kls`: f64[positions]; `same_top`: at how many. Raises ValueError for none."""
        n = len(kls)
        if not n:
            raise ValueError("the divergence of nothing")
        stderr = float(kls.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
        p99 = float(np.percentile(kls, 99))
        return cls(float(kls.mean()), stderr, p99, same_top / n, n)


class BaseWriter:
    """A `Judge` that keeps the distributions. `save_base` makes one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def judge(self, logits: NDArray[np.float32]) -> None:
        """Raises `HaloError` where they cannot be written."""
        for row in logits:
            below = (row.max() - row) / np.float32(_STEP_NATS)
            levels = np.rint(np.minimum(below, _LEVELS)).astype(_U16)
            try:
                self._file.write(levels.tobytes())
            except OSError as error:
                raise HaloError(f"cannot write {self._file.name}: {error.strerror}") from None


class KlMeter:
    """A `Judge` that compares with a base, from its first position on. `open_base` makes one."""

    def __init__(self, file: IO[bytes], origin: Origin) -> None:
        self._file = file
        self._vocab = origin.vocab
        self._kls = array("d")
        self.same_top = 0

    @property
    def kls(self) -> NDArray[np.float64]:
        """f64[positions so far]: KL(base || this), nats."""
        return np.array(self._kls, np.float64)

    def divergence(self) -> Divergence:
        return Divergence.of(self.kls, self.same_top)

    def judge(self, logits: NDArray[np.float32]) -> None:
        """Raises `HaloError` where the base ends."""
        for row in logits:
            data = self._file.read(self._vocab * _U16.itemsize)
            if len(data) != self._vocab * _U16.itemsize:
                raise HaloError(f"{self._file.name} ends before the text does; save it again")
            levels = np.frombuffer(data, _U16)
            self._kls.append(divergence(levels, row))
            self.same_top += bool(levels[int(row.argmax())] == 0)


def divergence(levels: NDArray[np.uint16], logits: NDArray[np.float32]) -> float:
    """KL(p || q) in nats, p as `levels` below its highest logit, q as logits; both [vocab]."""
    p = _WEIGHTS[levels]
    p_sum = p.sum()
    below = np.maximum(logits.astype(np.float64) - float(logits.max()), -_MAX_NATS)
    mean_p = -_STEP_NATS * float(p @ levels) / p_sum - math.log(p_sum)
    mean_q = float(p @ below) / p_sum - math.log(np.exp(below).sum())
    return max(0.0, float(mean_p - mean_q))


@contextmanager
def save_base(path: Path, origin: Origin) -> Iterator[BaseWriter]:
    """The base is at `path` when the body has ended without an exception, and not before.

    Raises `HaloError` where it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    header = msgspec.json.encode(origin)
    try:
        with unfinished.open("wb") as file:
            file.write(MAGIC + _LENGTH.pack(len(header)) + header)
            yield BaseWriter(file)
        unfinished.rename(path)
    except OSError as error:
        raise HaloError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink()


@contextmanager
def open_base(path: Path, wanted: Origin) -> Iterator[KlMeter]:
    """A meter against the base at `path`, which may have more windows than `wanted`.

    Raises `HaloError` for a file that is no base, or of something else than `wanted`.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise HaloError(f"cannot read {path}: {error.strerror}") from None
    with file:
        found = _header(path, file)
        for name, what in (
            ("model", "another model"),
            ("vocab", "another model"),
            ("text", "another text"),
            ("context", f"windows of {found.context} tokens"),
            ("first", f"another part of the text, from window {found.first}"),
        ):
            if getattr(found, name) != getattr(wanted, name):
                raise HaloError(f"{path} was made from {what}; save it again with --save-logits")
        if found.windows < wanted.windows:
            raise HaloError(
                f"{path} has {found.windows} windows, and {wanted.windows} are to be scored; "
                f"give --chunks {found.windows}"
            )
        yield KlMeter(file, found)


def _header(path: Path, file: IO[bytes]) -> Origin:
    """Raises `HaloError` unless it is one, and as much follows as it says."""
    try:
        start = file.read(len(MAGIC) + _LENGTH.size)
        if len(start) != len(MAGIC) + _LENGTH.size or not start.startswith(MAGIC):
            raise ValueError("it begins otherwise")
        (length,) = _LENGTH.unpack(start[len(MAGIC) :])
        if length > MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        found = msgspec.json.decode(file.read(length), type=Origin)
        size = os.fstat(file.fileno()).st_size
        if size - file.tell() != found.n_bytes:
            raise ValueError("it is cut off, or too long")
        return found
    except OSError as error:
        raise HaloError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise HaloError(f"{path} was not made by --save-logits ({error})") from None
