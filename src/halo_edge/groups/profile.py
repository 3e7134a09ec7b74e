"""A model's profile: everything calibration found out about its neuron groups, as one file.

What the arrays mean is said here once; `calibration` makes them, and the predictor, the fill and
the packing of shards read them. The file is safetensors: plain arrays and a table of strings,
nothing that runs. It may come from anywhere, so all of it is checked before it is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from halo_edge.errors import HaloError

FORMAT: Final = "halo-edge profile 1"
MODEL_KEY: Final = "model"
"""Of the metadata: the fingerprint."""
MAX_BYTES: Final = 1 << 30  # several times a model of 70 billion parameters
_DTYPES: Final = frozenset({"I8", "I32", "F32"})  # numpy lacks others that a file may have
MAX_SPECIAL_POSITIONS: Final = 64
# Nobody's KL per token is larger than the logarithm of a vocabulary; this is far beyond any.
MAX_NATS: Final = 1e4

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LayerProfile:
    """One layer's FFN: F neurons in G groups, inputs of H values, a sketch of K.

    Neurons are numbered as permuted, group g being neurons g * group_size and the following.
    """

    permutation: NDArray[np.int32]
    """[F]: neuron i is the model file's neuron `permutation[i]`."""

    basis: Floats
    """B, [K, H]: the sketch z = B x, scaled so that the mean of z z^T over calibration is I."""

    mean: Floats
    """[K]: the mean of z."""

    regression: Floats
    """R, [F, K + 1]: the activations silu(G x) * U x are near R[:, :K] z + R[:, K]."""

    predictor: Floats
    """W, [G, K + 1]: ln(energy of each group) is near W[:, :K] z' + W[:, K], where z' is the sketch
    of the layer before, or for layer 0 its own. A group's energy is |D_g a_g|^2, of its partial."""

    energy: Floats
    """[G]: the mean energy of each group."""

    residual: Floats
    """[G]: the mean of |D_g (a_g - R_g [z, 1])|^2, what is left of it after its fill."""

    total: float
    """The mean energy of the whole layer's FFN output."""

    sensitivity: float
    """Nats of KL, at that token and all later ones together, for each `total` of lost energy."""


@dataclass(frozen=True)
class SpecialPosition:
    """A position, such as an attention sink, at which the model cannot do without its FFN.

    `nats`: KL over a window of text that losing one layer's FFN there costs, in the worst layer.
    """

    position: int
    nats: float


@dataclass(frozen=True, eq=False)
class Profile:
    """`fingerprint`: of the model it belongs to (`model.fingerprint`). `about`: corpora, command,
    date, number of tokens, for people."""

    fingerprint: str
    group_size: int
    layers: tuple[LayerProfile, ...]
    special: tuple[SpecialPosition, ...]
    about: Mapping[str, str]

    @property
    def rank(self) -> int:
        """K."""
        return len(self.layers[0].basis)

    def save(self, path: Path) -> None:
        """Raises `HaloError` where it cannot be written. An unfinished file never bears the name.

        Basis and regression are kept as signed bytes with a scale per row: `quantised` beforehand,
        or what is read back differs a little from what was saved.
        """
        basis, basis_scale = _to_bytes(np.stack([layer.basis for layer in self.layers]))
        weights = np.stack([layer.regression for layer in self.layers])
        regression, regression_scale = _to_bytes(weights[:, :, :-1])
        arrays: dict[str, NDArray[Any]] = {
            "basis": basis,
            "basis_scale": basis_scale,
            "regression": regression,
            "regression_scale": regression_scale,
            "regression_bias": weights[:, :, -1],
            "special_positions": np.array([s.position for s in self.special], np.int32),
            "special_nats": np.array([s.nats for s in self.special], np.float32),
        }
        for name in ("permutation", "mean", "predictor", "energy", "residual"):
            arrays[name] = np.stack([getattr(layer, name) for layer in self.layers])
        for name in ("total", "sensitivity"):
            arrays[name] = np.array([getattr(layer, name) for layer in self.layers], np.float32)
        metadata = {f"about.{key}": value for key, value in self.about.items()} | {
            "format": FORMAT,
            MODEL_KEY: self.fingerprint,
            "group_size": str(self.group_size),
        }
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # safetensors writes what lies in memory, whatever the order of the axes there.
            in_order = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            save_file(in_order, unfinished, metadata)
            unfinished.chmod(0o644)  # safetensors' files are their owner's alone
            unfinished.rename(path)
        except (OSError, SafetensorError) as error:
            raise HaloError(f"cannot write the profile {path}: {error}") from None

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Raises `HaloError` for anything that is not a whole, sound profile."""
        try:
            if path.stat().st_size > MAX_BYTES:
                raise HaloError(
                    f"{path} is too large for a profile; make one with `halo calibrate`"
                )
            with safe_open(path, framework="numpy") as file:
                metadata: dict[str, str] = file.metadata() or {}
                arrays = {
                    name: file.get_tensor(name)
                    for name in file.keys()  # noqa: SIM118
                    if file.get_slice(name).get_dtype() in _DTYPES
                }
        except (OSError, SafetensorError) as error:
            raise HaloError(f"cannot read the profile {path}: {error}") from None
        try:
            return _checked(metadata, arrays)
        except (KeyError, ValueError, TypeError) as error:
            raise HaloError(
                f"{path} is not a profile that this version can use ({error}); "
                f"make one with `halo calibrate`"
            ) from None

    def check_fits(self, fingerprint: str, n_layers: int, hidden: int, ffn: int) -> None:
        """Raises `HaloError` if the profile is not of that model."""
        first = self.layers[0]
        shape = (len(self.layers), first.basis.shape[1], len(first.permutation))
        if self.fingerprint != fingerprint or shape != (n_layers, hidden, ffn):
            raise HaloError(
                "the profile was made from another model; make one with `halo calibrate MODEL`"
            )


def quantised(rows: Floats) -> Floats:
    """`rows`: f32[..., n] as `Profile.save` keeps a basis or a regression, and reads it back."""
    values, scale = _to_bytes(rows)
    return values.astype(np.float32) * scale[..., None]


def _to_bytes(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Signed bytes, and the scale of each row."""
    scale = (np.abs(rows).max(axis=-1) / 127).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1.0)[..., None]
    return np.rint(rows / divisor).astype(np.int8), scale


