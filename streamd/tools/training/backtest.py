"""Rolling-origin backtest with the baselines' own arithmetic: same origins, same scale, same averages.

Scores are taken per window, averaged per series, then over the series of a metric, then over the metrics:
nPL (mean pinball over the quantiles / series deviation), nMAE (of the median), cov80, wQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.fleet import SCORED, TrainingFleet

Predict = Callable[[dict[str, np.ndarray]], np.ndarray]
"""The four inputs by name, to (batch, horizon, target, quantile) float32."""
STRIDE = 60


@dataclass
class Backtest:
    """All windows of one split of one fleet: which metric stands in which target, and what came after.

    scored: metric to target; machines: positions to keep (None: all)
    """

    fleet: TrainingFleet
    contract: NetworkContract
    split: str = "test"
    stride: int = STRIDE
    machines: Iterable[int] | None = None
    scored: dict[str, str] = field(default_factory=dict)
    mapping: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fleet, contract = self.fleet, self.contract
        natural = {c: f for f, c in zip(contract.features, fleet.natural, strict=True) if c is not None}
        scored = self.scored or SCORED.get(fleet.name, natural)
        self.scored = {metric: target for metric, target in scored.items() if target in contract.targets}
        self.features = fleet.features()
        first, last = fleet.splits[self.split]
        first = max(first, contract.context_length)
        keep = list(range(len(fleet.machines))) if self.machines is None else list(self.machines)
        self.windows: list[tuple[int, int]] = []
        for machine in keep:
            seen = np.flatnonzero(~np.isnan(self.features[machine]).all(axis=1))
            end = min(last, int(seen[-1]) + 1) if len(seen) else first
            self.windows += [(machine, o) for o in range(first, end - contract.horizon + 1, self.stride)]

    def inputs(self, windows: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        """The model's four inputs for these windows, raw units; a server that `mapping` lacks has id 0."""
        contract, fleet = self.contract, self.fleet
        past = np.stack([self.features[m, o - contract.context_length : o] for m, o in windows])
        start = fleet.begin + np.array([o for _, o in windows]) * fleet.step_seconds
        server = np.array([self.mapping.get(fleet.machines[m], 0) for m, _ in windows], np.int32)
        past_cat = np.zeros((len(windows), contract.context_length, 2), np.int32)
        past_cat[..., 0] = server[:, None]
        return {
            "encoder_cont": past.astype(np.float32),
            "encoder_cat": past_cat,
            "decoder_cont": calendar(start, contract.horizon, contract.step_seconds),
            "decoder_cat": np.ascontiguousarray(past_cat[:, : contract.horizon]),
        }

    def actual(self, windows: list[tuple[int, int]]) -> np.ndarray:
        """(window, horizon, metric) float32 of the scored metrics, NaN where missing."""
        columns = [self.fleet.column(metric) for metric in self.scored]
        horizon = self.contract.horizon
        return np.stack([self.fleet.values[m, o : o + horizon][:, columns] for m, o in windows])

    def forecasts(
        self, predict: Predict, batch: int = 128, alter: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> np.ndarray:
        """(window, horizon, metric, quantile) of the scored metrics; `alter` changes `encoder_cont` first."""
        index = [self.contract.targets.index(target) for target in self.scored.values()]
        parts = []
        for i in range(0, len(self.windows), batch):
            feed = self.inputs(self.windows[i : i + batch])
            if alter is not None:
                feed["encoder_cont"] = alter(feed["encoder_cont"])
            out = predict(feed)
            parts.append((out if out.ndim == 4 else out[:, :, None])[:, :, index])
        return np.concatenate(parts)

    def score(self, forecasts: np.ndarray) -> BacktestScores:
        """Score what `forecasts` gave; windows with too little to see or to score are left out."""
        levels = np.array(self.contract.quantiles)
        actual = self.actual(self.windows).astype(np.float64)
        error = actual[..., None] - forecasts
        loss = np.maximum(levels * error, (levels - 1) * error).mean(-1)
        low, high = levels.tolist().index(0.1), levels.tolist().index(0.9)
        inside = (actual >= forecasts[..., low]) & (actual <= forecasts[..., high])
        middle = np.abs(error[..., levels.tolist().index(0.5)])
        rows = []
        for j, metric in enumerate(self.scored):
            column = self.fleet.column(metric)
            for i, (machine, origin) in enumerate(self.windows):
                series = self.fleet.values[machine, :, column]
                scale = _scale(series)
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
    """One row a window and metric, and the loss (window, horizon, metric) behind them."""

    rows: pd.DataFrame
    loss: np.ndarray
    backtest: Backtest

    def table(self) -> pd.DataFrame:
        """One row a metric and, last, `ALL`: nPL, nPL_median, nMAE, cov80, wQL, series, windows."""
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

    def total(self) -> dict[str, float]:
        """The `ALL` row's figures."""
        last = self.table().iloc[-1]
        return {name: round(float(last[name]), 5) for name in ("nPL", "nMAE", "cov80", "wQL")}

    def by_horizon(self) -> np.ndarray:
        """(horizon,) nPL of each step ahead, averaged over windows per series, then over series."""
        metrics = list(self.backtest.scored)
        per_row = np.stack([
            self.loss[i, :, metrics.index(metric)] / scale
            for i, metric, scale in zip(self.rows.window, self.rows.metric, self.rows.scale, strict=True)
        ])  # fmt: skip
        key = [self.rows.metric, self.rows.machine]
        frame = pd.DataFrame(per_row).groupby([k.to_numpy() for k in key]).mean()
        return np.asarray(frame.groupby(level=0).mean().mean().to_numpy())


def calendar(start: np.ndarray, horizon: int, step_seconds: int) -> np.ndarray:
    """(window, horizon, 4) float32: sine and cosine of the time of day, then of the week from Monday 00:00 UTC."""
    time = start[:, None] + step_seconds * np.arange(horizon)
    day = 2 * np.pi * (time % 86_400) / 86_400
    week = 2 * np.pi * ((time + 3 * 86_400) % 604_800) / 604_800  # the epoch began on a Thursday
    return np.stack([np.sin(day), np.cos(day), np.sin(week), np.cos(week)], axis=-1).astype(np.float32)


def _scale(series: np.ndarray) -> float | None:
    """The deviation of a whole series, None where it is flat and says nothing."""
    wide = series.astype(np.float64)
    if np.isnan(wide).all():
        return None
    scale = float(np.nanstd(wide))
    return scale if np.isfinite(scale) and scale >= 1e-6 * max(1.0, float(np.nanmax(np.abs(wide)))) else None
