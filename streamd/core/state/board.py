"""The latest forecast of every server, by slot, for subscribers, callers and a restart. Touches arrays only.

Each posted forecast gets the next serial number. A reader resumes after the last serial that it read.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Numbers
from streamd.core.contract import ModelContract
from streamd.core.state.forecast_seals import MAX_MODEL_BYTES, Sums, compute_checks, compute_forecast_seals, hash_model
from streamd.core.state.layout import Column, NamedArrays, make_scalar_view
from streamd.core.state.slot_ranges import make_slot_index
from streamd.core.state.window_columns import NO_STEP

BOARD_LAYOUT = 2
"""The number of the board's layout in the identity of its file. Layout 1 had other seals."""

CHECKED_AT_ONCE = 256
"""Forecasts that are read at once when all are checked at start: a few megabytes."""

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
        Column("seal", "<u8"),  # checksum of all the others, and of the server
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


class ForecastBoard:
    """The latest forecasts, over arrays that survive the process.

    `seeds (capacity,)` has a number of each slot's server, which its forecast is sealed with; its owner changes it.
    """

    def __init__(self, arrays: NamedArrays, seeds: npt.NDArray[np.uint32] | None = None) -> None:
        self._arrays = arrays
        self._seeds = np.zeros(len(arrays["serial"]), np.uint32) if seeds is None else seeds
        self._serial = make_scalar_view(arrays["serial"])
        self._step = make_scalar_view(arrays["step"])
        self._context = make_scalar_view(arrays["context"])
        self._model = arrays["model"]
        self._values = arrays["values"]
        self._flat_values = self._values.reshape(len(self._values), -1)
        self.unreadable = 0
        """Forecasts whose stored numbers were impossible (a damaged file); they were removed."""
        serials = np.asarray(arrays["serial"])
        for slot in np.flatnonzero((serials > MAX_SERIAL) | (serials < -MAX_SERIAL)).tolist():
            self._serial[slot] = 0
            self.unreadable += 1
        # A forecast that was taken down counts too: a reader may have its serial, so no other forecast may get it.
        self.last_serial = int(np.abs(arrays["serial"]).max(initial=0))

    def post_many(
        self,
        slots: Numbers,
        steps: Numbers,
        contexts: Numbers,
        model: bytes,
        values: Float32,
        checks: Sums,
        serials: Numbers | None = None,
    ) -> Numbers:
        """Store the forecasts of distinct slots, in order; returns their serials, `(n,)`.

        `values (n, targets, horizon, quantiles)` are from one `model`, and `checks (n,)` are of `compute_checks`.
        `serials (n,)` are those of forecasts that other nodes have posted before; without them they get the next ones.
        """
        arrays, index = self._arrays, make_slot_index(slots)
        last_serial = self.last_serial
        if serials is None:
            last_serial += len(slots)
            serials = np.arange(self.last_serial + 1, last_serial + 1)
        else:
            last_serial = max(last_serial, int(serials.max(initial=0)))
        # The old forecasts are taken down first: if the process is killed in between, the slots have no forecasts, and
        # their rows are run again.
        arrays["serial"][index] = -np.abs(arrays["serial"][index])
        arrays["step"][index] = steps
        arrays["context"][index] = contexts
        self._model[index] = model
        self._flat_values[index] = values.reshape(len(slots), -1)
        arrays["seal"][index] = compute_forecast_seals(
            serials=serials,
            steps=steps,
            contexts=contexts,
            models=np.array([hash_model(model)]),
            seeds=self._seeds[index],
            checks=checks,
        )
        arrays["serial"][index] = serials
        self.last_serial = last_serial
        return serials

    def skip_serials(self, last_serial: int, slot: int) -> None:
        """Give no forecast a serial up to this one: readers have them from another board.

        It is recorded in a slot that has no forecast yet, as if one had been taken down.
        """
        if last_serial > self.last_serial and not self._serial[slot]:
            self._serial[slot] = -last_serial
            self.last_serial = last_serial

    def raise_serials(self, last_serial: int) -> None:
        """Let the next forecast get a serial above this one: in a cluster, serials are the time of its log."""
        self.last_serial = max(self.last_serial, last_serial)

    def post(self, slot: int, step: int, context: int, model: bytes, values: Float32) -> int:
        """Store a slot's forecast, `values (targets, horizon, quantiles)`; returns its serial."""
        slots, steps, contexts = (np.array([number], np.int64) for number in (slot, step, context))
        values = np.ascontiguousarray(values, np.float32)[None]
        return int(self.post_many(slots, steps, contexts, model, values, compute_checks(values))[0])

    def drop_impossible(self, slots: Numbers, newest: Numbers, context_length: int) -> None:
        """Take down the forecasts of slots that are not what was posted.

        The same if one cannot come from its window, whose newest step is in `newest (n,)`.
        """
        has_forecast = self._arrays["serial"][slots] > 0
        slots, newest = slots[has_forecast], newest[has_forecast]
        for begin in range(0, len(slots), CHECKED_AT_ONCE):
            some = slice(begin, begin + CHECKED_AT_ONCE)
            for slot in slots[some][~self._find_sound(slots[some], newest[some], context_length)].tolist():
                self.take_down(slot)
                self.unreadable += 1

    def _find_sound(self, slots: Numbers, newest: Numbers, context_length: int) -> npt.NDArray[np.bool_]:
        """Return which of the forecasts of slots are possible, and have the seals of what they are."""
        steps, contexts = self._arrays["step"][slots], self._arrays["context"][slots]
        models = self._model[slots].tolist()
        is_ascii = np.array([model.isascii() for model in models], np.bool_)
        is_plausible = (steps >= 0) & (steps <= newest) & (contexts > 0) & (contexts <= context_length) & is_ascii
        seals = compute_forecast_seals(
            serials=self._arrays["serial"][slots],
            steps=steps,
            contexts=contexts,
            models=np.array([hash_model(model) for model in models], np.int64),
            seeds=self._seeds[slots],
            checks=compute_checks(self._values[slots]),
        )
        sound: npt.NDArray[np.bool_] = is_plausible & (seals == self._arrays["seal"][slots])
        return sound

    def get_contexts(self, slots: Numbers) -> Numbers:
        """Return the number of rows that the newest forecasts of slots were made from, `(n,)`."""
        contexts: Numbers = self._arrays["context"][slots].astype(np.int64)
        return contexts

    def get_steps(self, slots: Numbers) -> Numbers:
        """Return the step of the newest row that was forecast of each slot, or `NO_STEP`, `(n,)`."""
        steps: Numbers = self._arrays["step"][slots]
        steps[self._arrays["serial"][slots] <= 0] = NO_STEP
        return steps

    def get_serials(self, slots: Numbers) -> Numbers:
        """Return the serial of each slot's latest forecast, 0 if it has none, `(n,)`."""
        return np.maximum(self._arrays["serial"][slots], 0)

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

    def read_sources(self, slots: Numbers) -> tuple[Numbers, npt.NDArray[np.int32], str | list[str]]:
        """Return the steps, contexts and models of the forecasts of some slots, `(n,)`; each must have one.

        The models are one name if one version made all of them: always, except just after a change of versions. If
        another process posts: what is read between two equal results of `get_serials` belongs to those forecasts.
        """
        models = self._model[slots]
        words = models.view(np.uint64).reshape(len(slots), -1)  # compared in a tenth of the time that bytes take
        is_one = bool((words == words[:1]).all())
        names = [model.decode(errors="replace") for model in models[: 1 if is_one else None].tolist()]
        return self._arrays["step"][slots], self._arrays["context"][slots], names[0] if is_one else names

    @property
    def values(self) -> Float32:
        """The forecasts of all slots, `(slots, targets, horizon, quantiles)`: a view, only to be read."""
        return self._values

    def get_serial(self, slot: int) -> int:
        """Return the serial of a slot's latest forecast; 0 if it has no forecast."""
        return max(int(self._serial[slot]), 0)

    def find_lowest_serial(self, slots: Numbers) -> int:
        """Return the lowest serial of these slots, 0 if one has no forecast; without slots, the next serial."""
        return int(self.get_serials(slots).min(initial=self.last_serial + 1))

    def find_later_than(self, serial: int) -> Numbers:
        """Return the slots whose latest forecast was published after `serial`, in the order of posting.

        All that have one, if no serial is so high: then it is one of another board, such as a state that was removed.
        """
        serials = np.array(self._arrays["serial"])
        is_later = (serials > self.limit_serial(serial)) & (serials <= self.last_serial)
        return _sort_slots(np.flatnonzero(is_later), serials)

    def limit_serial(self, serial: int) -> int:
        """Return the serial that a reader has read up to; 0 if it is one of another board, since none is so high."""
        if serial > self.last_serial and serial > int(np.abs(self._arrays["serial"]).max(initial=0)):
            return 0
        return max(serial, 0)

    # ------------------------------------------------------------ posted by another process
    def publish_up_to(self, slots: Numbers, last_serial: int) -> Numbers:
        """Take over that another process published the forecasts of these slots, and all up to `last_serial`.

        Returns the slots whose forecasts were not published here before. Readers get no forecast above `last_serial`:
        it is published later, and they would get it twice.
        """
        serials = self.get_serials(slots)
        fresh: Numbers = slots[(serials == 0) | (serials > self.last_serial)]
        self.last_serial = max(self.last_serial, last_serial)
        return fresh

    def find_unpublished(self, last_serial: int) -> Numbers:
        """Return the slots with forecasts up to `last_serial` that another process posted, and did not publish here."""
        serials = np.array(self._arrays["serial"])
        return _sort_slots(np.flatnonzero((serials > self.last_serial) & (serials <= last_serial)), serials)

    def find_published(self, serials: Numbers) -> npt.NDArray[np.bool_]:
        """Return which serials are those of forecasts that were published, `(n,)`."""
        published: npt.NDArray[np.bool_] = (serials > 0) & (serials <= self.last_serial)
        return published

    def take_down(self, slot: int) -> None:
        """Remove a slot's forecast, for example because its server was forgotten."""
        self._serial[slot] = -abs(self._serial[slot])


def _sort_slots(slots: Numbers, serials: Numbers) -> Numbers:
    """Return slots in the order in which their forecasts were posted."""
    found: Numbers = slots[np.argsort(serials[slots])]
    return found
