"""The tables of a model card, in Markdown, from the figures of `judgement`.

This module formats; it measures nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from streamd.tools.training.datasets import DATASETS

BASELINE_NAMES = (
    "`last_value`, `window_q` (the quantiles of the window), `seasonal_naive_q` (yesterday with the quantiles of its "
    "errors), `timeofday7d_q` (the same hours of seven days)"
)
SHOWN_GROUPS = ("window", "yesterday", "week", "last", "noise")
SURGES = ("5x_3", "5x_12")


def format_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; a number has four digits after the point, and what is missing is a dash."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_format_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def list_sets(figures: dict[str, Any]) -> list[str]:
    """Return the names of the sets in the figures."""
    return [name for name, each in figures.items() if "nPL" in each]


def format_sources(info: dict[str, Any]) -> str:
    """Return a table of the data sets that the run learnt from, with licence and attribution."""
    used = dict.fromkeys(name.removesuffix("_5min") for name, share in info["config"]["sources"].items() if share)
    rows = [(n, d.title, d.source, d.licence, d.attribution) for n, d in DATASETS.items() if n in used]
    return format_table(("set", "title", "source", "licence", "attribution"), rows)


def format_sets(figures: dict[str, Any]) -> str:
    """Return the table of the sets: scores beside the best baselines."""
    head = ["set", "series", "windows", "nPL", "nMAE", "coverage", "wQL", "best of 24 h", "best of 7 days", "ratio"]
    has_memory = any("without_memory" in figures[name] for name in list_sets(figures))
    head += ["ratio without memory"] * has_memory
    rows = []
    for name in list_sets(figures):
        f = figures[name]
        best = [_format_baseline(f.get(f"baseline_{key}")) for key in ("24h", "7d")]
        alone = [f.get("without_memory", {}).get("ratio_best")] * has_memory
        scores = [f[key] for key in ("series", "windows", "nPL", "nMAE", "cov80", "wQL")]
        rows.append([name, *scores, *best, f["ratio_best"], *alone])
    return format_table(head, rows)


def format_coverage(figures: dict[str, Any]) -> str:
    """Return the coverage of each set by quarter of the horizon, and the extremes over targets and quarters."""
    rows = []
    for name in list_sets(figures):
        each = [(t["cov80"], metric) for metric, t in figures[name]["targets"].items()]
        extremes = [f"{value:.3f} (`{metric}`)" for value, metric in (min(each), max(each))]
        rows.append((name, *(f"{q:.3f}" for q in figures[name]["coverage_by_quarter"]), *extremes))
    return format_table(("set", "1", "2", "3", "4", "least", "most"), rows)


def format_groups(figures: dict[str, Any]) -> str:
    """Return the ratio of each group of series; for noise about a level, that to the window's quantiles."""
    rows = []
    for name in list_sets(figures):
        groups = figures[name]["groups"]
        keys = {g: "ratio_window" if g == "noise" else "ratio_best" for g in SHOWN_GROUPS}
        rows.append(
            (name, *(f"{groups[g][k]:.3f} ({groups[g]['series']})" if g in groups else "" for g, k in keys.items()))
        )
    return format_table(("set", *(g.replace("_", " ") for g in SHOWN_GROUPS)), rows)


def format_contexts(figures: dict[str, Any]) -> str:
    """Return the curve over the known rows, one row for each set."""
    names = [name for name in list_sets(figures) if "hardship" in figures[name]]
    curves = {name: figures[name]["hardship"]["context"] for name in names}
    rows = [(n, *(f"{c['times']:.2f} ({c['ratio']:.2f})" for c in curves[n].values())) for n in names]
    head = [str(rows) for rows in next(iter(curves.values()))] if curves else []
    return format_table(("set", *head), rows)


def format_hardship(figures: dict[str, Any]) -> str:
    """Return the multiples under missing rows, absent features, absurd values and surges."""
    head = ("set", "25% of rows missing", "50%", "half of features", "absurd value anywhere", "in the last row",
            "surge of 3 rows", "of 12 rows")  # fmt: skip
    rows = []
    for name in list_sets(figures):
        if "hardship" in figures[name]:
            h = figures[name]["hardship"]
            worst = [max(v for k, v in h["absurd"].items() if k.endswith(end)) for end in ("_anywhere", "_last")]
            surges = [h["surge"][key]["ratio_last_value"] for key in SURGES]
            figures_of = (*h["rows_missing"].values(), h["half_of_features"], *worst, *surges)
            rows.append((name, *(f"{v:.2f}" if v < 1e4 else f"{v:.0e}" for v in figures_of)))
    return format_table(head, rows)


def format_noise(figures: dict[str, Any]) -> str:
    """Return the ratio on each kind of noise, by the number of known rows."""
    noise = figures["noise"]
    counts = list(next(iter(noise.values())))
    rows = [(f"{count} rows", *(f"{kind[count]['ratio']:.3f}" for kind in noise.values())) for count in counts]
    return format_table(("", *(kind.replace("_", " ") for kind in noise)), rows)


def format_memory_days(figures: dict[str, Any]) -> str:
    """Return the nPL of each set by the days of memory."""
    names = [name for name in list_sets(figures) if "memory_days" in figures[name]]
    days = list(figures[names[0]]["memory_days"]) if names else []
    return format_table(("set", *map(str, days)), [(n, *figures[n]["memory_days"].values()) for n in names])


def format_weekends(figures: dict[str, Any]) -> str:
    """Return the nPL of weekends and other days: the model with and without its memory, and the seven-day baseline."""
    head = ("set", "weekend", "without memory", "seven days", "other days", "without memory", "seven days")
    rows = []
    for name in list_sets(figures):
        if "weekend" in figures[name]:
            w = figures[name]["weekend"]
            columns = [w["model"], figures[name].get("without_memory", {}), w["timeofday7d_q"]]
            rows.append((name, *(c.get("weekend") for c in columns), *(c.get("other") for c in columns)))
    return format_table(head, rows)


def format_seeds(figures: dict[str, Any], seeds: dict[str, Any]) -> str:
    """Return the least and the most nPL of all seeds for each set, and their distance relative to the least."""
    rows = []
    for name in list_sets(figures):
        losses = [run[name]["nPL"] for run in (figures, *seeds.values()) if name in run]
        rows.append((name, min(losses), max(losses), f"{100 * (max(losses) / min(losses) - 1):.1f} %"))
    return format_table(("set", "least", "most", "spread"), rows)


def format_ablations(figures: dict[str, Any], ablations: dict[str, Any]) -> str:
    """Return the nPL of other runs on each set, the first row being this version's."""
    names = list_sets(figures)
    names += sorted({n for a in ablations.values() for n in list_sets(a["figures"])} - set(names))
    rows: list[Sequence[Any]] = [("**this version**", *(figures.get(n, {}).get("nPL") for n in names))]
    for name, a in ablations.items():
        rows.append((name, *(_format_run(a["figures"].get(n), is_unseen=n in a["unseen"]) for n in names)))
    return format_table(("run", *names), rows)


def _format_baseline(baseline: dict[str, Any] | None) -> str:
    return f"{baseline['nPL']:.4f} `{baseline['name']}`" if baseline else ""


def _format_run(figures: dict[str, Any] | None, *, is_unseen: bool) -> str:
    if figures is None:
        return ""
    loss = f"{figures['nPL']:.4f}"
    return f"{loss}* ({figures['ratio_24h']:.2f}, {figures['ratio_best']:.2f})" if is_unseen else loss


def _format_cell(cell: Any) -> str:
    if cell is None:
        return ""
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)