def _checked(metadata: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> Profile:
    """Raises ValueError, KeyError or TypeError for what does not fit together."""
    if metadata.get("format") != FORMAT:
        raise ValueError("another format")
    group_size = int(metadata["group_size"])
    n_layers, rank, hidden = arrays["basis"].shape
    _, neurons, _ = arrays["regression"].shape
    if min(n_layers, rank, hidden, neurons, group_size) < 1:
        raise ValueError("empty arrays")
    groups = -(-neurons // group_size)
    n_special = len(arrays["special_positions"])
    if n_special > MAX_SPECIAL_POSITIONS:
        raise ValueError("too many special positions")
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        "basis": (np.int8, (n_layers, rank, hidden)),
        "basis_scale": (np.float32, (n_layers, rank)),
        "mean": (np.float32, (n_layers, rank)),
        "regression": (np.int8, (n_layers, neurons, rank)),
        "regression_scale": (np.float32, (n_layers, neurons)),
        "regression_bias": (np.float32, (n_layers, neurons)),
        "permutation": (np.int32, (n_layers, neurons)),
        "predictor": (np.float32, (n_layers, groups, rank + 1)),
        "energy": (np.float32, (n_layers, groups)),
        "residual": (np.float32, (n_layers, groups)),
        "total": (np.float32, (n_layers,)),
        "sensitivity": (np.float32, (n_layers,)),
        "special_positions": (np.int32, (n_special,)),
        "special_nats": (np.float32, (n_special,)),
    }
    for name, (dtype, shape) in expected.items():
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}")
        if dtype is np.float32 and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    for name in ("energy", "residual", "sensitivity", "special_nats"):
        if (arrays[name] < 0).any():
            raise ValueError(f"{name} is negative")
    if (arrays["total"] <= 0).any():
        raise ValueError("total is not positive")
    if (arrays["special_nats"] > MAX_NATS).any() or (arrays["special_positions"] < 0).any():
        raise ValueError("special positions out of range")
    if (np.sort(arrays["permutation"], axis=1) != np.arange(neurons)).any():
        raise ValueError("permutation is none")
    with np.errstate(over="ignore"):
        basis = arrays["basis"].astype(np.float32) * arrays["basis_scale"][..., None]
        weights = arrays["regression"].astype(np.float32) * arrays["regression_scale"][..., None]
    if not (np.isfinite(basis).all() and np.isfinite(weights).all()):
        raise ValueError("a scale is too large")
    regression = np.concatenate([weights, arrays["regression_bias"][..., None]], axis=2)
    layers = tuple(
        LayerProfile(
            permutation=arrays["permutation"][i],
            basis=basis[i],
            mean=arrays["mean"][i],
            regression=regression[i],
            predictor=arrays["predictor"][i],
            energy=arrays["energy"][i],
            residual=arrays["residual"][i],
            total=float(arrays["total"][i]),
            sensitivity=float(arrays["sensitivity"][i]),
        )
        for i in range(n_layers)
    )
    special = tuple(
        SpecialPosition(int(position), float(nats))
        for position, nats in zip(arrays["special_positions"], arrays["special_nats"], strict=True)
    )
    about = {k.removeprefix("about."): v for k, v in metadata.items() if k.startswith("about.")}
    return Profile(metadata[MODEL_KEY], group_size, layers, special, about)
