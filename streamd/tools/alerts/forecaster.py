"""Forecasts a recorded fleet from any origins with an engine version, as the daemon would have done.

An origin is the index of the first step that is not known yet, so the newest row of its window is the one before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.alerts.evaluation import Flags
from streamd.core.arrays import Float32
from streamd.core.calendar import compute_known_future
from streamd.core.contract import MEMORY_INPUT, ModelContract
from streamd.core.errors import ConfigError
from streamd.core.unknown_targets import find_unknown
from streamd.inference.api.memory import compute_series_memory
from streamd.tools.fleets.fleet import RecordedFleet

Indices = npt.NDArray[np.intp]

RunNetwork = Callable[[dict[str, npt.NDArray[Any]]], npt.NDArray[Any]]
"""Takes the inputs by name, each `(batch, ...)`; returns `predictions`."""


@dataclass(frozen=True, slots=True)
class FleetForecasts:
    """Forecasts of n windows."""

    values: Float32
    """`(n, targets, horizon, quantiles)`, the quantiles sorted; NaN for a target without a value in the window."""
    is_finite: Flags
    """`(n,)`: whether the daemon would deliver the forecast; one with another value that is not finite has failed."""


class FleetForecaster:
    """A fleet in the layout of a model, and the network that forecasts it."""

    def __init__(
        self, fleet: RecordedFleet, contract: ModelContract, run: RunNetwork, server_ids: dict[str, int] | None = None
    ) -> None:
        """Lay the fleet out; raises `ConfigError` if it has not one of the model's features in all of its rows."""
        self.fleet, self.contract = fleet, contract
        self._run = run
        self._target_columns = np.array([contract.feature_index[name] for name in contract.targets], np.int64)
        self._ids = np.array([(server_ids or {}).get(name, 0) for name in fleet.servers], np.int32)
        shape = (len(fleet.servers), contract.context_length + fleet.steps, len(contract.features))
        self._rows = np.full(shape, np.nan, np.float32)
        """`(servers, context_length + steps, features)`, missing before the first step, so that all windows fit."""
        columns = [contract.feature_index[name] for name in fleet.features]
        self._rows[:, contract.context_length :, columns] = fleet.series
        self._rows[~np.isfinite(self._rows)] = np.nan
        has_row = np.asarray(np.isfinite(self._rows).any(axis=2))
        if not has_row.any():
            raise ConfigError("the fleet has no row with a value of one of the model's features")
        self.has_row = has_row[:, contract.context_length :]
        """`(servers, steps) bool`: whether the server has a row in the step."""
        counts = np.concatenate([np.zeros((len(has_row), 1), np.int64), np.cumsum(has_row, axis=1)], axis=1)
        self._contexts = counts[:, contract.context_length :] - counts[:, : -contract.context_length]

    def read_series(self, feature: str) -> Float32:
        """Return the values of one feature, `(servers, steps)`, NaN where missing."""
        return self._rows[:, self.contract.context_length :, self.contract.feature_index[feature]]

    def count_contexts(self, servers: Indices, origins: Indices) -> npt.NDArray[np.int64]:
        """Return how many rows the windows of these origins really have, `(n,)`."""
        counts: npt.NDArray[np.int64] = self._contexts[servers, origins]
        return counts

    def forecast(self, servers: Indices, origins: Indices) -> FleetForecasts:
        """Forecast n pairs of a server and an origin."""
        contract = self.contract
        steps = self.fleet.first_step + origins - 1
        categories = np.zeros((len(servers), contract.context_length, 2), np.int32)
        categories[..., 0] = self._ids[servers][:, None]
        future = np.zeros((len(servers), contract.horizon, 2), np.int32)
        future[..., 0] = self._ids[servers][:, None]
        windows = self._rows[servers[:, None], origins[:, None] + np.arange(contract.context_length)]
        predictions = self._run({
            "encoder_cont": windows,
            "encoder_cat": categories,
            "decoder_cont": np.stack([
                _make_calendar(int(step), contract.horizon, contract.step_seconds) for step in steps
            ]),
            "decoder_cat": future,
            **({MEMORY_INPUT: self._make_memory(servers, origins)} if contract.memory_length else {}),
        })  # fmt: skip
        values = predictions.reshape(len(servers), contract.horizon, len(contract.targets), -1).transpose(0, 2, 1, 3)
        unknown = find_unknown(windows, self._target_columns)
        is_finite = (np.isfinite(values).all(axis=(2, 3)) | unknown).all(axis=1)
        values = np.sort(values, axis=-1).astype(np.float32, copy=False)
        values[unknown] = np.nan
        return FleetForecasts(values, np.asarray(is_finite))

    def _make_memory(self, servers: Indices, origins: Indices) -> Float32:
        """Return what the daemon would remember of the servers at these origins, `(n, memory_length, features)`."""
        contract = self.contract
        memory = np.empty((len(servers), *contract.input_shapes[MEMORY_INPUT]), np.float32)
        for server in np.unique(servers).tolist():
            chosen = np.flatnonzero(servers == server)
            memory[chosen] = compute_series_memory(
                self._rows[server, contract.context_length :],
                origins[chosen],
                first_step=self.fleet.first_step,
                period=contract.memory_step_seconds // contract.step_seconds,
                length=contract.memory_length,
            )
        return memory


@lru_cache(maxsize=4_096)
def _make_calendar(step: int, horizon: int, step_seconds: int) -> Float32:
    """Return the calendar of the steps after `step`; cached, so do not change it."""
    return compute_known_future(step, horizon, step_seconds)
