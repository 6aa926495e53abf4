"""`streamd release`: makes an engine version of a finished run: calibrate, export, compare, score, describe.

The version is written under a hidden name and renamed last; a failure half-way leaves nothing under its name.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamd.core.contract import MEMORY_INPUT
from streamd.core.errors import BuildError, ConfigError
from streamd.tools.engine.output.atomic_version import HiddenFolder, write_json
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.weights import TrainedNetwork, load_network
from streamd.tools.training.backtest import Backtest
from streamd.tools.training.calibrate import calibrate
from streamd.tools.training.card import format_model_card
from streamd.tools.training.datasets import DATASETS
from streamd.tools.training.export import VersionWriter
from streamd.tools.training.fleet import TrainingFleet, is_left_out, load_fleets
from streamd.tools.training.hours import HOURLY_STEP_SECONDS, REFINED, add_refined_fleets
from streamd.tools.training.judgement import FleetJudge, judge_fleets
from streamd.tools.training.predictors import make_onnx_predictor, make_torch_predictor

COMPARED_WINDOW_COUNT = 1000
"""The number of windows on which ONNX Runtime is compared with PyTorch."""


KEPT_FIGURES = ("nPL", "nMAE", "cov80", "wQL", "ratio_24h", "ratio_7d", "ratio_best", "coverage_by_quarter")
"""The figures of other seeds and of ablations that a version keeps for each set."""


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
        help="run of the same recipe on less data or without a part of it, for the model card [default: none]",
    )
    parser.add_argument(
        "--seed-run",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="run of the same recipe with another seed, for the model card [default: none]",
    )


def main(args: argparse.Namespace) -> int:
    """Release one run; return the exit status."""
    ablations = dict(a.split("=", 1) for a in args.ablation)
    release(
        args.run,
        args.engine,
        load_fleets(args.data),
        default=args.default,
        ablations={name: Path(folder) for name, folder in ablations.items()},
        seeds=args.seed_run,
    )
    return 0


def prepare_fleets(fleets: list[TrainingFleet]) -> list[TrainingFleet]:
    """Return the fleets as they are judged: an hourly one at steps of five minutes, its name with `REFINED`."""
    return [fleet for fleet in add_refined_fleets(fleets) if fleet.step_seconds != HOURLY_STEP_SECONDS]


def release(
    run: Path,
    engine: Path,
    fleets: list[TrainingFleet],
    *,
    default: bool = False,
    ablations: dict[str, Path] | None = None,
    seeds: list[Path] | None = None,
) -> Path:
    """Make the version `engine` of a run; return its folder. A version of that name is replaced.

    The scores in it are those of the exported graph on ONNX Runtime; those of other seeds and of ablations are of
    PyTorch, each calibrated by itself. Raises `ConfigError` if a run cannot be read, `ValueError` if the graph differs
    from the network, and `RepositoryError` if the folder cannot be written.
    """
    fleets = prepare_fleets(fleets)
    trained = _load(run)
    network, contract, info = trained.network, trained.contract, trained.info
    others = {name: _load(folder) for name, folder in (ablations or {}).items()}
    repeated = [_load(folder) for folder in seeds or []]
    info["calibration"] = _calibrate(trained, fleets)
    info["parameters"] = sum(p.numel() for p in network.parameters())
    if info["steps"] < info["config"]["steps"]:
        info["ended"] = "at its time limit, at which the learning rate's schedule ended too"
    with HiddenFolder(engine.parent, engine.name) as new:
        writer = VersionWriter(new.folder, info["architecture"], contract, name=engine.name, default=default)
        writer.write_version(network, info, sample_windows(fleets, contract, COMPARED_WINDOW_COUNT))
        predict = make_onnx_predictor(new.folder / "model.onnx")
        info["figures"] = judge_fleets(predict, fleets, contract)
        info["seeds"] = {str(each.info["seed"]): judge_run(each, fleets) for each in repeated}
        info["ablations"] = {name: summarize_ablation(each, fleets) for name, each in others.items()}
        write_json(new.folder / "training_info.json", info)
        (new.folder / "MODEL_CARD.md").write_text(format_model_card(engine.name, info, contract))
        writer.write_record()
        new.replace(engine)
    return engine


def sample_windows(fleets: list[TrainingFleet], contract: NetworkContract, count: int) -> list[torch.Tensor]:
    """Return `count` windows of the validation days as the inputs of the contract, in its order.

    Their values are scaled to units of all magnitudes, and a tenth of the rows is missing.
    """
    parts = []
    for fleet in fleets:
        backtest = Backtest(fleet, contract, split="val", stride=8)
        if backtest.windows:
            step = max(1, len(backtest.windows) * len(fleets) // count)
            parts.append(backtest.make_inputs(backtest.windows[::step]))
    joined = {name: np.concatenate([p[name] for p in parts]) for name in contract.input_shapes}
    rng = np.random.default_rng(3)
    chosen = rng.permutation(len(joined["encoder_cont"]))[:count]
    joined = {name: values[chosen] for name, values in joined.items()}
    scale = 10.0 ** rng.integers(-3, 7, (len(chosen), 1, len(contract.features)))
    for name in {"encoder_cont", MEMORY_INPUT} & set(joined):
        joined[name] = (joined[name] * scale).astype(np.float32)
    past = joined["encoder_cont"]
    past[rng.random(past.shape[:2]) < 0.1] = np.nan
    return [torch.from_numpy(joined[name]) for name in contract.input_shapes]


def judge_run(trained: TrainedNetwork, fleets: list[TrainingFleet]) -> dict[str, Any]:
    """Return the scores of another run on the test days of all fleets, after its own calibration."""
    _calibrate(trained, fleets)
    predict = make_torch_predictor(trained.network)
    found = judge_fleets(predict, fleets, trained.contract, brief=True)
    return {name: keep_figures(figures) for name, figures in found.items()}


def keep_figures(figures: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one set that are kept of another run."""
    return {key: figures[key] for key in KEPT_FIGURES if key in figures}


