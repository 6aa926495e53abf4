"""The part of each forecast that is exported as metrics: servers, targets, quantiles, and how far ahead.

Bound to a contract once; reads no forecast by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.contract import ModelContract
from streamd.core.durations import parse_duration
from streamd.core.errors import ConfigError, InvalidSelectionError
from streamd.core.recent_values import count_recent_rows
from streamd.core.selection import ServerGlobs, make_forecast_slice
from streamd.core.unknown_targets import read_unknown


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The settings of the section `forecast_metrics`."""

    servers: tuple[str, ...] = ()
    """Globs; empty if no forecast is exported."""
    targets: tuple[str, ...] = ()
    """Empty for all."""
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    horizons: tuple[str, ...] = ("30m", "1h", "4h", "8h")
    max_series: int = 100_000
    max_age_steps: int = 12
    """An older forecast is left out; 0: none is."""


@dataclass(frozen=True, kw_only=True)
class ExportCell:
    """One series of each server: the labels, and where its value stands in a forecast."""

    target: str
    horizon: str
    quantile: str


class ForecastExport:
    """The settings of the export, bound to a contract.

    A horizon names the step that ends so long after the origin; within a step, the step that is not over then. The
    horizons that lie beyond those of the model are in `beyond`, and are left out. Raises `ConfigError` for a target or
    quantile that the model lacks, a horizon that is no duration, and if no horizon is left.
    """

    def __init__(self, settings: ExportSettings, contract: ModelContract) -> None:
        self.globs = _make_globs(settings.servers)
        self.max_series = settings.max_series
        self.max_age_seconds = settings.max_age_steps * contract.step_seconds or float("inf")
        """How far an origin may lie behind the clock."""
        self._contract = contract
        targets, quantiles = _find_parts(settings, contract)
        steps = {horizon: _find_step(horizon, contract) for horizon in settings.horizons}
        self.beyond = tuple(horizon for horizon, step in steps.items() if step >= contract.horizon)
        horizons = {horizon: step for horizon, step in steps.items() if step < contract.horizon}
        if not horizons:
            raise ConfigError(
                f"[forecast_metrics] forecast_horizons: {list(settings.horizons)}, expected one at least within "
                f"{contract.horizon * contract.step_seconds} s, which the model forecasts"
            )
        self._targets, self._quantiles = np.array(targets), np.array(quantiles)
        self._steps, self._all_steps = np.array(list(horizons.values())), np.arange(contract.horizon)
        self.target_names = tuple(contract.targets[place] for place in targets)
        self.quantile_labels = tuple(f"{contract.quantiles[place]:g}" for place in quantiles)
        self.cells = tuple(
            ExportCell(target=target, horizon=horizon, quantile=quantile)
            for target, horizon, quantile in product(self.target_names, horizons, self.quantile_labels)
        )
        """The series of one server, in the order of what `cut` returns."""

    def cut(self, values: Float32, slots: Slots) -> Float32:
        """Return `(n, cells)` of `values (slots, targets, horizon, quantiles)`: a copy."""
        chosen = values[np.ix_(slots, self._targets, self._steps, self._quantiles)]
        cells: Float32 = chosen.reshape(len(slots), len(self.cells))
        return cells

    def cut_curves(self, values: Float32, slots: Slots) -> Float32:
        """Return `(n, targets, quantiles, horizon)` of those of `values` that are chosen: a copy."""
        curves = values[np.ix_(slots, self._targets, self._all_steps, self._quantiles)]
        return np.ascontiguousarray(curves.transpose(0, 1, 3, 2))

    def find_sent_targets(self, values: Float32, newest: Numbers, slots: Slots) -> npt.NDArray[np.bool_]:
        """Return for each slot which of the chosen targets had a value lately, `(n, targets)`.

        `values (slots, context_length, features)` are the rings of the windows, `newest (slots,)` their newest steps.
        The model forecasts a feature that no agent sends any more too; such a number must not become a metric.
        """
        length = self._contract.context_length
        rows = np.arange(count_recent_rows(length))
        places = (newest[slots][:, None] - rows) % length
        columns = [self._contract.feature_index[name] for name in self.target_names]
        recent = values[slots[:, None, None], places[:, :, None], columns]
        is_sent: npt.NDArray[np.bool_] = np.logical_or.reduce(~np.isnan(recent), axis=1)
        return is_sent

    def find_known_targets(self, values: Float32, slots: Slots) -> npt.NDArray[np.bool_]:
        """Return for each slot which of the chosen targets are known in its forecast, `(n, targets)`.

        `values (slots, targets, horizon, quantiles)` are the forecasts of all slots.
        """
        return ~read_unknown(values[slots[:, None], self._targets, :1, :1])  # no more of them is copied

    @property
    def cells_per_target(self) -> int:
        """The number of cells of one target, which stand side by side."""
        return len(self.cells) // len(self.target_names)


def _make_globs(servers: Sequence[str]) -> ServerGlobs:
    try:
        return ServerGlobs(servers)
    except InvalidSelectionError as exc:
        raise ConfigError(f"[forecast_metrics] forecast_servers: {exc}") from exc


def _find_parts(settings: ExportSettings, contract: ModelContract) -> tuple[tuple[int, ...], tuple[int, ...]]:
    try:
        part = make_forecast_slice(contract, settings.targets or None, settings.quantiles)
    except InvalidSelectionError as exc:
        raise ConfigError(f"[forecast_metrics] forecast_{exc}") from exc
    return part.targets, part.quantiles


def _find_step(horizon: str, contract: ModelContract) -> int:
    """Return the index of the step that is over `horizon` after the origin, or is not over before."""
    seconds = parse_duration(horizon)
    if seconds is None:
        raise ConfigError(
            f"[forecast_metrics] forecast_horizons: {horizon[:80]!r}, expected a duration such as 30m, 4h or 90s"
        )
    return -int(-seconds // contract.step_seconds) - 1
