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

from streamd.core.contract import MEMORY_LENGTH
from streamd.tools.engine.output.atomic_version import write_json
from streamd.tools.networks.contract import FEATURE_UNITS, NetworkContract
from streamd.tools.networks.registry import build_network
from streamd.tools.training.config import TrainingConfig
from streamd.tools.training.fleet import TrainingFleet, load_fleets
from streamd.tools.training.generated.servers import generate_servers
from streamd.tools.training.hours import REFINED, add_refined_fleets
from streamd.tools.training.loop import Trainer
from streamd.tools.training.pool import SeriesPool
from streamd.tools.training.predictors import make_torch_predictor
from streamd.tools.training.quick_judgement import QuickJudge
from streamd.tools.training.release import release
from streamd.tools.training.sources import SeriesSource, make_fleet_source, roughen_hours


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
    """Train, judge on the validation days, and write the folder of the run; return the exit status."""
    config = TrainingConfig.read(args.config, args.set)
    device_name = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    device = torch.device(device_name)
    fleets = add_refined_fleets(load_fleets(args.data, [name.removesuffix(REFINED) for name in config.sources]))
    contract = NetworkContract(memory_length=MEMORY_LENGTH if config.memory else 0)
    torch.manual_seed(config.seed)
    model = build_network(config.architecture, contract, **config.model)
    sources = make_sources(config, fleets, device)
    pool = SeriesPool(sources, device, contract.context_length, contract.horizon, contract.step_seconds)
    trainer = Trainer(model, contract, config, pool, args.output)
    if args.resume and trainer.load_checkpoint():
        print(f"resumed at step {trainer.done}")
    trainer.fit(make_validator(fleets, contract, device), seconds=args.seconds, quiet=args.quiet)
    info = describe_run(config, trainer, fleets)
    write_json(args.output / "training_info.json", info)
    print(json.dumps(info["curves"][-1], indent=1))
    if args.engine is not None:
        release(args.output, args.engine, fleets)
    return 0


def make_sources(config: TrainingConfig, fleets: list[TrainingFleet], device: torch.device) -> list[SeriesSource]:
    """Return the fleets of the configuration with their shares, and generated servers.

    Raises `ValueError` if the configuration names a fleet that is not among `fleets`.
    """
    if unknown := sorted(set(config.sources) - {fleet.name for fleet in fleets}):
        raise ValueError(f"sources {unknown}: expected some of {sorted(fleet.name for fleet in fleets)}")
    found = []
    for fleet in fleets:
        if weight := config.sources.get(fleet.name, 0.0):
            every = config.leave_out_every if fleet.name == config.leave_out_from else 0
            source = make_fleet_source(fleet, weight, every)
            found.append(roughen_hours(source, config.seed) if fleet.name.endswith(REFINED) else source)
    return [*found, _generate_source(config, device)] if config.generated_share > 0 else found


def _generate_source(config: TrainingConfig, device: torch.device) -> SeriesSource:
    series, shares = len(FEATURE_UNITS), config.generated_shares or None
    made = generate_servers(config.generated_servers, series, config.generated_length, device, config.seed, shares)
    return SeriesSource(
        name="generated",
        values=made.values,
        natural=torch.arange(series),
        weight=config.generated_share,
        begins=made.begin_seconds,
        extents=torch.tensor([[0, config.generated_length]]).expand(config.generated_servers, 2),
        has_weekdays=True,
    )


def make_validator(
    fleets: list[TrainingFleet], contract: NetworkContract, device: torch.device
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that judges a model on the validation days of all fleets with steps of the contract."""
    judge = QuickJudge([f for f in fleets if f.step_seconds == contract.step_seconds], contract, split="val")

    def validate(model: nn.Module) -> dict[str, float]:
        return judge.judge(make_torch_predictor(model, device))

    return validate


def describe_run(config: TrainingConfig, trainer: Trainer, fleets: list[TrainingFleet]) -> dict[str, Any]:
    """Return the content of `training_info.json`: the data, the settings and the curves."""
    device = torch.cuda.get_device_name() if trainer.device.type == "cuda" else "CPU"
    return {
        "architecture": config.architecture,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "data": {f.name: {"sha256": f.sha256, "splits_steps": f.splits, "begins": f.begins.tolist(),
                          "machines": f.machines} for f in fleets if config.sources.get(f.name)},
        "trained_on": "train split only; validation days for the curves, test days for the figures",
        "seed": config.seed,
        "steps": trainer.done,
        "config": config.describe(),
        "device": device,
        "torch": str(torch.__version__),
        "curves": trainer.curve,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
