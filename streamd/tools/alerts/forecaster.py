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
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError
from streamd.tools.fleets.fleet import RecordedFleet

Indices = npt.NDArray[np.intp]

RunNetwork = Callable[[dict[str, npt.NDArray[Any]]], npt.NDArray[Any]]
"""Takes the four inputs by name, each `(batch, ...)`; returns `predictions`."""


@dataclass(frozen=True, slots=True)
class FleetForecasts:
    """Forecasts of n windows."""

    values: Float32
    """`(n, targets, horizon, quantiles)`, the quantiles sorted."""
    is_finite: Flags
    """`(n,)`: whether the daemon would deliver the forecast; one with a value that is not finite counts as failed."""


class FleetForecaster:
    """A fleet in the layout of a model, and the network that forecasts it."""

    def __init__(
        self, fleet: RecordedFleet, contract: ModelContract, run: RunNetwork, server_ids: dict[str, int] | None = None
    ) -> None:
        """Lay the fleet out; raises `ConfigError` if it has not one of the model's features in all of its rows."""
        self.fleet, self.contract = fleet, contract
        self._run = run
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
        predictions = self._run({
            "encoder_cont": self._rows[servers[:, None], origins[:, None] + np.arange(contract.context_length)],
            "encoder_cat": categories,
            "decoder_cont": np.stack([
                _make_calendar(int(step), contract.horizon, contract.step_seconds) for step in steps
            ]),
            "decoder_cat": future,
        })  # fmt: skip
        values = predictions.reshape(len(servers), contract.horizon, len(contract.targets), -1).transpose(0, 2, 1, 3)
        finite = np.asarray(np.isfinite(values).all(axis=(1, 2, 3)))
        return FleetForecasts(np.sort(values, axis=-1).astype(np.float32, copy=False), finite)


@lru_cache(maxsize=4_096)
def _make_calendar(step: int, horizon: int, step_seconds: int) -> Float32:
    """Return the calendar of the steps after `step`; cached, so do not change it."""
    return compute_known_future(step, horizon, step_seconds)
