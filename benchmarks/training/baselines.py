"""Scores the simple forecasters on every data set, on validation and test days, and for short contexts.

    .venv/bin/python -m benchmarks.training.baselines --data DATA --output baselines.json

An hourly set is scored twice: at its own step, where a day is 24 steps, and as five-minute steps made of it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.backtest import STRIDE, Backtest
from streamd.tools.training.baselines import make_baseline_forecasts
from streamd.tools.training.fleet import TrainingFleet, list_datasets, load_fleet
from streamd.tools.training.hours import HOURLY_STEP_SECONDS, refine_fleet
from streamd.tools.training.scores import BacktestScores

ROWS = (12, 24, 48, 96, 144, 288)
SEVEN_DAYS = "timeofday7d_q"


def main() -> int:
    """Score all sets of a folder, print a line for each and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data pack")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for name in list_datasets(args.data):
        fleet = load_fleet(args.data, name)
        forms = [fleet, refine_fleet(fleet)] if fleet.step_seconds == HOURLY_STEP_SECONDS else [fleet]
        for form in forms:
            found[form.name] = {split: score_split(form, split) for split in ("val", "test")}
            for split, scores in found[form.name].items():
                print(f"{form.name:<20} {split:<5}", format_line(scores), flush=True)
            args.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def score_split(fleet: TrainingFleet, split: str) -> dict[str, Any]:
    """Return the scores of all baselines on one split, those of short contexts, and the best of each kind."""
    backtest = Backtest(fleet, NetworkContract(), split=split, stride=choose_stride(fleet, split))
    if not backtest.windows:
        return {"windows": 0}
    scores = {name: backtest.score_forecasts(f) for name, f in make_baseline_forecasts(backtest).items()}
    found: dict[str, Any] = {
        "windows": len(backtest.windows),
        "baselines": {name: describe(score) for name, score in scores.items()},
        "best24": find_best({name: s for name, s in scores.items() if name != SEVEN_DAYS}),
        "best7d": find_best(scores),
        "short": {},
    }
    for rows in ROWS:
        short = make_baseline_forecasts(backtest, rows)
        totals = {n: backtest.score_forecasts(f) for n, f in short.items() if n != SEVEN_DAYS}
        found["short"][rows] = {n: s.compute_totals()["nPL"] for n, s in totals.items()} | {"best": find_best(totals)}
    return found


def choose_stride(fleet: TrainingFleet, split: str) -> int:
    """Return the steps between two origins: 5 hours, and fewer if a split has few windows."""
    first, last = fleet.splits[split]
    return STRIDE if last - first > 2 * 288 else STRIDE // 5


def describe(scores: BacktestScores) -> dict[str, Any]:
    """Return the totals, and the nPL by metric, by quarter of the horizon, and by both."""
    each = scores.loss.transpose(0, 2, 1) / scores.windows.scales[..., None]
    curve = scores.average_metrics(each)
    quarters = np.stack([part.mean(axis=1) for part in np.array_split(curve, 4, axis=1)], axis=1)
    metrics = scores.windows.metrics
    loss = scores.score_metrics()["nPL"]
    return scores.compute_totals() | {
        "by_metric": {m: round(float(v), 5) for m, v in zip(metrics, loss, strict=True)},
        "by_quarter": np.round(np.nanmean(quarters, axis=0), 5).tolist(),
        "by_metric_and_quarter": {m: np.round(q, 5).tolist() for m, q in zip(metrics, quarters, strict=True)},
    }


def find_best(scores: dict[str, BacktestScores]) -> dict[str, Any]:
    """Return the name of the least nPL, and the nPL."""
    totals = {name: s.compute_totals()["nPL"] for name, s in scores.items()}
    name = min(totals, key=lambda n: totals[n])
    return {"name": name, "nPL": totals[name]}


def format_line(scores: dict[str, Any]) -> str:
    """Return the totals of one split as text."""
    if not scores["windows"]:
        return "no window"
    totals = "  ".join(f"{name} {s['nPL']:.4f}" for name, s in scores["baselines"].items())
    return f"{scores['windows']:>5} windows  {totals}"


if __name__ == "__main__":
    raise SystemExit(main())
