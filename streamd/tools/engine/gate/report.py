"""Formats the gate's verdicts: a table for the terminal, and lines for the log. It judges nothing."""

from collections.abc import Mapping
from typing import Any

from streamd.tools.engine.text_table import align_columns

GATE_HEADER = ("precision", "backend", "verdict", "correlation", "relative error", "largest", "pinball", "change")


def format_gate_table(result: Mapping[str, Any]) -> str:
    """Format a line for each precision, then the reasons of those that fail, and what was passed over."""
    rows = [GATE_HEADER, *(_make_row(precision, entry) for precision, entry in result["validation"].items())]
    lines = [result["version"], *align_columns(rows)]
    for precision, entry in result["validation"].items():
        lines += [f"{precision} fails: {reason}" for reason in entry["reasons"]]
        lines += [f"{precision}: {line}" for line in _format_blame(entry.get("blame", {}))]
    lines += [f"passed over {precision}: {why}" for precision, why in result["passed_over"].items()]
    lines += [
        f"{precision} does not run, so it has no new verdict: {why}" for precision, why in result["failed"].items()
    ]
    return "\n".join(lines)


def format_log_lines(validation: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Format a line for each precision."""
    lines = []
    for entry in validation.values():
        verdict = "passed" if entry["promotable"] else f"refused: {'; '.join(entry['reasons'])}"
        change = entry["pinball_change"]
        loss = "" if change is None else f", pinball loss {change:+.3%}"
        numbers = f"correlation {entry['correlation']:.6f}, relative error {entry['relative_error']:.1e}{loss}"
        lines.append(f"accuracy gate, {entry['file']} on {entry['backend']}: {verdict} ({numbers}; {entry['data']})")
    return lines


def _make_row(precision: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    loss, change = entry["pinball"], entry["pinball_change"]
    return (
        precision,
        entry["backend"],
        "passed" if entry["promotable"] else "refused",
        f"{entry['correlation']:.6f}",
        f"{entry['relative_error']:.1e}",
        f"{entry['largest_relative_error']:.1e}",
        "-" if loss is None else f"{loss:.5f}",
        "-" if change is None else f"{change:+.3%}",
    )


def _format_blame(blame: Mapping[str, Any]) -> list[str]:
    if "unknown" in blame:
        return [f"the nodes are not known: {blame['unknown']}"]
    plan = [blame["plan"]] if "plan" in blame else []
    first = [f"first off at {blame['first']}"] if blame.get("first") else []
    return plan + first + [f"adds most: {layer}" for layer in blame.get("worst", [])]
