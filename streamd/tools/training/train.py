"""`streamd train`: trains a network on the data pack and writes weights, curves and, if requested, an engine version.

This module connects the others; the loop, the data and the scores are in their own modules.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamd.tools.engine.output.atomic_version import write_json
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.registry import build_network
from streamd.tools.training.backtest import Backtest
from streamd.tools.training.checks import score_fleets
from streamd.tools.training.config import TrainingConfig
from streamd.tools.training.fleet import DATASET_FILES, TrainingFleet, load_fleet
from streamd.tools.training.generated import generate_servers
from streamd.tools.training.loop import Trainer
from streamd.tools.training.pool import SeriesPool, SeriesSource, make_fleet_source
from streamd.tools.training.predictors import make_torch_predictor
from streamd.tools.training.release import release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration in TOML, as in streamd/tools/training/configs [default: built in]",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting that overrides the configuration, such as model.width=64 [default: none]",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="folder of the data pack, with its Parquet files"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="folder for checkpoints, weights and curves"
    )
    parser.add_argument(
        "--engine", type=Path, metavar="FOLDER", help="folder of the engine version to release [default: none]"
    )
    parser.add_argument("--device", default="auto", help="device: auto, cpu or cuda [default: auto]")
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="time limit, at which the learning rate's schedule ends [default: no limit]",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continuation from the checkpoint in the output folder [default: a new run]",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar [default: a progress bar]")


def main(args: argparse.Namespace) -> int:
    """Train, score and write the folder of the run; return the exit status."""
    config = TrainingConfig.read(args.config, args.set)
    device_name = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    device = torch.device(device_name)
    fleets = [load_fleet(args.data, name) for name in DATASET_FILES]
    mapping = assign_server_ids(config, fleets)
    contract = NetworkContract(servers=1 + len(mapping))
    torch.manual_seed(config.seed)
    model = build_network(config.architecture, contract, **config.model)
    pool = SeriesPool(make_sources(config, fleets, device, mapping), device, contract.context_length + contract.horizon,
                      contract.step_seconds)  # fmt: skip
    trainer = Trainer(model, contract, config, pool, args.output)
    if args.resume and trainer.load_checkpoint():
        print(f"resumed at step {trainer.done}")
    trainer.fit(make_validator(fleets, contract, device), seconds=args.seconds, quiet=args.quiet)
    info = describe_run(
        config, trainer, fleets, score_fleets(fleets, contract, make_torch_predictor(trainer.average, device), mapping)
    )
    write_json(args.output / "training_info.json", info)
    print(json.dumps(info["figures"], indent=1))
    if args.engine is not None:
        release(args.output, args.engine, fleets)
    return 0


def make_sources(
    config: TrainingConfig, fleets: list[TrainingFleet], device: torch.device, mapping: dict[str, int]
) -> list[SeriesSource]:
    """Return the fleets of the configuration with their shares, and generated servers."""
    found = []
    for fleet in fleets:
        if weight := config.sources.get(fleet.name, 0.0):
            every = config.leave_out_every if fleet.name == config.leave_out_from else 0
            found.append(make_fleet_source(fleet, weight, every, mapping))
    if config.generated_share > 0:
        values = generate_servers(config.generated_servers, 14, config.generated_length, device, config.seed)
        found.append(
            SeriesSource(
                name="generated",
                values=values,
                natural=torch.arange(14),
                weight=config.generated_share,
                begin_seconds=0,
            )
        )
    return found


def assign_server_ids(config: TrainingConfig, fleets: list[TrainingFleet]) -> dict[str, int]:
    """Return an id, from 1 on, for each machine of the training sources; empty if the model knows no ids."""
    if not config.named_share:
        return {}
    names = [m for f in fleets if config.sources.get(f.name) for m in f.machines]
    return {name: i for i, name in enumerate(sorted(names), 1)}


def make_validator(
    fleets: list[TrainingFleet], contract: NetworkContract, device: torch.device
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that scores a model on the validation days of all fleets: nPL and cov80 of each."""
    backtests = [Backtest(fleet, contract, split="val", stride=36) for fleet in fleets]

    def validate(model: nn.Module) -> dict[str, float]:
        predict = make_torch_predictor(model, device)
        scores = {b.fleet.name: b.score_forecasts(b.run_forecasts(predict)).compute_totals() for b in backtests}
        return {f"{name}_{key}": s[key] for name, s in scores.items() for key in ("nPL", "cov80")}

    return validate


def describe_run(
    config: TrainingConfig, trainer: Trainer, fleets: list[TrainingFleet], figures: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of `training_info.json`: the data, the settings, the curves and the scores."""
    device = torch.cuda.get_device_name() if trainer.device.type == "cuda" else "CPU"
    return {
        "architecture": config.architecture,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "data": {f.name: {"sha256": f.sha256, "splits_steps": f.splits, "begin": f.begin,
                          "machines": f.machines} for f in fleets},
        "trained_on": "train split only; validation days for the curves, test days for the figures",
        "seed": config.seed,
        "steps": trainer.done,
        "config": config.describe(),
        "device": device,
        "torch": torch.__version__,
        "curves": trainer.curve,
        "figures": figures,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
