"""`streamd release`: makes an engine version of a finished run: calibrate, export, compare, score, describe.

The version is written under a hidden name and renamed last; a failure half-way leaves nothing under its name.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamd.core.errors import BuildError, ConfigError
from streamd.tools.engine.output.atomic_version import HiddenFolder, write_json
from streamd.tools.networks.contract import INPUT_NAMES, NetworkContract
from streamd.tools.networks.weights import load_network
from streamd.tools.training.backtest import Backtest
from streamd.tools.training.calibrate import calibrate
from streamd.tools.training.card import format_model_card
from streamd.tools.training.checks import score_fleets
from streamd.tools.training.export import VersionWriter
from streamd.tools.training.fleet import DATASET_FILES, TrainingFleet, load_fleet
from streamd.tools.training.predictors import make_onnx_predictor, make_torch_predictor

COMPARED_WINDOW_COUNT = 1000
"""The number of windows on which ONNX Runtime is compared with PyTorch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "--run", type=Path, required=True, metavar="FOLDER", help="folder that `streamd train --output` wrote"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="folder of the data pack, with its Parquet files"
    )
    parser.add_argument(
        "--engine", type=Path, required=True, metavar="FOLDER", help="folder of the engine version to write"
    )
    parser.add_argument(
        "--default", action="store_true", help="mark of the version that serves by default [default: no mark]"
    )
    parser.add_argument(
        "--ablation",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="run of the same recipe on less data, for the model card [default: none]",
    )


def main(args: argparse.Namespace) -> int:
    """Release one run; return the exit status."""
    fleets = [load_fleet(args.data, name) for name in DATASET_FILES]
    ablations = dict(a.split("=", 1) for a in args.ablation)
    release(
        args.run,
        args.engine,
        fleets,
        default=args.default,
        ablations={name: Path(folder) for name, folder in ablations.items()},
    )
    return 0


def release(
    run: Path,
    engine: Path,
    fleets: list[TrainingFleet],
    *,
    default: bool = False,
    ablations: dict[str, Path] | None = None,
) -> Path:
    """Make the version `engine` of a run; return its folder. A version of that name is replaced.

    The scores in it are those of the exported graph on ONNX Runtime. Raises `ConfigError` if the run cannot be read,
    `ValueError` if the graph differs from the network, and `RepositoryError` if the folder cannot be written.
    """
    try:
        trained = load_network(run)
    except BuildError as exc:
        raise ConfigError(str(exc)) from exc
    network, contract, info = trained.network, trained.contract, trained.info
    trained_on = [f for f in fleets if info["config"]["sources"].get(f.name)]
    info["calibration"] = calibrate(network, make_torch_predictor(network, torch.device("cpu")), trained_on, contract)
    info["parameters"] = sum(p.numel() for p in network.parameters())
    if info["steps"] < info["config"]["steps"]:
        info["ended"] = "at its time limit, at which the learning rate's schedule ended too"
    with HiddenFolder(engine.parent, engine.name) as new:
        writer = VersionWriter(new.folder, info["architecture"], contract, name=engine.name, default=default)
        writer.write_version(network, info, sample_windows(fleets, contract, COMPARED_WINDOW_COUNT))
        predict = make_onnx_predictor(new.folder / "model.onnx")
        info["figures"] = score_fleets(fleets, contract, predict, {})
        info["ablations"] = {name: summarize_ablation(folder) for name, folder in (ablations or {}).items()}
        write_json(new.folder / "training_info.json", info)
        (new.folder / "MODEL_CARD.md").write_text(format_model_card(engine.name, info, contract))
        writer.write_record()
        new.replace(engine)
    return engine


def sample_windows(fleets: list[TrainingFleet], contract: NetworkContract, count: int) -> list[torch.Tensor]:
    """Return `count` windows of the validation days as the four inputs.

    Their values are scaled to units of all magnitudes, and a tenth of the rows is missing.
    """
    parts = []
    for fleet in fleets:
        backtest = Backtest(fleet, contract, split="val", stride=8)
        parts.append(backtest.make_inputs(backtest.windows[:: max(1, len(backtest.windows) * len(fleets) // count)]))
    joined = {name: np.concatenate([p[name] for p in parts])[:count] for name in INPUT_NAMES}
    rng = np.random.default_rng(3)
    past = joined["encoder_cont"] * 10.0 ** rng.integers(-3, 7, (len(joined["encoder_cont"]), 1, 14))
    past[rng.random(past.shape[:2]) < 0.1] = np.nan
    joined["encoder_cont"] = past.astype(np.float32)
    return [torch.from_numpy(joined[name]) for name in INPUT_NAMES]


def summarize_ablation(run: Path) -> dict[str, Any]:
    """Return the part of an ablation's `training_info.json` that the model card needs."""
    info = json.loads((run / "training_info.json").read_text())
    config = info["config"]
    keys = ("sources", "leave_out_every", "leave_out_from")
    return {"steps": info["steps"], "figures": info["figures"]} | {key: config[key] for key in keys}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
