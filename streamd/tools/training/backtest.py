"""A rolling-origin backtest with the arithmetic of the data pack's baselines: same origins, same scale, same averages.

Scores are computed for each window, averaged for each series, then over the series of a metric, then over the metrics:
nPL (mean pinball loss over the quantiles, divided by the deviation of the series), nMAE (of the median), cov80
(coverage of the band from 0.1 to 0.9), wQL (weighted quantile loss). This module runs no network; a `Predict` does.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from streamd.core.contract import MEMORY_INPUT
from streamd.core.memory_means import compute_memory
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.fleet import TrainingFleet
from streamd.tools.training.scores import BacktestScores, ScoredWindows, Window, compute_scale, score_windows

Predict = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Takes the inputs by name; returns `(batch, horizon, target, quantile) float32`."""

Alter = Callable[[np.ndarray, list[Window]], np.ndarray]
"""Takes what a server reported before the origin, `(window, step, feature) float32`, the newest step last, and the
windows; returns it altered, in an array of its own."""

STRIDE = 60
"""Steps between two origins: 5 hours."""


@dataclass
class Backtest:
    """All windows of one split of one fleet that can be scored, with the values that followed them."""

    fleet: TrainingFleet
    contract: NetworkContract
    _: KW_ONLY
    split: str = "test"
    stride: int = STRIDE
    machines: Iterable[int] | None = None
    """Positions of the machines to use; all if `None`."""

    scored: dict[str, str] = field(default_factory=dict)
    """The target of each metric that is scored; by default those of the fleet, else all columns with a target."""

    mapping: dict[str, int] = field(default_factory=dict)
    """The id of each server that the model knows."""

    memory_days: int = 7
    """The days that the memory reaches back, for a contract with a memory; what is older is missing."""

    windows_per_machine: int | None = None
    """About the most windows of one machine; if there are more, they are further apart."""

    def __post_init__(self) -> None:
        fleet, contract = self.fleet, self.contract
        natural = {c: f for f, c in zip(contract.features, fleet.natural, strict=True) if c is not None}
        scored = self.scored or fleet.scored or natural
        self.scored = {metric: target for metric, target in scored.items() if target in contract.targets}
        self.columns = [fleet.find_column(metric) for metric in self.scored]
        self.present = [i for i, column in enumerate(fleet.natural) if column is not None]
        """The positions of the features that the fleet has."""

        self.features = fleet.values[..., [fleet.find_column(fleet.natural[i] or "") for i in self.present]]
        """`(machine, step, feature) float32`, of the features in `present`."""

        self.scales = np.array([[compute_scale(series[:, c]) for c in self.columns] for series in fleet.values])
        """`(machine, metric) float64`: the deviation of each series, NaN if it is flat or empty."""

        candidates = self._list_candidates()
        kept = self._find_scorable(candidates)
        self.windows: list[Window] = [w for w, scorable in zip(candidates, kept, strict=True) if scorable.any()]
        """The machine and the origin (a step of the fleet) of each window."""

        self.scorable = kept[kept.any(axis=1)]
        """`(window, metric) bool`: enough values before and after the origin, and a series that is not flat."""

    def _list_candidates(self) -> list[Window]:
        first, last = self.fleet.splits[self.split]
        machines = range(len(self.fleet.machines)) if self.machines is None else self.machines
        extents = self.fleet.find_extents()
        found: list[Window] = []
        for machine in machines:
            begin, end = extents[machine]
            least = int(begin) + self.contract.context_length - first
            begin = first + max(0, math.ceil(least / self.stride)) * self.stride
            origins = range(begin, min(last, int(end)) - self.contract.horizon + 1, self.stride)
            step = self._choose_step(len(origins))
            found += [(machine, o) for o in origins[machine % step :: step]]
        return found

    def _choose_step(self, count: int) -> int:
        """Return of how many origins one is taken, so that at most `windows_per_machine` of `count` remain.

        It has no large divisor in common with the strides of a day, so that origins visit different times of day;
        machines begin one stride apart, so that together they visit all.
        """
        if self.windows_per_machine is None:
            return 1
        step = max(1, math.ceil(count / self.windows_per_machine))
        strides = self.contract.steps_per_day // math.gcd(self.contract.steps_per_day, self.stride)
        while math.gcd(step, strides) > 2:
            step += 1
        return step

    def _find_scorable(self, windows: list[Window]) -> np.ndarray:
        """Return which metrics of which windows count: at most half of the context and of the horizon is missing."""
        if not windows:
            return np.zeros((0, len(self.columns)), bool)
        machine, origin = np.array(windows, int).reshape(-1, 2).T
        missing = np.isnan(self.fleet.values[..., self.columns]).cumsum(axis=1, dtype=np.int32)
        missing = np.concatenate([np.zeros_like(missing[:, :1]), missing], axis=1)
        context, horizon = self.contract.context_length, self.contract.horizon
        before = missing[machine, origin] - missing[machine, origin - context]
        after = missing[machine, origin + horizon] - missing[machine, origin]
        usable = (after <= 0.5 * horizon) & (before <= 0.5 * context)
        return np.asarray(usable & ~np.isnan(self.scales[machine]))

    def take_windows(self, every: int) -> "Backtest":
        """Return the backtest of each `every`-th window."""
        found = copy.copy(self)
        found.windows, found.scorable = self.windows[::every], self.scorable[::every]
        return found

    def make_inputs(self, windows: list[Window], alter: Alter | None = None) -> dict[str, np.ndarray]:
        """Return the inputs of the model for these windows, in raw units; an unknown server has the id 0.

        `alter`, if given, changes what the server reported, so that context and memory show the same.
        """
        contract, fleet = self.contract, self.fleet
        history = self.read_history(windows)
        if alter is not None:
            history = alter(history, windows)
        machine, origin = np.array(windows, int).reshape(-1, 2).T
        start = fleet.begins[machine] + origin * fleet.step_seconds
        server = np.array([self.mapping.get(fleet.machines[m], 0) for m, _ in windows], np.int32)
        past_cat = np.zeros((len(windows), contract.context_length, 2), np.int32)
        past_cat[..., 0] = server[:, None]
        found = {
            "encoder_cont": np.ascontiguousarray(history[:, -contract.context_length :]),
            "encoder_cat": past_cat,
            "decoder_cont": compute_window_calendars(start, contract.horizon, contract.step_seconds),
            "decoder_cat": np.ascontiguousarray(past_cat[:, : contract.horizon]),
        }
        if contract.memory_length:
            found[MEMORY_INPUT] = self._make_memory(history, start)
        return found

    def read_history(self, windows: list[Window]) -> np.ndarray:
        """Return what the model may know before each origin, `(window, step, feature) float32`, oldest first.

        It has the steps of the context or, for a contract with a memory, as many as the memory needs; what lies before
        the fleet's first step is missing.
        """
        machine, origin = np.array(windows, int).reshape(-1, 2).T
        steps = origin[:, None] + np.arange(-self._history_length, 0)
        rows = self.features[machine[:, None], steps.clip(min=0)]
        rows[steps < 0] = np.nan
        found = np.full((*steps.shape, len(self.contract.features)), np.nan, np.float32)
        found[..., self.present] = rows
        return found

    @property
    def _history_length(self) -> int:
        contract = self.contract
        period = contract.memory_step_seconds // contract.step_seconds
        return max(contract.context_length, (contract.memory_length + 1) * period if contract.memory_length else 0)

    def _make_memory(self, history: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return `memory_cont`; it is missing if a step of the fleet is no step of the contract."""
        contract = self.contract
        length, period = contract.memory_length, contract.memory_step_seconds // contract.step_seconds
        memory = np.full((len(history), length, history.shape[-1]), np.nan, np.float32)
        kept = min(length, self.memory_days * 86_400 // contract.memory_step_seconds)
        if self.fleet.step_seconds == contract.step_seconds and kept:
            phase = start // contract.step_seconds % period
            part = compute_memory(history[..., self.present], phase, length, period)
            memory[:, length - kept :, self.present] = part[:, length - kept :]
        return memory

    def read_actual(self, windows: list[Window]) -> np.ndarray:
        """Return the values that followed, `(window, horizon, metric) float32`, NaN where missing."""
        machine, origin = np.array(windows, int).reshape(-1, 2).T
        steps = origin[:, None] + np.arange(self.contract.horizon)
        return np.asarray(self.fleet.values[machine[:, None], steps][..., self.columns])

    def run_forecasts(self, predict: Predict, batch: int = 128, alter: Alter | None = None) -> np.ndarray:
        """Return the forecasts of the scored metrics, `(window, horizon, metric, quantile)`.

        `alter`, if given, changes what the servers reported before each origin.
        """
        index = [self.contract.targets.index(target) for target in self.scored.values()]
        parts = []
        for i in range(0, len(self.windows), batch):
            out = predict(self.make_inputs(self.windows[i : i + batch], alter))
            parts.append((out if out.ndim == 4 else out[:, :, None])[:, :, index])
        return np.concatenate(parts)

    def score_forecasts(self, forecasts: np.ndarray, actual: np.ndarray | None = None) -> BacktestScores:
        """Score the result of `run_forecasts`.

        A window is left out if half of the values that followed, or of its context, are missing, or its series is flat.
        `actual`, if given, takes the place of the values that followed.
        """
        following = self.read_actual(self.windows) if actual is None else actual
        return score_windows(self.describe_windows(), forecasts, following, self.contract.quantiles)

    def describe_windows(self) -> ScoredWindows:
        """Return the windows as scoring needs them."""
        machine = np.array([m for m, _ in self.windows], int)
        return ScoredWindows(
            machine=machine,
            machines=len(self.fleet.machines),
            metrics=list(self.scored),
            scales=self.scales[machine],
            counts=self.scorable,
        )


def compute_window_calendars(start: np.ndarray, horizon: int, step_seconds: int) -> np.ndarray:
    """Return the calendars of windows that start at these epoch seconds, `(window, horizon, 4) float32`.

    The columns are those of `streamd.core.calendar`, which needs starts on the grid of the steps; these may be any.
    """
    time = start[:, None] + step_seconds * np.arange(horizon)
    day = 2 * np.pi * (time % 86_400) / 86_400
    week = 2 * np.pi * ((time + 3 * 86_400) % 604_800) / 604_800  # The epoch began on a Thursday.
    return np.stack([np.sin(day), np.cos(day), np.sin(week), np.cos(week)], axis=-1).astype(np.float32)
