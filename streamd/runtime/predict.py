"""A caller's own windows: checked against the contract, run in batches with all others, and answered together.

Knows neither the queue nor the lanes: the pipeline calls `fill`, `answer` and `fail`.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import MAX_STATUS, ModelContract
from streamd.core.errors import AllMissingError, InferenceError, InvalidTensorError
from streamd.inference.lane import Inputs

MAX_WINDOWS = 4_096
"""The largest number of windows in one call."""

_OPTIONAL = ("encoder_cat", "decoder_cat")
"""Inputs that may be missing; then the server id is 0 (an unknown server) and the status 0 (not given)."""


class Prediction(NamedTuple):
    """The answer to a call: `predictions` in the model's output shape, and the name of the version that made them.

    `batched` is whether the caller's inputs have the batch axis, and so the answer.
    """

    predictions: Float32
    batched: bool
    model: str


class PredictRequest:
    """The windows of one call; `future` gets `(windows, horizon, targets, quantiles) float32`, or the first error.

    Raises `InvalidTensorError` or `AllMissingError` for inputs that the model must not see.
    """

    def __init__(self, contract: ModelContract, given: Mapping[str, npt.NDArray[Any]]) -> None:
        if unknown := set(given) - set(contract.input_shapes):
            raise InvalidTensorError(f"inputs {sorted(unknown)} are unknown, expected {list(contract.input_shapes)}")
        if missing := set(contract.input_shapes) - set(given) - set(_OPTIONAL):
            raise InvalidTensorError(f"inputs {sorted(missing)} are missing")
        self.batched = given["encoder_cont"].ndim == len(contract.input_shapes["encoder_cont"]) + 1
        """Whether the caller's inputs have the batch axis, and so the answer."""
        self.windows = len(given["encoder_cont"]) if self.batched else 1
        if not 1 <= self.windows <= MAX_WINDOWS:
            raise InvalidTensorError(f"encoder_cont has {self.windows} windows, expected 1 to {MAX_WINDOWS}")
        self._inputs = {name: self._read(contract, name, given.get(name)) for name in contract.input_shapes}
        self._check_content()
        self._forecasts = np.empty((self.windows, *contract.forecast_shape), np.float32)
        self.reset()

    def reset(self) -> None:
        """Expect the forecasts of all windows, for the first time or again."""
        self._left = self.windows
        self.models: set[str] = set()
        """The names of the versions that answered; the answer is valid only if there is one."""
        self.future: asyncio.Future[Float32] = asyncio.get_running_loop().create_future()

    def _read(self, contract: ModelContract, name: str, given: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        shape = (self.windows, *contract.input_shapes[name])
        categorical = name.endswith("_cat")
        if given is None:
            return np.zeros(shape, np.int32)
        if given.shape != (shape if self.batched else shape[1:]):
            raise InvalidTensorError(
                f"{name} has shape {list(given.shape)}, expected {list(shape if self.batched else shape[1:])}"
            )
        if categorical and not (
            np.array_equal(given, np.trunc(given)) and np.all((given >= -(2**31)) & (given < 2**31))
        ):
            raise InvalidTensorError(f"{name} holds numbers that are not whole, or beyond int32")
        with np.errstate(over="ignore"):
            return given.astype(np.int32 if categorical else np.float32).reshape(shape)

    def _check_content(self) -> None:
        for name in ("encoder_cont", "decoder_cont"):
            if np.isinf(self._inputs[name]).any():
                raise InvalidTensorError(f"{name} holds a number that is infinite or beyond float32")
        if np.isnan(self._inputs["decoder_cont"]).any():
            raise InvalidTensorError("decoder_cont holds NaN; the known future is never missing")
        empty = np.flatnonzero(np.isnan(self._inputs["encoder_cont"]).all(axis=(1, 2)))
        if len(empty):
            raise AllMissingError(f"encoder_cont[{empty[0]}] has no value at all: such a window cannot be forecast")
        for name in ("encoder_cat", "decoder_cat"):
            ids, status = self._inputs[name][..., 0], self._inputs[name][..., 1]
            if ids.min() < 0:
                raise InvalidTensorError(f"{name} holds server id {ids.min()}, expected 0 or more")
            if status.min() < 0 or status.max() > MAX_STATUS:
                raise InvalidTensorError(f"{name} holds a status outside 0 to {MAX_STATUS}")

    # ------------------------------------------------------------ called by the pipeline
    def fill(self, index: int, inputs: Inputs, row: int) -> None:
        """Copy window `index` into row `row` of a lane's inputs."""
        for name, buffer in inputs.view_first(row + 1).items():
            buffer[row] = self._inputs[name][index]

    def answer(self, index: int, forecast: Float32, model: str) -> None:
        """Store the forecast `(targets, horizon, quantiles)` of window `index`: a view. `model` made it."""
        self._forecasts[index] = forecast
        self.models.add(model)
        self._left -= 1
        if not self._left and not self.future.done():
            self.future.set_result(np.ascontiguousarray(self._forecasts.transpose(0, 2, 1, 3)))

    def fail(self, index: int, error: InferenceError) -> None:
        """Fail the call because window `index` failed."""
        self._left -= 1
        if not self.future.done():
            named = type(error)(f"window {index}: {error}")
            named.__cause__ = error
            self.future.set_exception(named)
