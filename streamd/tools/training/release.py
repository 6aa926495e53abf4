"""From a finished run's folder to an engine version: calibrate, export, check, score, describe."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from streamd.tools.networks.contract import INPUT_NAMES, NetworkContract
from streamd.tools.networks.registry import build_network
from streamd.tools.training.backtest import Backtest
from streamd.tools.training.calibrate import calibrate
from streamd.tools.training.card import format_model_card
from streamd.tools.training.checks import score_fleets
from streamd.tools.training.export import VersionWriter, write_json
from streamd.tools.training.fleet import TrainingFleet, load_fleet
from streamd.tools.training.predictors import make_onnx_predictor, make_torch_predictor

CALIBRATE_ON = ("smd", "asd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--run", type=Path, required=True, help="folder that `streamd train --output` wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder with the data pack's Parquet files")
    parser.add_argument("--engine", type=Path, required=True, help="engine version's folder to write")
    parser.add_argument("--default", action="store_true", help="make it the version that serves by default")
    parser.add_argument("--ablation", action="append", default=[], metavar="NAME=FOLDER",
                        help="run folder of the same recipe on less data, told in the model card")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Release one run; returns the exit status."""
    fleets = [load_fleet(args.data, key) for key in CALIBRATE_ON]
    ablations = dict(a.split("=", 1) for a in args.ablation)
    release(args.run, args.engine, fleets, args.default, {k: Path(v) for k, v in ablations.items()})
    return 0


def release(
    run: Path,
    engine: Path,
    fleets: list[TrainingFleet],
    default: bool = False,
    ablations: dict[str, Path] | None = None,
) -> Path:
    """Write `engine` from `run`; the figures in it are of the exported graph on ONNX Runtime."""
    info = json.loads((run / "training_info.json").read_text())
    contract = NetworkContract()
    model = load_run(run, contract)
    trained_on = [f for f in fleets if info["config"]["sources"].get(f.name)]
    info["calibration"] = calibrate(model, make_torch_predictor(model, torch.device("cpu")), trained_on, contract)
    info["parameters"] = sum(p.numel() for p in model.parameters())
    if info["steps"] < info["config"]["steps"]:
        info["ended"] = "by its limit of time, to the end of which the learning rate's schedule ran"
    writer = VersionWriter(engine, info["architecture"], contract, default)
    writer.write(model, info, sample_windows(fleets, contract, 1000))
    predict = make_onnx_predictor(engine / "model.onnx")
    info["figures"] = score_fleets(fleets, contract, predict, {})
    info["ablations"] = {name: summarize_ablation(folder) for name, folder in (ablations or {}).items()}
    write_json(engine / "training_info.json", info)
    (engine / "MODEL_CARD.md").write_text(format_model_card(engine.name, info, contract))
    writer.seal()
    return engine


def load_run(run: Path, contract: NetworkContract) -> nn.Module:
    """The averaged weights of a run, for servers that are unknown.

    Ids of the machines trained on are of use in training only: their rows of the table are left behind.
    """
    config = json.loads((run / "training_info.json").read_text())["config"]
    weights = load_file(str(run / "weights.safetensors"))
    weights["server.weight"] = weights["server.weight"][: contract.servers]
    model = build_network(config["architecture"], contract, **config["model"])
    model.load_state_dict(weights)
    return model.eval()


def sample_windows(fleets: list[TrainingFleet], contract: NetworkContract, count: int) -> list[torch.Tensor]:
    """`count` windows of the validation days as the four inputs, in units of all magnitudes, some rows missing."""
    parts = []
    for fleet in fleets:
        backtest = Backtest(fleet, contract, "val", stride=8)
        parts.append(backtest.inputs(backtest.windows[:: max(1, len(backtest.windows) * len(fleets) // count)]))
    joined = {name: np.concatenate([p[name] for p in parts])[:count] for name in INPUT_NAMES}
    rng = np.random.default_rng(3)
    past = joined["encoder_cont"] * 10.0 ** rng.integers(-3, 7, (len(joined["encoder_cont"]), 1, 14))
    past[rng.random(past.shape[:2]) < 0.1] = np.nan
    joined["encoder_cont"] = past.astype(np.float32)
    return [torch.from_numpy(joined[name]) for name in INPUT_NAMES]


def summarize_ablation(run: Path) -> dict[str, Any]:
    """What the model card tells of an ablation."""
    info = json.loads((run / "training_info.json").read_text())
    config = info["config"]
    kept = ("sources", "leave_out_every", "leave_out_from")
    return {"steps": info["steps"], "figures": info["figures"]} | {k: config[k] for k in kept}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
