"""`streamd evaluate`: a rolling-origin backtest of an engine version or a training run, next to the baselines.

Any fleet file goes: a set of the data pack by name, or a .csv, .csv.gz or .parquet table with a server, a time and one
column a metric (features by their own names, or mapped with --map).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.backtest import STRIDE, Backtest, BacktestScores, Predict
from streamd.tools.training.baselines import make_baseline_forecasts
from streamd.tools.training.checks import measure_constant_error, measure_hardship
from streamd.tools.training.fleet import DATASET_FILES, DataError, TrainingFleet, load_fleet, read_training_fleet
from streamd.tools.training.predictors import make_onnx_predictor, make_torch_predictor
from streamd.tools.training.release import load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--model", type=Path, required=True, help="engine version's folder, .onnx file or run folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data pack, or a fleet file")
    parser.add_argument(
        "--dataset", action="append", choices=sorted(DATASET_FILES), help="sets of the pack (default: all)"
    )
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="default: test")
    parser.add_argument("--map", action="append", default=[], metavar="FEATURE=COLUMN", help="for a fleet file")
    parser.add_argument("--stride", type=int, default=STRIDE, help="steps between origins (default: 60, 5 hours)")
    parser.add_argument("--machines", help="comma-separated names to score (default: all)")
    parser.add_argument("--output", type=Path, help="folder for evaluation.json and one picture a fleet")
    parser.add_argument("--hardship", action="store_true", help="also missing rows and features, short contexts")
    parser.add_argument("--threads", type=int, default=0, help="ONNX Runtime's threads (default: its own choice)")


def main(args: argparse.Namespace) -> int:
    """Run the backtest, print the tables, write what `--output` asks for; returns the exit status."""
    contract, predict, label = open_model(args.model, args.threads)
    if args.data.is_file():
        mapping = dict(m.split("=", 1) for m in args.map)
        fleets = [read_training_fleet(args.data, contract.features, mapping, contract.step_seconds)]
    else:
        fleets = [load_fleet(args.data, name) for name in args.dataset or sorted(DATASET_FILES)]
    results: dict[str, Any] = {"model": label, "split": args.split, "stride": args.stride, "fleets": {}}
    for fleet in fleets:
        results["fleets"][fleet.name] = evaluate(fleet, contract, predict, label, args)
    results["constants"] = measure_constant_error(contract, predict)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "evaluation.json").write_text(json.dumps(results, indent=1) + "\n")
        print(f"wrote {args.output / 'evaluation.json'} and a picture of each fleet")
    return 0


def evaluate(
    fleet: TrainingFleet, contract: NetworkContract, predict: Predict, label: str, args: argparse.Namespace
) -> dict[str, Any]:
    """Score one fleet, print its tables, draw its picture; returns what goes into the JSON."""
    names = args.machines.split(",") if args.machines else fleet.machines
    if unknown := sorted(set(names) - set(fleet.machines)):
        raise DataError(f"{fleet.name}: no machines {unknown}; it has {fleet.machines}")
    chosen = [fleet.machines.index(n) for n in names]
    backtest = Backtest(fleet, contract, args.split, args.stride, chosen)
    if not backtest.windows:
        raise DataError(f"{fleet.name}: no window's horizon fits into its {args.split} split")
    forecasts = backtest.forecasts(predict)
    scores = {label: backtest.score(forecasts)}
    scores |= {name: backtest.score(f) for name, f in make_baseline_forecasts(backtest).items()}
    found = summarise(fleet.name, scores)
    if args.hardship:
        found["hardship"] = measure_hardship(backtest, predict)
        ratios = {k: v for k, v in found["hardship"].items() if k != "nPL"}
        print("\nnPL under hardship, as a multiple: " + "  ".join(f"{k} {v:.2f}" for k, v in ratios.items()))
    if args.output is not None:
        from streamd.tools.training.picture import draw_backtest

        args.output.mkdir(parents=True, exist_ok=True)
        title = f"{label} on {fleet.name}, {args.split} days, {len(backtest.windows)} windows"
        draw_backtest(args.output / f"{fleet.name}.png", title, scores, forecasts, label)
    return found


def summarise(fleet: str, scores: dict[str, BacktestScores]) -> dict[str, Any]:
    """Print the comparison and the model's table by target, and return both with the loss by horizon."""
    label = next(iter(scores))
    totals = {name: score.total() for name, score in scores.items()}
    print(f"\n{fleet}\n{'':<44}{'nPL':>9}{'nMAE':>9}{'cov80':>9}{'wQL':>9}")
    for name, t in sorted(totals.items(), key=lambda item: item[1]["nPL"]):
        mark = "*" if name == label else " "
        print(f"{mark} {name:<42}{t['nPL']:>9.4f}{t['nMAE']:>9.3f}{t['cov80']:>9.3f}{t['wQL']:>9.3f}")
    table = scores[label].table()
    print("\n" + table.round(4).to_string(index=False))
    curve = scores[label].by_horizon()
    hour = 3600 // scores[label].backtest.contract.step_seconds
    hourly = [round(float(curve[i : i + hour].mean()), 5) for i in range(0, len(curve), hour)]
    print("\nnPL by hour ahead: " + "  ".join(f"{v:.3f}" for v in hourly))
    return {"totals": totals, "by_metric": table.round(5).to_dict("records"), "by_hour_ahead": hourly}


def open_model(path: Path, threads: int = 0) -> tuple[NetworkContract, Predict, str]:
    """An engine version, a bare ONNX file beside its `config.json`, or a training run's folder."""
    folder = path.parent if path.suffix == ".onnx" else path
    if (folder / "config.json").exists():
        manifest = json.loads((folder / "config.json").read_text())
        contract = NetworkContract(
            tuple(manifest["features"]), tuple(manifest["targets"]), tuple(manifest["quantiles"]),
            manifest["context_length"], manifest["horizon"], manifest["step_seconds"],
        )  # fmt: skip
        file = path if path.suffix == ".onnx" else path / "model.onnx"
        return contract, make_onnx_predictor(file, threads), manifest["name"]
    if (path / "weights.safetensors").exists():
        contract = NetworkContract()
        return contract, make_torch_predictor(load_run(path, contract), torch.device("cpu")), path.name
    raise DataError(f"{path}: neither an engine version (config.json, model.onnx) nor a run (weights.safetensors)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
