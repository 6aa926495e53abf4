"""Windows that stay on a fake device, in numpy: all that the host does for resident windows, without a device."""

from collections.abc import Callable
from typing import Any

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import MAX_STATUS, MEMORY_INPUT, ModelContract
from streamd.core.state.forecast_seals import compute_checks
from streamd.inference.lane import FinishedBatch, Inputs
from streamd.inference.resident import LaneWindows, ResidentStore, Staging


class FakeDeviceWindows:
    """The windows of `capacity` slots on one fake device."""

    def __init__(self, contract: ModelContract, capacity: int) -> None:
        length, features = contract.context_length, len(contract.features)
        self.values = np.full((capacity, length, features), np.nan, np.float32)
        self.marks = np.zeros((capacity, length), np.uint8)
        self.store = ResidentStore(contract, capacity)

    def move(self, staging: Staging, to: Inputs) -> None:
        """Store the new rows of a batch and gather its windows into the first rows of `to`."""
        rows, count = staging.rows, staging.count
        length, features = self.values.shape[1:]
        positions = staging.positions[:rows]
        self.values.reshape(-1, features)[positions] = staging.values[:rows]
        self.marks.reshape(-1)[positions] = staging.marks[:rows]
        places = (staging.starts[:count, None] + np.arange(length)) % length
        slots = staging.slots[:count, None]
        statuses = self.marks[slots, places] & MAX_STATUS
        to.encoder_cont[:count] = self.values[slots, places]
        to.encoder_cat[:count, :, 1] = statuses
        to.decoder_cat[:count, :, 1] = statuses[:, -1:]
        for categories in (to.encoder_cat, to.decoder_cat):
            categories[:count, :, 0] = staging.servers[:count, None]
        to.decoder_cont[:count] = staging.calendars[staging.calendar_of[:count]]


class FakeResident:
    """The windows of a fake device as one lane uses them; `run_inputs` runs the first windows of inputs."""

    def __init__(
        self, windows: FakeDeviceWindows, own: Inputs, device: Inputs, run_inputs: Callable[[Inputs, int], Float32]
    ) -> None:
        self.inputs = device
        """What the network reads on the device."""
        self._own = own
        self._run_inputs = run_inputs
        self._store = windows.store
        lane = LaneWindows(windows.store, Staging(own, np.zeros), lambda staging: windows.move(staging, device))
        self._enqueue = lane.enqueue
        self.stage = lane.stage
        self.describe: Callable[[], dict[str, Any]] = lane.describe

    def run(self, count: int) -> FinishedBatch:
        """Run the staged windows and the callers' behind them."""
        staged = self._enqueue()
        given = self._own.view_first(count)
        for name, buffer in self.inputs.view_first(count).items():
            first = 0 if name == MEMORY_INPUT else staged  # a device keeps windows, and no memory
            buffer[first:] = given[name][first:]
        made = self._run_inputs(self.inputs, count).transpose(0, 2, 1, 3)
        forecasts = np.sort(made, axis=-1)
        bad_rows = np.flatnonzero(~np.isfinite(forecasts).all(axis=(1, 2, 3)))
        return FinishedBatch(forecasts, tuple(bad_rows.tolist()), compute_checks(forecasts))

    def close(self) -> None:
        """Move what is staged, as the lanes of a device do."""
        self._store.drain()
