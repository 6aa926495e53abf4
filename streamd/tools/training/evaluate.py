"""`streamd evaluate`: a rolling-origin backtest of an engine version or a training run, beside the baselines.

The data is a dataset of the data pack by name, or any .csv, .csv.gz or .parquet table with a server, a time and one
column for each metric (features by their own names, or mapped with --map). This module changes no version.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from streamd.core.errors import BuildError
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.weights import WEIGHTS_FILE, load_network
from streamd.tools.training.backtest import STRIDE, Backtest, Predict
from streamd.tools.training.baselines import make_baseline_forecasts
from streamd.tools.training.checks import measure_constant_error
from streamd.tools.training.datasets import DATASETS
from streamd.tools.training.fleet import DataError, TrainingFleet, list_datasets, load_fleet, read_training_fleet
from streamd.tools.training.hardship import Hardship
from streamd.tools.training.hours import HOURLY_STEP_SECONDS, refine_fleet
from streamd.tools.training.predictors import make_onnx_predictor, make_torch_predictor
from streamd.tools.training.scores import BacktestScores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "--model", type=Path, required=True, help="folder of an engine version or of a run, or an .onnx file"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data pack, or a fleet file")
    parser.add_argument(
        "--dataset",
        action="append",
        choices=sorted(DATASETS),
        help="dataset of the data pack [default: all in the folder]",
    )
    parser.add_argument(
        "--split", default="test", choices=("train", "val", "test"), help="split to score [default: test]"
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="FEATURE=COLUMN",
        help="column of a feature in a fleet file [default: the column of its name]",
    )
    parser.add_argument(
        "--stride",
        type=int,
        default=STRIDE,
        help=f"steps between two origins [default: {STRIDE}]",
    )
    parser.add_argument("--machines", help="names of the machines to score, with commas [default: all]")
    parser.add_argument(
        "--output", type=Path, help="folder for evaluation.json and a picture of each fleet [default: none]"
    )
    parser.add_argument(
        "--hardship",
        action="store_true",
        help="scores with short contexts, missing rows and features, absurd values and surges too "
        "[default: not computed]",
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of ONNX Runtime; 0 lets it choose [default: 0]")


def main(args: argparse.Namespace) -> int:
    """Run the backtest, print the tables and write the files of `--output`; return the exit status."""
    contract, predict, label = open_model(args.model, args.threads)
    if args.data.is_file():
        mapping = dict(m.split("=", 1) for m in args.map)
        fleets = [read_training_fleet(args.data, contract.features, mapping, contract.step_seconds)]
    else:
        fleets = [load_fleet(args.data, name) for name in args.dataset or list_datasets(args.data) or ["smd"]]
        fleets = [refine_fleet(f) if f.step_seconds == HOURLY_STEP_SECONDS else f for f in fleets]
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
    """Score one fleet, print its tables and draw its picture; return its part of `evaluation.json`."""
    names = args.machines.split(",") if args.machines else fleet.machines
    if unknown := sorted(set(names) - set(fleet.machines)):
        raise DataError(f"{fleet.name}: no machines {unknown}, expected some of {fleet.machines}")
    chosen = [fleet.machines.index(n) for n in names]
    backtest = Backtest(fleet, contract, split=args.split, stride=args.stride, machines=chosen)
    if not backtest.windows:
        raise DataError(f"{fleet.name}: its {args.split} split is too short for a window with its horizon")
    forecasts = backtest.run_forecasts(predict)
    scores = {label: backtest.score_forecasts(forecasts)}
    scores |= {name: backtest.score_forecasts(f) for name, f in make_baseline_forecasts(backtest).items()}
    found = summarize(fleet.name, scores, 3600 // contract.step_seconds)
    if args.hardship:
        found["hardship"] = Hardship(backtest).judge(predict)
        print_hardship(found["hardship"])
    if args.output is not None:
        from streamd.tools.training.picture import draw_backtest

        args.output.mkdir(parents=True, exist_ok=True)
        title = f"{label} on {fleet.name}, {args.split} days, {len(backtest.windows)} windows"
        draw_backtest(args.output / f"{fleet.name}.png", title, backtest, scores, forecasts)
    return found


def summarize(fleet: str, scores: dict[str, BacktestScores], hour: int) -> dict[str, Any]:
    """Print the comparison, the model's table and its loss by hour ahead (of `hour` steps); return all three.

    The first of the scores is the model.
    """
    label = next(iter(scores))
    totals = {name: score.compute_totals() for name, score in scores.items()}
    print(f"\n{fleet}\n{'':<44}{'nPL':>9}{'nMAE':>9}{'cov80':>9}{'wQL':>9}")
    for name, t in sorted(totals.items(), key=lambda item: item[1]["nPL"]):
        mark = "*" if name == label else " "
        print(f"{mark} {name:<42}{t['nPL']:>9.4f}{t['nMAE']:>9.3f}{t['cov80']:>9.3f}{t['wQL']:>9.3f}")
    table = scores[label].make_table()
    print("\n" + table.round(4).to_string(index=False))
    curve = scores[label].compute_loss_by_horizon()
    hourly = [round(float(curve[i : i + hour].mean()), 5) for i in range(0, len(curve), hour)]
    print("\nnPL by hour ahead: " + "  ".join(f"{v:.3f}" for v in hourly))
    return {"totals": totals, "by_metric": table.round(5).to_dict("records"), "by_hour_ahead": hourly}


def print_hardship(found: dict[str, Any]) -> None:
    """Print the figures of hardship: nPL as a multiple of that of the same windows without it."""
    curve = {f"{rows} rows": f"{each['times']:.2f} ({each['ratio']:.2f})" for rows, each in found["context"].items()}
    print("\nnPL by known rows, as a multiple (and relative to the best baseline of these rows): " + _join(curve))
    surges = {key: each["ratio_last_value"] for key, each in found["surge"].items()}
    print("missing rows: " + _join(found["rows_missing"]), f"half of the features: {found['half_of_features']:.2f}")
    print("absurd values: " + _join(found["absurd"]))
    print("surges, relative to the last value: " + _join(surges))


def _join(figures: dict[str, Any]) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )


def open_model(path: Path, threads: int = 0) -> tuple[NetworkContract, Predict, str]:
    """Open an engine version, an ONNX file beside its `config.json`, or the folder of a training run.

    Returns the contract, the model as a function, and its name. Raises `DataError` if it is none of these.
    """
    folder = path.parent if path.suffix == ".onnx" else path
    if (folder / "config.json").exists():
        manifest = json.loads((folder / "config.json").read_text())
        file = path if path.suffix == ".onnx" else path / "model.onnx"
        return NetworkContract.from_manifest(manifest), make_onnx_predictor(file, threads), manifest["name"]
    if not (path / WEIGHTS_FILE).exists():
        raise DataError(f"{path}: neither an engine version (config.json, model.onnx) nor a run ({WEIGHTS_FILE})")
    try:
        trained = load_network(path)
    except BuildError as exc:
        raise DataError(str(exc)) from exc
    return trained.contract, make_torch_predictor(trained.network), path.name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
