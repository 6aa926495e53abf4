"""A caller's own windows: checked against the contract, run in batches with all others, and answered together.

Knows neither the queue nor the lanes: the pipeline calls `fill`, `answer` and `fail`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import INPUT_TYPES, MEMORY_INPUT, ModelContract
from streamd.core.errors import InferenceError, InvalidInputError, InvalidTensorError
from streamd.inference.lane import Inputs
from streamd.runtime.window_checks import check_content, is_complete

MAX_WINDOWS = 4_096
"""The largest number of windows in one call."""

_TYPES = {name: np.dtype(type_name) for name, type_name in INPUT_TYPES.items()}

WHOLE_INPUTS = frozenset({"encoder_cat", "decoder_cat"})
"""Inputs of whole numbers."""

OPTIONAL_INPUTS = WHOLE_INPUTS | {MEMORY_INPUT}
"""Inputs that may be missing; then the server id is 0 (an unknown server), the status 0 (not given), and no period is
remembered."""


class Prediction(NamedTuple):
    """The answer to a call: `predictions` in the model's output shape, and the name of the version that made them.

    `batched` is whether the caller's inputs have the batch axis, and so the answer.
    """

    predictions: Float32
    batched: bool
    model: str


class CallerWindows(Protocol):
    """The windows of a call; `batched` is whether the caller's inputs have the batch axis.

    Their numbers are checked already (`is_checked`), or are checked once they are in a lane's inputs.
    """

    windows: int
    batched: bool
    is_checked: bool

    def fill(self, first: int, count: int, inputs: Inputs, row: int) -> None:
        """Copy `count` windows from `first` on into a lane's inputs, from row `row` on."""
        ...


@dataclass(slots=True)
class CallerInputs:
    """The inputs of a call, which the model may see: `arrays` by name with the batch axis, float32 and int32.

    The memory is absent if the caller gave none, and is not used by a version that asks for none. Arrays may share
    bytes with the caller's body.
    """

    arrays: dict[str, npt.NDArray[Any]]
    windows: int
    batched: bool
    is_checked: bool = True

    def fill(self, first: int, count: int, inputs: Inputs, row: int) -> None:
        """Copy `count` windows from `first` on into a lane's inputs, from row `row` on."""
        windows, rows = slice(first, first + count), slice(row, row + count)
        inputs.encoder_cont[rows] = self.arrays["encoder_cont"][windows]
        inputs.encoder_cat[rows] = self.arrays["encoder_cat"][windows]
        inputs.decoder_cont[rows] = self.arrays["decoder_cont"][windows]
        inputs.decoder_cat[rows] = self.arrays["decoder_cat"][windows]
        memory = self.arrays.get(MEMORY_INPUT)
        if memory is None:
            inputs.forget_memory(rows.start, rows.stop)
        elif inputs.memory_cont is not None:
            inputs.memory_cont[rows] = memory[windows]


class InputReader:
    """Checks callers' inputs against a contract."""

    def __init__(self, contract: ModelContract) -> None:
        self._shapes = contract.input_shapes
        self._known = frozenset(self._shapes)
        self._needed = self._known - OPTIONAL_INPUTS

    def read(self, given: Mapping[str, npt.NDArray[Any]]) -> CallerInputs:
        """Return the inputs of a call; raises `InvalidTensorError` or `AllMissingError` if the model must not see them.

        The arrays must not change afterwards: those that have the right type already are not copied.
        """
        names = given.keys()
        if not names <= self._known:
            raise InvalidTensorError(f"inputs {sorted(names - self._known)} are unknown, expected {list(self._shapes)}")
        if not names >= self._needed:
            raise InvalidTensorError(f"inputs {sorted(self._needed - names)} are missing")
        encoder = given["encoder_cont"]
        batched = encoder.ndim == len(self._shapes["encoder_cont"]) + 1
        windows = len(encoder) if batched else 1
        if not 1 <= windows <= MAX_WINDOWS:
            raise InvalidTensorError(f"encoder_cont has {windows} windows, expected 1 to {MAX_WINDOWS}")
        arrays = {
            name: self._read_array(name, shape, given.get(name), windows, batched)
            for name, shape in self._shapes.items()
            if name != MEMORY_INPUT or name in given
        }
        if not is_complete(arrays):
            check_content(arrays)
        return CallerInputs(arrays, windows, batched)

    def _read_array(
        self, name: str, inner: tuple[int, ...], given: npt.NDArray[Any] | None, windows: int, batched: bool
    ) -> npt.NDArray[Any]:
        shape = (windows, *inner)
        if given is None:
            return np.zeros(shape, np.int32)
        expected = shape if batched else inner
        if given.shape != expected:
            raise InvalidTensorError(f"{name} has shape {list(given.shape)}, expected {list(expected)}")
        array = given if given.dtype is _TYPES[name] else _convert(name, given)
        return array if batched else array.reshape(shape)


