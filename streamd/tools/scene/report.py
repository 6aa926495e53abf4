"""Formats the result of a scene as a table for people. Pure."""

from collections.abc import Sequence

from streamd.tools.loadtest.terminal import Terminal, format_thousands
from streamd.tools.scene.scene import AgentResult, SceneResult, describe_gaps

HEADINGS = (
    "agent",
    "delivered",
    "again",
    "lost",
    "rows",
    "missing",
    "while away",
    "incomplete",
    "features",
    "forecasts",
)


def format_scene(result: SceneResult, terminal: Terminal) -> list[str]:
    """Format the lines to print at the end: the table, the remarks of each agent, streamd's counts, and the verdict."""
    rows = [list(HEADINGS), *(_make_row(each, result) for each in result.agents)]
    legend = "delivered, again, lost: samples, as the agent counts them; while away: the missing rows of that time"
    described = [(each.agent.server, _describe_result(each, result.step_seconds, terminal)) for each in result.agents]
    counted = [
        (protocol, ", ".join(f"{value:,} {name}" for name, value in counts.items() if value))
        for protocol, counts in result.counts.items()
    ]
    return [
        *("", terminal.draw_rule("what was lost, and by whom"), ""),
        *_align_columns(rows, terminal),
        *("", f"  {terminal.dim(legend)}", ""),
        *terminal.format_pairs(described),
        *("", terminal.draw_rule("what streamd counted"), ""),
        *terminal.format_pairs(counted),
        *("", terminal.draw_rule("verdict"), ""),
        *(f"  {line}" for line in _format_verdict(result, terminal)),
        "",
    ]


def _format_verdict(result: SceneResult, terminal: Terminal) -> list[str]:
    lines = []
    if result.difference is not None:
        largest, place = result.difference
        compared = f"{result.compared_rows} rows of Prometheus beside its own database differ by {largest:.1e} at most"
        lines.append(f"{compared} ({place})" if largest else compared)
    faults = result.list_faults()
    lossless = " and ".join(each.agent.server for each in result.agents if each.agent.is_lossless)
    if faults:
        lines += [terminal.paint_bad(fault) for fault in faults]
    elif lossless:
        lines.append(terminal.paint_good(f"rows as if nothing had happened, of {lossless}"))
    else:
        lines.append("no agent that keeps its samples took part")
    return lines


def _make_row(each: AgentResult, result: SceneResult) -> list[str]:
    sent, check = each.sent, each.check
    away = result.list_away_steps()
    return [
        each.agent.server,
        format_thousands(sent.delivered),
        format_thousands(sent.repeated),
        format_thousands(sent.lost),
        f"{check.expected - len(check.missing)}/{check.expected}",
        str(len(check.missing)),
        str(len([step for step in check.missing if step in away])),
        str(len(check.incomplete)),
        str(len(check.features)),
        str(result.forecasts[each.agent.server]),
    ]


def _describe_result(each: AgentResult, step_seconds: int, terminal: Terminal) -> str:
    if each.check.is_whole and not each.emptied:
        words = terminal.paint_good("nothing is missing")
    elif each.agent.is_lossless:
        words = terminal.paint_bad(describe_gaps(each.check, step_seconds))
    else:
        words = describe_gaps(each.check, step_seconds)
    return words + (f"; {terminal.dim(each.sent.remark)}" if each.sent.remark else "")


def _align_columns(rows: Sequence[Sequence[str]], terminal: Terminal) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        line = "  " + "  ".join(cells)
        lines.append(line if number else terminal.dim(line))
    return lines
