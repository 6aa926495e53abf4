"""A rolling-origin backtest with the arithmetic of the data pack's baselines: same origins, same scale, same averages.

Scores are computed for each window, averaged for each series, then over the series of a metric, then over the metrics:
nPL (mean pinball loss over the quantiles, divided by the deviation of the series), nMAE (of the median), cov80
(coverage of the band from 0.1 to 0.9), wQL (weighted quantile loss). This module runs no network; a `Predict` does.
"""

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import pandas as pd

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.fleet import SCORED, TrainingFleet

Predict = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Takes the four inputs by name; returns `(batch, horizon, target, quantile) float32`."""

STRIDE = 60
"""Steps between two origins: 5 hours."""


@dataclass
class Backtest:
    """All windows of one split of one fleet, with the values that followed them."""

    fleet: TrainingFleet
    contract: NetworkContract
    _: KW_ONLY
    split: str = "test"
    stride: int = STRIDE
    machines: Iterable[int] | None = None
    """Positions of the machines to use; all if `None`."""

    scored: dict[str, str] = field(default_factory=dict)
    """The target of each metric that is scored; by default `SCORED`, else all columns with a target."""

    mapping: dict[str, int] = field(default_factory=dict)
    """The id of each server that the model knows."""

    def __post_init__(self) -> None:
        fleet, contract = self.fleet, self.contract
        natural = {c: f for f, c in zip(contract.features, fleet.natural, strict=True) if c is not None}
        scored = self.scored or SCORED.get(fleet.name, natural)
        self.scored = {metric: target for metric, target in scored.items() if target in contract.targets}
        self.features = fleet.stack_features()
        first, last = fleet.splits[self.split]
        first = max(first, contract.context_length)
        machines = list(range(len(fleet.machines))) if self.machines is None else list(self.machines)
        self.windows: list[tuple[int, int]] = []
        """The machine and the origin (a step of the fleet) of each window."""
        for machine in machines:
            seen = np.flatnonzero(~np.isnan(self.features[machine]).all(axis=1))
            end = min(last, int(seen[-1]) + 1) if len(seen) else first
            self.windows += [(machine, o) for o in range(first, end - contract.horizon + 1, self.stride)]

    def make_inputs(self, windows: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        """Return the four inputs of the model for these windows, in raw units; an unknown server has the id 0."""
        contract, fleet = self.contract, self.fleet
        past = np.stack([self.features[m, o - contract.context_length : o] for m, o in windows])
        start = fleet.begin + np.array([o for _, o in windows]) * fleet.step_seconds
        server = np.array([self.mapping.get(fleet.machines[m], 0) for m, _ in windows], np.int32)
        past_cat = np.zeros((len(windows), contract.context_length, 2), np.int32)
        past_cat[..., 0] = server[:, None]
        return {
            "encoder_cont": past.astype(np.float32),
            "encoder_cat": past_cat,
            "decoder_cont": compute_window_calendars(start, contract.horizon, contract.step_seconds),
            "decoder_cat": np.ascontiguousarray(past_cat[:, : contract.horizon]),
        }

    def read_actual(self, windows: list[tuple[int, int]]) -> np.ndarray:
        """Return the values that followed, `(window, horizon, metric) float32`, NaN where missing."""
        columns = [self.fleet.find_column(metric) for metric in self.scored]
        horizon = self.contract.horizon
        return np.stack([self.fleet.values[m, o : o + horizon][:, columns] for m, o in windows])

    def run_forecasts(
        self, predict: Predict, batch: int = 128, alter: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> np.ndarray:
        """Return the forecasts of the scored metrics, `(window, horizon, metric, quantile)`.

        `alter`, if given, changes `encoder_cont` before each run.
        """
        index = [self.contract.targets.index(target) for target in self.scored.values()]
        parts = []
        for i in range(0, len(self.windows), batch):
            feed = self.make_inputs(self.windows[i : i + batch])
            if alter is not None:
                feed["encoder_cont"] = alter(feed["encoder_cont"])
            out = predict(feed)
            parts.append((out if out.ndim == 4 else out[:, :, None])[:, :, index])
        return np.concatenate(parts)

    def score_forecasts(self, forecasts: np.ndarray) -> "BacktestScores":
        """Score the result of `run_forecasts`.

        A window is left out if half of the values that followed, or of its context, are missing, or its series is flat.
        """
        levels = np.array(self.contract.quantiles)
        actual = self.read_actual(self.windows).astype(np.float64)
        error = actual[..., None] - forecasts
        loss = np.maximum(levels * error, (levels - 1) * error).mean(-1)
        low, high = levels.tolist().index(0.1), levels.tolist().index(0.9)
        inside = (actual >= forecasts[..., low]) & (actual <= forecasts[..., high])
        middle = np.abs(error[..., levels.tolist().index(0.5)])
        rows = []
        for j, metric in enumerate(self.scored):
            column = self.fleet.find_column(metric)
            for i, (machine, origin) in enumerate(self.windows):
                series = self.fleet.values[machine, :, column]
                scale = _compute_scale(series)
                past = series[origin - self.contract.context_length : origin]
                known = ~np.isnan(actual[i, :, j])
                if scale is None or known.mean() < 0.5 or np.isnan(past).mean() > 0.5:
                    continue
                rows.append(
                    (self.fleet.machines[machine], metric, i, loss[i, known, j].mean(), scale, int(known.sum()),
                     middle[i, known, j].mean(), inside[i, known, j].mean(), np.abs(actual[i, known, j]).mean())
                )  # fmt: skip
        names = ["machine", "metric", "window", "pl", "scale", "n", "mae", "cov", "level"]
        return BacktestScores(pd.DataFrame(rows, columns=names), loss, self)


@dataclass
class BacktestScores:
    """One row for each window and metric, and the loss `(window, horizon, metric)` from which they are averaged."""

    rows: pd.DataFrame
    loss: np.ndarray
    backtest: Backtest

    def make_table(self) -> pd.DataFrame:
        """Return one row for each metric and, last, `ALL`: nPL, nPL_median, nMAE, cov80, wQL, series, windows."""
        r = self.rows.assign(npl=self.rows.pl / self.rows.scale, nmae=self.rows.mae / self.rows.scale,
                             pln=self.rows.pl * self.rows.n, lvn=self.rows.level * self.rows.n)  # fmt: skip
        series = r.groupby(["metric", "machine"], as_index=False).agg(
            npl=("npl", "mean"), nmae=("nmae", "mean"), cov=("cov", "mean"), pln=("pln", "sum"),
            lvn=("lvn", "sum"), windows=("npl", "size"))  # fmt: skip
        out = series.groupby("metric", as_index=False).agg(
            nPL=("npl", "mean"), nPL_median=("npl", "median"), nMAE=("nmae", "mean"), cov80=("cov", "mean"),
            pln=("pln", "sum"), lvn=("lvn", "sum"), series=("machine", "size"), windows=("windows", "sum"))  # fmt: skip
        out["wQL"] = 2 * out.pln / out.lvn
        out = out[["metric", "nPL", "nPL_median", "nMAE", "cov80", "wQL", "series", "windows"]]
        every = out.drop(columns="metric").mean().to_frame().T.assign(metric="ALL")
        every["series"], every["windows"] = out["series"].sum(), out["windows"].sum()
        return pd.concat([out, every[out.columns]], ignore_index=True)

    def compute_totals(self) -> dict[str, float]:
        """Return the scores of the row `ALL`."""
        last = self.make_table().iloc[-1]
        return {name: round(float(last[name]), 5) for name in ("nPL", "nMAE", "cov80", "wQL")}

    def compute_loss_by_horizon(self) -> np.ndarray:
        """Return the nPL of each step ahead, `(horizon,)`, averaged over the windows of a series, then over series."""
        metrics = list(self.backtest.scored)
        per_row = np.stack([
            self.loss[i, :, metrics.index(metric)] / scale
            for i, metric, scale in zip(self.rows.window, self.rows.metric, self.rows.scale, strict=True)
        ])  # fmt: skip
        key = [self.rows.metric, self.rows.machine]
        frame = pd.DataFrame(per_row).groupby([k.to_numpy() for k in key]).mean()
        return np.asarray(frame.groupby(level=0).mean().mean().to_numpy())


def compute_window_calendars(start: np.ndarray, horizon: int, step_seconds: int) -> np.ndarray:
    """Return the calendars of windows that start at these epoch seconds, `(window, horizon, 4) float32`.

    The columns are those of `streamd.core.calendar`, which needs starts on the grid of the steps; these may be any.
    """
    time = start[:, None] + step_seconds * np.arange(horizon)
    day = 2 * np.pi * (time % 86_400) / 86_400
    week = 2 * np.pi * ((time + 3 * 86_400) % 604_800) / 604_800  # The epoch began on a Thursday.
    return np.stack([np.sin(day), np.cos(day), np.sin(week), np.cos(week)], axis=-1).astype(np.float32)


def _compute_scale(series: np.ndarray) -> float | None:
    """Return the deviation of a whole series, or `None` if it is flat or empty."""
    wide = series.astype(np.float64)
    if np.isnan(wide).all():
        return None
    scale = float(np.nanstd(wide))
    return scale if np.isfinite(scale) and scale >= 1e-6 * max(1.0, float(np.nanmax(np.abs(wide)))) else None