def summarize_ablation(trained: TrainedNetwork, fleets: list[TrainingFleet]) -> dict[str, Any]:
    """Return the part of an ablation's result that the model card needs: its scores and the sets it saw nothing of.

    If the run left out machines of a fleet, these are one more set, `<fleet>_left_out`.
    """
    config = trained.info["config"]
    figures = judge_run(trained, fleets)
    unseen = [fleet.name for fleet in fleets if not find_seen(fleet.name, config["sources"])]
    every, name = config["leave_out_every"], config["leave_out_from"]
    for fleet in fleets:
        if every and fleet.name == name:
            machines = [i for i in range(len(fleet.machines)) if is_left_out(i, every)]
            judge = FleetJudge(fleet=fleet, contract=trained.contract, machines=machines)
            figures[f"{name}_left_out"] = keep_figures(judge.judge(make_torch_predictor(trained.network)))
            unseen.append(f"{name}_left_out")
    return {"steps": trained.info["steps"], "config": config, "figures": figures, "unseen": unseen}


def find_seen(name: str, sources: dict[str, float]) -> list[str]:
    """Return the training sources that are this set or of the same fleet."""
    used = {source.removesuffix(REFINED) for source, share in sources.items() if share}
    own = name.removesuffix(REFINED)
    related = DATASETS[own].related if own in DATASETS else ()
    return sorted(used & {own, *related})


def _load(run: Path) -> TrainedNetwork:
    try:
        return load_network(run)
    except BuildError as exc:
        raise ConfigError(str(exc)) from exc


def _calibrate(trained: TrainedNetwork, fleets: list[TrainingFleet]) -> dict[str, Any]:
    """Calibrate a network on the validation days of the fleets that it learnt from; return what was found."""
    sources = trained.info["config"]["sources"]
    used = [fleet for fleet in fleets if sources.get(fleet.name)]
    return calibrate(trained.network, make_torch_predictor(trained.network), used, trained.contract)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
