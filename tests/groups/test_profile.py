"""The profile file: what is saved is read back, and nothing else is believed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from halo_edge.errors import HaloError
from halo_edge.groups import profile as profile_module
from halo_edge.groups.profile import (
    MAX_NATS,
    MAX_SPECIAL_POSITIONS,
    LayerProfile,
    Profile,
    SpecialPosition,
    quantised,
)

Arrays = dict[str, NDArray[Any]]
Change = Callable[[Arrays, dict[str, str]], None]


@pytest.fixture(scope="module")
def profile(random_profile: Callable[..., Profile], tiny_model: Path) -> Profile:
    """Basis and regression are such that storing them loses nothing."""
    made = random_profile(tiny_model)
    layers = []
    for layer in made.layers:
        regression = layer.regression.copy()
        regression[:, :-1] = quantised(regression[:, :-1])
        layers.append(replace(layer, basis=quantised(layer.basis), regression=regression))
    special = (SpecialPosition(0, 3.5), SpecialPosition(7, 0.25))
    return replace(made, layers=tuple(layers), special=special, about={"command": "halo", "é": "ü"})


@pytest.fixture(scope="module")
def path(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "p.safetensors"
    profile.save(path)
    return path


def contents(path: Path) -> tuple[Arrays, dict[str, str]]:
    with safe_open(path, framework="numpy") as file:
        names = file.keys()
        return {name: file.get_tensor(name).copy() for name in names}, file.metadata()


def refused(path: Path, message: str | None = None) -> None:
    with pytest.raises(HaloError, match=message) as caught:
        Profile.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_saved_is_read_back(profile: Profile, path: Path) -> None:
    found = Profile.load(path)
    assert found.fingerprint == profile.fingerprint
    assert found.group_size == profile.group_size
    assert found.special == profile.special
    assert found.about == profile.about
    assert found.rank == profile.rank == 4
    for mine, read in zip(profile.layers, found.layers, strict=True):
        for name in ("permutation", "mean", "predictor", "energy", "residual"):
            assert (getattr(mine, name) == getattr(read, name)).all()
        np.testing.assert_allclose(read.basis, mine.basis, rtol=1e-6)
        np.testing.assert_allclose(read.regression, mine.regression, rtol=1e-6)
        assert np.float32(mine.total) == read.total
        assert np.float32(mine.sensitivity) == read.sensitivity


def test_saving_replaces_and_leaves_nothing_else(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.safetensors"
    profile.save(path)
    replace(profile, group_size=128).save(path)
    assert [p.name for p in path.parent.iterdir()] == ["p.safetensors"]
    with pytest.raises(HaloError):  # 512 neurons in groups of 128 are not 8 groups
        Profile.load(path)


def test_arrays_of_any_memory_order_are_saved_as_they_are(
    profile: Profile, path: Path, tmp_path: Path
) -> None:
    """safetensors itself would write them transposed."""
    layers = tuple(
        replace(
            layer,
            basis=np.asfortranarray(layer.basis),
            regression=np.asfortranarray(layer.regression),
            predictor=np.asfortranarray(layer.predictor),
        )
        for layer in profile.layers
    )
    replace(profile, layers=layers).save(tmp_path / "p")
    found, expected = contents(tmp_path / "p")[0], contents(path)[0]
    for name, array in expected.items():
        assert (found[name] == array).all(), name


def test_others_may_read_it(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_be_written(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HaloError, match="cannot write the profile"):
        profile.save(tmp_path / "file" / "p.safetensors")


@given(
    hn.arrays(
        np.float32,
        hn.array_shapes(min_dims=2, max_dims=3, max_side=8),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_quantised_is_near_and_stays(rows: NDArray[np.float32]) -> None:
    once = quantised(rows)
    step = np.abs(rows).max(axis=-1, keepdims=True) / 127
    assert (np.abs(once - rows) <= 0.51 * step + 1e-30).all()
    np.testing.assert_allclose(quantised(once), once, rtol=1e-5, atol=1e-37)


def test_another_model_is_told(profile: Profile) -> None:
    profile.check_fits(profile.fingerprint, 3, 128, 512)
    for other in (
        ("0" * 64, 3, 128, 512),
        (profile.fingerprint, 4, 128, 512),
        (profile.fingerprint, 3, 64, 512),
        (profile.fingerprint, 3, 128, 1024),
    ):
        with pytest.raises(HaloError, match="another model"):
            profile.check_fits(*other)


def _with(name: str, value: Any) -> Change:
    def change(arrays: Arrays, _: dict[str, str]) -> None:
        arrays[name].reshape(-1)[0] = value

    return change


def _without(name: str) -> Change:
    def change(arrays: Arrays, _: dict[str, str]) -> None:
        del arrays[name]

    return change


def _as(name: str, dtype: Any) -> Change:
    return lambda arrays, _: arrays.update({name: arrays[name].astype(dtype)})


def _cut(name: str) -> Change:
    return lambda arrays, _: arrays.update({name: np.ascontiguousarray(arrays[name][:1])})


def _meta(**values: str) -> Change:
    return lambda _, metadata: metadata.update(values)


def _neuron_twice(arrays: Arrays, _: dict[str, str]) -> None:
    arrays["permutation"][0, 0] = arrays["permutation"][0, 1]


def _many_positions(arrays: Arrays, _: dict[str, str]) -> None:
    n = MAX_SPECIAL_POSITIONS + 1
    arrays["special_positions"] = np.zeros(n, np.int32)
    arrays["special_nats"] = np.zeros(n, np.float32)


ARRAYS = (
    "basis", "basis_scale", "mean", "regression", "regression_scale", "regression_bias",
    "permutation", "predictor", "energy", "residual", "total", "sensitivity", "special_positions",
    "special_nats",
)  # fmt: skip
INTEGERS = ("basis", "regression", "permutation", "special_positions")
DAMAGE: dict[str, Change] = {
    **{f"no {name}": _without(name) for name in ARRAYS},
    **{f"{name} cut": _cut(name) for name in ARRAYS},
    **{f"{name} as f64": _as(name, np.float64) for name in ARRAYS},
    **{
        f"{name} {value}": _with(name, value)
        for name in ARRAYS
        if name not in INTEGERS
        for value in (np.nan, np.inf, -np.inf)
    },
    **{
        f"{name} negative": _with(name, -1)
        for name in ("energy", "residual", "sensitivity", "total", "special_nats")
    },
    "total zero": _with("total", 0),
    "scale overflows": _with("basis_scale", 3e38),
    "regression scale overflows": _with("regression_scale", 3e38),
    "neuron twice": _neuron_twice,
    "neuron negative": _with("permutation", -1),
    "neuron beyond": _with("permutation", 512),
    "position negative": _with("special_positions", -1),
    "nats beyond any": _with("special_nats", 2 * MAX_NATS),
    "many positions": _many_positions,
    "format": _meta(format="halo-edge profile 99"),
    "group size 0": _meta(group_size="0"),
    "group size negative": _meta(group_size="-64"),
    "group size large": _meta(group_size="9" * 5000),
    "group size text": _meta(group_size="many"),
    "no model": lambda _, metadata: metadata.pop("model") and None,
    "no metadata": lambda _, metadata: metadata.clear(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_fit_together_is_refused(path: Path, tmp_path: Path, damage: str) -> None:
    arrays, metadata = contents(path)
    if "overflows" in damage:
        arrays["basis"][:] = arrays["regression"][:] = 127
    DAMAGE[damage](arrays, metadata)
    damaged = tmp_path / "p.safetensors"
    save_file(arrays, damaged, metadata)
    refused(damaged, "not a profile that this version can use")


def _file(header: object, data: bytes = b"") -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


GARBAGE = {
    "empty": b"",
    "text": b"not a profile at all",
    "long header": struct.pack("<Q", 1 << 40) + b"{}",
    "no arrays": _file({"__metadata__": {"format": profile_module.FORMAT, "group_size": "64"}}),
    "huge": _file({"basis": {"dtype": "I8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}),
    **{  # types that numpy has not
        dtype: _file({"basis": {"dtype": dtype, "shape": [2], "data_offsets": [0, n]}}, bytes(n))
        for dtype, n in (("BF16", 4), ("F8_E4M3", 2), ("F4", 1))
    },
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_refused(tmp_path: Path, garbage: str) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(GARBAGE[garbage])
    refused(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path)
    refused(tmp_path / "missing")


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with path.open("wb") as file:
        file.truncate(profile_module.MAX_BYTES + 1)  # sparse: takes no room
    refused(path, "too large")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_sound(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    # Half of the damage in the header, which is a thousandth of the file.
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        end = header if data.draw(st.booleans()) else len(content)
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(content) - 64, len(content)))
    damaged = path.with_name("damaged.safetensors")
    damaged.write_bytes(content[:cut])
    try:
        found = Profile.load(damaged)
    except HaloError:
        return
    for layer in found.layers:
        _check_sound(layer)


def _check_sound(layer: LayerProfile) -> None:
    assert (np.sort(layer.permutation) == np.arange(len(layer.permutation))).all()
    for values in (layer.basis, layer.mean, layer.regression, layer.predictor):
        assert np.isfinite(values).all()
    for values in (layer.energy, layer.residual):
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert layer.total > 0
    assert layer.sensitivity >= 0
