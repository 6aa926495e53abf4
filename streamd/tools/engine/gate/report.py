"""What the accuracy gate said, for people: a table for the terminal, and lines for the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GATE_HEADER = ("precision", "backend", "verdict", "correlation", "relative error", "largest", "pinball", "change")


def format_gate_table(result: Mapping[str, Any]) -> str:
    """A line a precision, then why those that fail do, and what was passed over."""
    rows = [GATE_HEADER, *(_row(precision, said) for precision, said in result["validation"].items())]
    lines = [result["version"], *_aligned(rows)]
    for precision, said in result["validation"].items():
        lines += [f"{precision} fails: {reason}" for reason in said["reasons"]]
        lines += [f"{precision}: {line}" for line in _blame_lines(said.get("blame", {}))]
    lines += [f"passed over {precision}: {why}" for precision, why in result["passed_over"].items()]
    lines += [
        f"{precision} does not run, so it has no new verdict: {why}" for precision, why in result["failed"].items()
    ]
    return "\n".join(lines)


def format_log_lines(validation: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line a precision."""
    lines = []
    for said in validation.values():
        verdict = "passed" if said["promotable"] else f"refused: {'; '.join(said['reasons'])}"
        change = said["pinball_change"]
        loss = "" if change is None else f", pinball loss {change:+.3%}"
        figures = f"correlation {said['correlation']:.6f}, relative error {said['relative_error']:.1e}{loss}"
        lines.append(f"accuracy gate, {said['file']} on {said['backend']}: {verdict} ({figures}; {said['data']})")
    return lines


def _row(precision: str, said: Mapping[str, Any]) -> tuple[str, ...]:
    loss, change = said["pinball"], said["pinball_change"]
    return (
        precision,
        said["backend"],
        "passed" if said["promotable"] else "refused",
        f"{said['correlation']:.6f}",
        f"{said['relative_error']:.1e}",
        f"{said['largest_relative_error']:.1e}",
        "-" if loss is None else f"{loss:.5f}",
        "-" if change is None else f"{change:+.3%}",
    )


def _blame_lines(blame: Mapping[str, Any]) -> list[str]:
    if "unknown" in blame:
        return [f"the nodes are not known: {blame['unknown']}"]
    plan = [blame["plan"]] if "plan" in blame else []
    first = [f"first off at {blame['first']}"] if blame.get("first") else []
    return plan + first + [f"adds most: {layer}" for layer in blame.get("worst", [])]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = ([text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in padded]
