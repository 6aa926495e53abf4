"""The latest forecast of every server, by slot: what subscribers and callers read, and what a restart finds.

A forecast's serial grows by one with each that is posted; it is the id by which a reader goes on where it left.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.state.layout import Column, NamedArrays, make_scalar_view
from streamd.core.state.windows import NO_STEP

MAX_MODEL_BYTES = 96
MAX_SERIAL = 2**53
"""No daemon posts so many forecasts; a serial beyond it is damage."""


def make_board_columns(contract: ModelContract) -> tuple[Column, ...]:
    """The arrays of a forecast board."""
    return (
        Column("serial", "<i8"),  # written last; not above 0: no forecast, and the last one's serial as its negative
        Column("step", "<i8"),
        Column("context", "<i4"),
        Column("model", f"S{MAX_MODEL_BYTES}"),
        Column("values", "<f4", contract.forecast_shape),
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """One server's forecast.

    `step` is that of the newest row it saw, `context` the number of rows its window really had, `values
    (targets, horizon, quantiles) float32` in the targets' units. `values` is a view of the board: it is of
    this forecast only until the next of the same slot is posted.
    """

    serial: int
    step: int
    context: int
    model: str
    values: Float32


class ForecastBoard:
    """The latest forecasts, over arrays that survive the process."""

    def __init__(self, arrays: NamedArrays) -> None:
        self._arrays = arrays
        self._serial = make_scalar_view(arrays["serial"])
        self._step = make_scalar_view(arrays["step"])
        self._context = make_scalar_view(arrays["context"])
        self._model = arrays["model"]
        self._values = arrays["values"]
        self.unreadable = 0
        """Forecasts whose stored numbers made no sense (a damaged file); they were taken down."""
        serials = np.asarray(arrays["serial"])
        for slot in np.flatnonzero((serials > MAX_SERIAL) | (serials < -MAX_SERIAL)).tolist():
            self._serial[slot] = 0
            self.unreadable += 1
        # One that was taken down counts too: a reader may have seen it, and no other forecast may have its serial.
        self.last_serial = int(np.abs(arrays["serial"]).max(initial=0))

    def post(self, slot: int, step: int, context: int, model: bytes, values: Float32) -> int:
        """Put up a slot's forecast, `values (targets, horizon, quantiles)`; returns its serial."""
        # Taken down before it is overwritten: whoever is killed in between leaves none, and the row runs again.
        self.take_down(slot)
        self._step[slot] = step
        self._context[slot] = context
        self._model[slot] = model
        self._values[slot] = values
        self.last_serial += 1
        self._serial[slot] = self.last_serial
        return self.last_serial

    def drop_impossible(self, slot: int, newest: int, context_length: int) -> None:
        """Take down a slot's forecast where it cannot be one of a window whose newest step is `newest`."""
        if not self.get_serial(slot):
            return
        step, context, model = int(self._step[slot]), int(self._context[slot]), bytes(self._model[slot])
        if not (0 <= step <= newest and 0 < context <= context_length and model.isascii()):
            self.take_down(slot)
            self.unreadable += 1

    def get_step(self, slot: int) -> int:
        """The step of the newest row that was forecast, or NONE."""
        return int(self._step[slot]) if self._serial[slot] > 0 else NO_STEP

    def get_forecast(self, slot: int) -> Forecast | None:
        """Return a slot's latest forecast; none where there is none yet."""
        serial = self.get_serial(slot)
        if not serial:
            return None
        model = bytes(self._model[slot]).decode()
        return Forecast(serial, int(self._step[slot]), int(self._context[slot]), model, self._values[slot])

    def read_sources(self, slots: Sequence[int]) -> tuple[list[int], list[int], list[str]]:
        """Return the steps, contexts and models of the forecasts of these slots; each must have one."""
        index = list(slots)
        steps: list[int] = self._arrays["step"][index].tolist()
        contexts: list[int] = self._arrays["context"][index].tolist()
        return steps, contexts, [model.decode() for model in self._model[index].tolist()]

    def read_values(self, slots: Sequence[int]) -> Float32:
        """Return a copy of the forecasts of these slots, `(slots, targets, horizon, quantiles)`; each must have one."""
        values: Float32 = self._values[list(slots)]
        return values

    def get_serial(self, slot: int) -> int:
        """The serial of a slot's latest forecast; 0 where there is none."""
        return max(int(self._serial[slot]), 0)

    def find_lowest_serial(self, slots: Collection[int]) -> int:
        """The serial of the forecast of these slots that was posted first; past the last one's where there is none."""
        if not slots:
            return self.last_serial + 1
        return max(int(self._arrays["serial"][list(slots)].min()), 0)

    def find_later_than(self, serial: int) -> list[int]:
        """Return the slots whose latest forecast was posted after `serial`, in the order of posting."""
        serials = self._arrays["serial"]
        slots = np.flatnonzero(serials > max(serial, 0))
        return [int(slot) for slot in slots[np.argsort(serials[slots])]]

    def take_down(self, slot: int) -> None:
        """Take a slot's forecast down (its server was forgotten)."""
        self._serial[slot] = -abs(self._serial[slot])
