"""Tests `streamd/core/state/forecast_seals.py` against sums in plain Python, and with every kind of small damage."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamd.core.arrays import Float32
from streamd.core.state.forecast_seals import MAX_MODEL_BYTES, compute_checks, compute_forecast_seals, hash_model

SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))


def split_mix(number: int) -> int:
    """Return the n-th number of SplitMix64 with the seed 0."""
    mixed = number * 0x9E3779B97F4A7C15 % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return mixed ^ mixed >> 31


def check_one(values: Float32) -> int:
    data = values.tobytes()
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    return sum(word * (split_mix(17 + place) | 1) for place, word in enumerate(words)) % 2**64


@given(arrays(np.float32, SHAPES, elements=st.floats(width=32)))
def test_the_check_of_each_forecast_is_a_sum_of_its_words(values: Float32) -> None:
    assert compute_checks(values).tolist() == [check_one(forecast) for forecast in values]


def test_each_changed_bit_and_each_change_of_one_word_changes_the_check() -> None:
    random = np.random.default_rng(3)
    sound = random.normal(size=(1, 2, 4, 3)).astype(np.float32)
    whole = compute_checks(sound)[0]
    for bit in range(8 * sound.nbytes):
        damaged = bytearray(sound.tobytes())
        damaged[bit // 8] ^= 1 << bit % 8
        assert compute_checks(np.frombuffer(damaged, np.float32).reshape(sound.shape))[0] != whole
    for word in range(sound.nbytes // 8):
        for other in random.integers(0, 2**64, 50, np.uint64):
            words = sound.reshape(-1).view(np.uint64).copy()
            words[word] = other
            assert compute_checks(words.view(np.float32).reshape(sound.shape))[0] != whole


def test_two_forecasts_with_their_parts_exchanged_have_other_checks() -> None:
    """As if some of the pages of a forecast were those of the one before."""
    first, second = (np.random.default_rng(seed).normal(size=(1, 40)).astype(np.float32) for seed in (1, 2))
    sound = {int(compute_checks(values)[0]) for values in (first, second)}
    for at in range(1, 40):
        mixed = np.concatenate([first[:, :at], second[:, at:]], axis=1)
        assert int(compute_checks(mixed)[0]) not in sound


FIELDS = ("serials", "steps", "contexts", "models", "seeds")


@pytest.mark.parametrize("changed", [*FIELDS, "checks"])
def test_each_changed_field_changes_the_seal(changed: str) -> None:
    sound: dict[str, npt.NDArray[Any]] = {name: np.array([1_000 + place]) for place, name in enumerate(FIELDS)}
    sound["checks"] = np.array([12345], np.uint64)
    whole = compute_forecast_seals(**sound)[0]
    for bit in range(63 if changed in ("serials", "steps") else 32):
        fields = dict(sound)
        fields[changed] = fields[changed] ^ fields[changed].dtype.type(1 << bit)
        assert compute_forecast_seals(**fields)[0] != whole


def test_a_field_may_be_the_same_for_all() -> None:
    columns = {name: np.array([5, 5, 5]) for name in FIELDS}
    checks = np.arange(3, dtype=np.uint64)
    one_model = {**columns, "models": np.array([5])}
    whole = compute_forecast_seals(**columns, checks=checks).tolist()
    assert compute_forecast_seals(**one_model, checks=checks).tolist() == whole
    assert checks.tolist() == [0, 1, 2], "the checks are not changed"


def test_a_model_is_hashed_as_it_is_stored() -> None:
    stored = np.array([b"model", b"m" * 200], f"S{MAX_MODEL_BYTES}")
    assert [hash_model(name) for name in stored.tolist()] == [hash_model(b"model"), hash_model(b"m" * 200)]
