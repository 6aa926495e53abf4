"""The latest forecast of every server, by slot, for subscribers, callers and a restart. Touches arrays only.

Each posted forecast gets the next serial number. A reader resumes after the last serial that it read.
"""

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.state.layout import Column, NamedArrays, make_scalar_view
from streamd.core.state.windows import NO_STEP

MAX_MODEL_BYTES = 96
MAX_SERIAL = 2**53
"""No daemon posts so many forecasts; a higher serial is damage."""


def make_board_columns(contract: ModelContract) -> tuple[Column, ...]:
    """Return the columns of a forecast board."""
    return (
        Column("serial", "<i8"),  # written last; if not above 0, there is no forecast, and it is minus the last serial
        Column("step", "<i8"),
        Column("context", "<i4"),
        Column("model", f"S{MAX_MODEL_BYTES}"),
        Column("values", "<f4", contract.forecast_shape),
        Column("seal", "<u4", added=1),  # checksum of all the others, and of the server
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """One server's forecast.

    `step` is the step of the newest row in its window, `context` the number of rows that the window really had.
    `values (targets, horizon, quantiles) float32` are in the targets' units, and a view of the board: they belong to
    this forecast only until the next one of the same slot is posted.
    """

    serial: int
    step: int
    context: int
    model: str
    values: Float32


_SOURCE = struct.Struct(f"<qqi{MAX_MODEL_BYTES}s")
"""Serial, step, context and model of a forecast, as they are sealed."""


class ForecastBoard:
    """The latest forecasts, over arrays that survive the process.

    `seeds` has a number of the server of each slot, which its forecast is sealed with; its owner changes it.
    """

    def __init__(self, arrays: NamedArrays, seeds: Sequence[int] | None = None) -> None:
        self._arrays = arrays
        self._seeds = [0] * len(arrays["serial"]) if seeds is None else seeds
        self._seal = arrays["seal"]
        self._serial = make_scalar_view(arrays["serial"])
        self._step = make_scalar_view(arrays["step"])
        self._context = make_scalar_view(arrays["context"])
        self._model = arrays["model"]
        self._values = arrays["values"]
        self.unreadable = 0
        """Forecasts whose stored numbers were impossible (a damaged file); they were removed."""
        serials = np.asarray(arrays["serial"])
        for slot in np.flatnonzero((serials > MAX_SERIAL) | (serials < -MAX_SERIAL)).tolist():
            self._serial[slot] = 0
            self.unreadable += 1
        # A forecast that was taken down counts too: a reader may have its serial, so no other forecast may get it.
        self.last_serial = int(np.abs(arrays["serial"]).max(initial=0))

    def post(self, slot: int, step: int, context: int, model: bytes, values: Float32) -> int:
        """Store a slot's forecast, `values (targets, horizon, quantiles)`; returns its serial."""
        # The old forecast is taken down first: if the process is killed in between, the slot has no forecast, and its
        # row is run again.
        self.take_down(slot)
        self._step[slot] = step
        self._context[slot] = context
        self._model[slot] = model
        self._values[slot] = values
        self.last_serial += 1
        self._seal[slot] = self._compute_seal(slot, self.last_serial)
        self._serial[slot] = self.last_serial
        return self.last_serial

    def _compute_seal(self, slot: int, serial: int) -> int:
        """Return the seal of what a slot has now: 3 µs for 10 kB of values."""
        source = _SOURCE.pack(serial, self._step[slot], self._context[slot], bytes(self._model[slot]))
        return crc32(self._values[slot], crc32(source, self._seeds[slot]))

    def seal_all(self) -> None:
        """Seal every forecast: they are from a version of streamd that had no seals."""
        for slot in np.flatnonzero(self._arrays["serial"] > 0).tolist():
            self._seal[slot] = self._compute_seal(slot, self.get_serial(slot))

    def drop_impossible(self, slot: int, newest: int, context_length: int) -> None:
        """Take down a slot's forecast if it is not what was posted.

        The same if it cannot come from a window whose newest step is `newest`.
        """
        if not self.get_serial(slot):
            return
        step, context, model = int(self._step[slot]), int(self._context[slot]), bytes(self._model[slot])
        is_plausible = 0 <= step <= newest and 0 < context <= context_length and model.isascii()
        if not is_plausible or self._seal[slot] != self._compute_seal(slot, self.get_serial(slot)):
            self.take_down(slot)
            self.unreadable += 1

    def get_step(self, slot: int) -> int:
        """Return the step of the newest row that was forecast, or `NO_STEP`."""
        return int(self._step[slot]) if self._serial[slot] > 0 else NO_STEP

    def get_forecast(self, slot: int) -> Forecast | None:
        """Return a slot's latest forecast, or None if it has no forecast yet."""
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
        """Return the serial of a slot's latest forecast; 0 if it has no forecast."""
        return max(int(self._serial[slot]), 0)

    def find_lowest_serial(self, slots: Collection[int]) -> int:
        """Return the lowest serial of these slots, 0 if one has no forecast; without slots, the next serial."""
        if not slots:
            return self.last_serial + 1
        return max(int(self._arrays["serial"][list(slots)].min()), 0)

    def find_later_than(self, serial: int) -> list[int]:
        """Return the slots whose latest forecast was posted after `serial`, in the order of posting."""
        serials = self._arrays["serial"]
        slots = np.flatnonzero(serials > max(serial, 0))
        return [int(slot) for slot in slots[np.argsort(serials[slots])]]

    def take_down(self, slot: int) -> None:
        """Remove a slot's forecast, for example because its server was forgotten."""
        self._serial[slot] = -abs(self._serial[slot])
