"""Inputs of small contracts, with and without a memory, and their checks one number after the other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.contract import MAX_STATUS, MEMORY_INPUT, ModelContract
from streamd.core.errors import AllMissingError, InvalidTensorError

OPTIONAL = ("encoder_cat", "decoder_cat")


CONTRACT = ModelContract(("a", "b", "c"), ("a", "b"), (0.1, 0.5, 0.9), context_length=4, horizon=2, step_seconds=60)
MEMORY_CONTRACT = replace(CONTRACT, memory_length=3, memory_step_seconds=120)
CONTRACTS = (CONTRACT, MEMORY_CONTRACT)

Given = dict[str, npt.NDArray[Any]]


def make_full_inputs(windows: int, contract: ModelContract = CONTRACT) -> Given:
    """Return inputs without a fault."""
    random = np.random.default_rng(windows)
    return {
        name: random.integers(0, 16, (windows, *shape), np.int32)
        if name in OPTIONAL
        else random.random((windows, *shape), np.float32)
        for name, shape in contract.input_shapes.items()
    }


def read_inputs(contract: ModelContract, given: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the inputs with the batch axis; raises the error of the first fault."""
    if unknown := set(given) - set(contract.input_shapes):
        raise InvalidTensorError(f"inputs {sorted(unknown)} are unknown, expected {list(contract.input_shapes)}")
    if missing := set(contract.input_shapes) - set(given) - {*OPTIONAL, MEMORY_INPUT}:
        raise InvalidTensorError(f"inputs {sorted(missing)} are missing")
    batched = given["encoder_cont"].ndim == len(contract.input_shapes["encoder_cont"]) + 1
    windows = len(given["encoder_cont"]) if batched else 1
    if not 1 <= windows <= 4_096:
        raise InvalidTensorError(f"encoder_cont has {windows} windows, expected 1 to 4096")
    arrays = {
        name: _read(name, (windows, *shape), batched, given.get(name))
        for name, shape in contract.input_shapes.items()
        if name in given or name != MEMORY_INPUT
    }
    _check(arrays)
    return arrays


def _read(name: str, shape: tuple[int, ...], batched: bool, given: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if given is None:
        return np.zeros(shape, np.int32)
    expected = shape if batched else shape[1:]
    if given.shape != expected:
        raise InvalidTensorError(f"{name} has shape {list(given.shape)}, expected {list(expected)}")
    if name in OPTIONAL and not all(
        float(number).is_integer() and -(2**31) <= number < 2**31 for number in given.reshape(-1).tolist()
    ):
        raise InvalidTensorError(f"{name} holds numbers that are not whole, or beyond int32")
    with np.errstate(over="ignore"):
        return given.astype(np.int32 if name in OPTIONAL else np.float32).reshape(shape)


def _check(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    for name in ("encoder_cont", "decoder_cont", MEMORY_INPUT):
        for place, value in np.ndenumerate(arrays.get(name, np.zeros((1, 1, 1)))):
            if abs(value) >= np.float32(1e30):
                expected = "expected a number of magnitude below 1e30"
                raise InvalidTensorError(f"{name} holds {value:g} at {list(place[1:])} of a window, {expected}")
    if np.isnan(arrays["decoder_cont"]).any():
        raise InvalidTensorError("decoder_cont holds NaN; the known future is never missing")
    for index, window in enumerate(arrays["encoder_cont"]):
        if np.isnan(window).all():
            raise AllMissingError(f"encoder_cont[{index}] has no value at all: such a window cannot be forecast")
    for name in OPTIONAL:
        pairs = arrays[name].reshape(-1, 2).tolist()
        if (lowest := min(server for server, _ in pairs)) < 0:
            raise InvalidTensorError(f"{name} holds server id {lowest}, expected 0 or more")
        if not all(0 <= status <= MAX_STATUS for _, status in pairs):
            raise InvalidTensorError(f"{name} holds a status outside 0 to {MAX_STATUS}")
