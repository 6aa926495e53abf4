"""Writes the model card of a version: the network, its training data, its scores, its limits.

This module formats text from `training_info.json`; it measures nothing.
"""

from typing import Any

from streamd.tools.networks.contract import NetworkContract

BASELINES = {
    "smd": "24 h: 0.1532 (yesterday + its error quantiles); 7 days: 0.1296 (same time of day)",
    "asd": "24 h: 0.0952 (yesterday + its error quantiles); 7 days: 0.0683 (same time of day)",
}
NAMES = {
    "temporal_fusion_transformer": "Temporal Fusion Transformer (Lim et al. 2021)",
    "patch_forecaster": "Patch forecaster (patches as tokens, after PatchTST and Chronos-Bolt)",
}
KNOWN_LIMITS = """\
- It sees 24 hours: a weekly rhythm, or anything that comes less often than daily, it can only guess at.
- What begins after the forecast's origin (an incident, a deployment) it can't know. After an incident of
  hours, forecasts are wider, and for as long as the incident stays in the window, somewhat worse.
- With a few hours of context it knows the level but not the day's shape; see the ratios above.
- The fleets it learnt from report `cpu_sys`, `java_cpu`, `uptime` and a file system's fill level not at
  all, and some others by proxy (below); those features it knows from generated series only.
- Weekdays in the training data are arbitrary, so the day of the week is noise to it.
- A status other than 0 was never seen with a meaning; the model was trained to disregard it.
- Server ids: none are known (`server_mapping.json` is empty); every server is id 0.
"""


def format_model_card(name: str, info: dict[str, Any], contract: NetworkContract) -> str:
    """Return the Markdown of the card from a version's `training_info.json`."""
    figures, config = info["figures"], info["config"]
    lines = [
        f"# {name}",
        "",
        f"{NAMES[info['architecture']]}, {info['parameters']:,} parameters, targets "
        f"{', '.join(f'`{t}`' for t in contract.targets)}; quantiles {', '.join(map(str, contract.quantiles))}; "
        f"{contract.context_length} steps of {contract.step_seconds} s in, {contract.horizon} out.",
        "",
        "## Trained on",
        "",
        "Training days only of two public fleets under the MIT licence: Server Machine Dataset (Su et al., KDD "
        "2019; 15 machines, 18 days) and Application Server Dataset (Li et al., KDD 2021; 9 machines, 28 days); "
        "and on generated servers. Shares of the windows drawn: "
        + ", ".join(f"{k} {v:g}" for k, v in {**config["sources"], "generated": config["generated_share"]}.items())
        + f". {info['steps']:,} steps of {config['batch']} windows, seed {config['seed']}, on {info['device']} "
        f"(PyTorch {info['torch']}). Files' hashes, settings and curves are in `training_info.json`.",
        "",
        "Bands were widened by one factor, "
        f"{info['calibration']['widening']}, found on the validation days (a model whose bands were wide enough "
        "there has 1).",
        "",
        "## Figures",
        "",
        "Test days, rolling origin every 5 hours, this folder's `model.onnx` on ONNX Runtime. nPL: mean pinball "
        "loss over the series' deviation. Servers are unknown to the model in all of them.",
        "",
        "| fleet | nPL | nMAE | coverage 0.1-0.9 | wQL | best baselines' nPL |",
        "|---|---|---|---|---|---|",
    ]
    for key, baseline in BASELINES.items():
        f = figures[key]
        lines.append(f"| {key} | {f['nPL']:.4f} | {f['nMAE']:.3f} | {f['cov80']:.3f} | {f['wQL']:.3f} | {baseline} |")
    lines += ["", "Under hardship, nPL as a multiple of the above:", "", *_format_hardship(figures)]
    if info.get("ablations"):
        lines += ["", "The same recipe trained on less, scored on what it did not see:", "", *_format_ablations(info)]
    lines += ["", "## Limits", "", KNOWN_LIMITS.rstrip(), "", "## Features by proxy", "",
              "`cpu_user` stands for total CPU, `cpu_iowait` for disk wait, `swap_used` for the rate of swapping out, "
              "`disk_usage` for how busy the device is, `back_close_wait` and `front_close_wait` for sockets in "
              "TIME_WAIT and established. The second fleet's metrics are anonymous.", ""]  # fmt: skip
    return "\n".join(lines)


def _format_hardship(figures: dict[str, Any]) -> list[str]:
    keys = [k for k in figures["smd"] if k.startswith(("rows_", "context_", "half_"))]
    lines = ["| | " + " | ".join(k.replace("_", " ") for k in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{figures[name][k]:.2f}" for k in keys) + " |" for name in BASELINES]
    error = figures["constants"]["largest_relative_error"]
    return [*lines, "", f"A constant is forecast as itself (largest relative error {error:.1e})."]


def _format_ablations(info: dict[str, Any]) -> list[str]:
    lines = ["| ablation | scored on | nPL |", "|---|---|---|"]
    for name, a in info["ablations"].items():
        if a["leave_out_every"]:
            key = f"{a['leave_out_from']}_every_fifth"
        else:
            key = next(k for k in BASELINES if not a["sources"].get(k))
        lines.append(f"| {name} | {key} | {a['figures'][key]['nPL']:.4f} |")
    return lines