def _convert(name: str, given: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array as float32 or int32, as its input needs; itself if it has that type."""
    target = _TYPES[name]
    if given.dtype == target:
        return np.ascontiguousarray(given, target)
    with np.errstate(over="ignore"):
        if name in WHOLE_INPUTS and not (
            np.array_equal(given, np.trunc(given)) and np.all((given >= -(2**31)) & (given < 2**31))
        ):
            raise InvalidTensorError(f"{name} holds numbers that are not whole, or beyond int32")
        return given.astype(target)


class PredictRequest:
    """The windows of one call. `on_done` is called once: all windows are answered, or one has failed (`error`)."""

    __slots__ = ("_forecasts", "_left", "error", "inputs", "is_checked", "models", "on_done", "since", "windows")

    def __init__(self, inputs: CallerWindows, on_done: Callable[["PredictRequest"], None], since: float) -> None:
        self.inputs = inputs
        self.windows = inputs.windows
        self.is_checked = inputs.is_checked
        """Whether the numbers of its windows are known to be right."""
        self.on_done = on_done
        self.since = since
        """When the call began (monotonic seconds)."""
        self.reset()

    def reset(self) -> None:
        """Expect the forecasts of all windows, for the first time or again."""
        self._left = self.windows
        self._forecasts: Float32 | None = None
        self.error: InferenceError | InvalidInputError | None = None
        self.models: set[str] = set()
        """The names of the versions that answered; the answer is valid only if there is one."""

    def make_prediction(self) -> Prediction:
        """Return the answer, after the call has ended without an error; it shares the memory of a lane's results."""
        assert self._forecasts is not None, "all windows are answered"
        windows, targets, horizon, quantiles = self._forecasts.shape
        if targets == 1:
            predictions = self._forecasts.reshape(windows, horizon, quantiles)
        else:
            predictions = np.ascontiguousarray(self._forecasts.transpose(0, 2, 1, 3))
        (model,) = self.models
        return Prediction(predictions, self.inputs.batched, model)

    # ------------------------------------------------------------ called by the pipeline
    def fill(self, first: int, count: int, inputs: Inputs, row: int) -> None:
        """Copy `count` windows from `first` on into a lane's inputs, from row `row` on."""
        self.inputs.fill(first, count, inputs, row)

    def refuse(self, error: InvalidInputError) -> None:
        """End the call because one of its windows, which were not checked before, must not run."""
        if self.error is None:
            self.error = error
            self.on_done(self)

    def answer(self, first: int, forecasts: Float32, model: str) -> None:
        """Take the forecasts `(count, targets, horizon, quantiles)` of the windows from `first` on, by `model`.

        They must not change afterwards: if they are all of the call, they are not copied.
        """
        if self.error is not None:
            return
        count = len(forecasts)
        if count == self.windows:
            self._forecasts = forecasts
        else:
            if self._forecasts is None:
                self._forecasts = np.empty((self.windows, *forecasts.shape[1:]), np.float32)
            self._forecasts[first : first + count] = forecasts
        self.models.add(model)
        self._left -= count
        if not self._left:
            self.on_done(self)

    def fail(self, index: int, error: InferenceError) -> None:
        """Fail the call because window `index` failed; what comes after that is ignored."""
        if self.error is None:
            self.error = type(error)(f"window {index}: {error}")
            self.error.__cause__ = error
            self.on_done(self)
