"""Writes the model card of a version: the network, its training data, its scores, its limits.

This module formats text from `training_info.json`; it measures nothing. `card_tables` has the tables.
"""

from typing import Any

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training import card_tables

NAMES = {
    "temporal_fusion_transformer": "Temporal Fusion Transformer (Lim et al. 2021)",
    "patch_forecaster": "Patch forecaster (patches as tokens, after PatchTST and Chronos-Bolt)",
}
FEW_ROWS = """\
- From few rows it knows the level but not the shape of the day; the table of known rows says what that costs. Such
  forecasts are wide.
"""
DAY_ONLY = """\
- It sees 24 hours: a weekly rhythm, or anything that comes less often than daily, it can only guess at.
"""
WEEK = """\
- It sees 24 hours in steps and seven days in hourly means. What comes less often than weekly it can only guess at, and
  so it can the weekly rhythm of a server of which the daemon has less than a week.
"""
KNOWN_LIMITS = """\
- What begins after the forecast's origin (an incident, a deployment) it cannot know. After an incident of hours,
  forecasts are wider, and for as long as the incident stays in the window, somewhat worse.
- A target that a server never sent is not forecast: the daemon reports it as unknown.
- One value far beyond all others of a window is taken for an error until more follow it; a surge is believed within a
  few rows (table of hardship).
- No fleet that it learnt from reports `java_cpu`, `uptime` or a file system's fill level, and some others are there by
  proxy (below); those features it knows from generated series only.
- A status other than 0 was never seen with a meaning; the model was trained to disregard it.
- Server ids: none are known (`server_mapping.json` is empty); every server is id 0.
"""
PROXIES = (
    "In `smd`, `cpu_user` stands for total CPU, `cpu_iowait` for disk wait, `swap_used` for the rate of swapping out, "
    "`disk_usage` for how busy the device is, `back_close_wait` and `front_close_wait` for sockets in TIME_WAIT and "
    "established. The metrics of `asd` are anonymous, those of `jumpstarter` were told by their values, and each "
    "series of the sets with one column stands for a load average."
)


def format_model_card(name: str, info: dict[str, Any], contract: NetworkContract) -> str:
    """Return the Markdown of the card from a version's `training_info.json`."""
    figures = info["figures"]
    memory = (
        f" and, as a memory, {contract.memory_length} means of {contract.memory_step_seconds} s"
        if contract.memory_length
        else ""
    )
    parts = [
        f"# {name}",
        f"{NAMES[info['architecture']]}, {info['parameters']:,} parameters, targets "
        f"{', '.join(f'`{t}`' for t in contract.targets)}; quantiles {', '.join(map(str, contract.quantiles))}; "
        f"{contract.context_length} steps of {contract.step_seconds} s in{memory}, {contract.horizon} out.",
        "## Trained on",
        describe_training(info),
        card_tables.format_sources(info),
        describe_calibration(info["calibration"]),
        "## Figures",
        "Test days, rolling origin every 5 hours, this folder's `model.onnx` on ONNX Runtime. nPL: mean pinball loss "
        "over the series' deviation. Servers are unknown to the model in all of them. A set whose name ends in `_5min` "
        "has hourly values, laid smoothly through five-minute steps. The ratio is that to the best of the simple "
        "baselines, whichever sees more: " + card_tables.BASELINE_NAMES + ".",
        card_tables.format_sets(figures),
        "Coverage of the band from 0.1 to 0.9 by quarter of the horizon, and the least and the most of a target:",
        card_tables.format_coverage(figures),
        "By what forecast a series best on the days before (so none is chosen by its test days), the ratio to the best "
        "baseline of the group, with the number of series:",
        card_tables.format_groups(figures),
        "With few known rows, nPL as a multiple of that with a whole window and, in brackets, the ratio to the best "
        "baseline that sees the same rows:",
        card_tables.format_contexts(figures),
        "Under hardship, nPL as a multiple. Absurd values are 1,000 to 60,000,000,000 times the largest value, "
        "negative, or the largest float, one in each feature; the worst of all. A surge is to 5 times the level; it "
        "began 3 or 12 rows before and stays, and the figure is relative to repeating the last value:",
        card_tables.format_hardship(figures),
        f"A constant is forecast as itself (largest relative error "
        f"{figures['constants']['largest_relative_error']:.1e}).",
        "Noise about a level, generated, relative to the quantiles of the same rows:",
        card_tables.format_noise(figures),
        *_describe_memory(figures, contract),
        *_describe_runs(info),
        "## Limits",
        (WEEK if contract.memory_length else DAY_ONLY) + FEW_ROWS + KNOWN_LIMITS.rstrip(),
        "## Features by proxy",
        PROXIES,
    ]
    return "\n\n".join(parts) + "\n"


def describe_training(info: dict[str, Any]) -> str:
    """Return the sentences on how the network was trained."""
    config = info["config"]
    shares = {**config["sources"], "generated": config["generated_share"]}
    return (
        "Training days only of the sets below, and generated servers. Shares of the windows drawn: "
        + ", ".join(f"{name} {share:g}" for name, share in shares.items() if share)
        + f". {info['steps']:,} steps of {config['batch']} windows, seed {config['seed']}, on {info['device']} "
        f"(PyTorch {info['torch']}). Files' hashes, settings and curves are in `training_info.json`."
    )


def describe_calibration(calibration: dict[str, Any]) -> str:
    """Return the sentence on the factors by which the bands were stretched."""
    below, above = (", ".join(f"{f:.2f}" for f in calibration[side]) for side in ("below", "above"))
    return (
        "Bands were stretched by a factor for each quarter of the horizon, found on the validation days: "
        f"{below} below the median, {above} above it."
    )


def _describe_memory(figures: dict[str, Any], contract: NetworkContract) -> list[str]:
    if not contract.memory_length:
        return []
    return [
        "Days of memory, nPL (on fewer windows than the first table):",
        card_tables.format_memory_days(figures),
        "Weekends and other days, where the weekdays are true, nPL with and without the memory:",
        card_tables.format_weekends(figures),
    ]


def _describe_runs(info: dict[str, Any]) -> list[str]:
    found = []
    if info.get("seeds"):
        found += [
            "The same recipe with other seeds, nPL on the test days: least and most of all runs, with this one.",
            card_tables.format_seeds(info["figures"], info["seeds"]),
        ]
    if info.get("ablations"):
        found += [
            "Other runs, nPL; a set of which the run saw nothing, nor of its fleet, is marked with `*` and has, in "
            "brackets, the ratio to the best baseline of 24 hours and to the best of all:",
            card_tables.format_ablations(info["figures"], info["ablations"]),
        ]
    return found
