"""The result of a replay of captures as a table for people and as JSON for programs. Formats; reads nothing."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from streamd.tools.loadtest.capture_poster import AnswerKind
from streamd.tools.loadtest.capture_result import CaptureResult, ReplayedServer
from streamd.tools.loadtest.errors import Exit
from streamd.tools.loadtest.terminal import Terminal

LOW_LEVEL, MIDDLE_LEVEL, HIGH_LEVEL = 0.1, 0.5, 0.9
"""Levels of the quantiles that are shown, or the nearest ones of the model."""

SHOWN_PROBLEMS = 5

_REASONS = {
    "too_old": "the daemon has newer rows of their servers, which are final; forget these servers (DELETE"
    " /v1/servers/NAME), or replay into a daemon with a state folder of its own",
    "too_far_ahead": "their times are ahead of the daemon's clock",
}


def build_capture_report(result: CaptureResult) -> dict[str, Any]:
    """Build the JSON report of a result; times are epoch seconds."""
    dump, bodies, points = result.dump, result.bodies, result.points
    return {
        "exit": int(result.choose_exit()),
        "daemon": {"url": result.setup.url, "engine": result.status.engine, "backend": result.status.backend},
        "requests": {
            "taken": result.answers[AnswerKind.TAKEN],
            "partly_taken": result.answers[AnswerKind.PARTLY],
            "refused": result.answers[AnswerKind.REFUSED],
            "seconds": round(result.post_seconds, 3),
        },
        "unreadable_files": result.unreadable,
        "problems": [
            {"name": each.name, "reason": each.reason, "refused": each.is_refused} for each in result.problems
        ],
        "bodies": {
            "files": bodies.files,
            "points": bodies.points,
            "repeated": bodies.repeated,
            "lines_without_timestamp": bodies.stamped,
        },
        "dump": {
            "files": dump.files,
            "samples": dump.samples,
            "series": dump.series,
            "repeated": dump.repeated,
            "skipped": dict(dump.skipped),
            "unreadable_lines": dump.faults,
        },
        "points": {
            "taken": points.taken,
            "ignored": dict(+points.ignored),
            "skipped": dict(+points.skipped),
            "rejected": dict(+points.rejected),
        },
        "first_time": result.first_time,
        "last_time": result.last_time,
        "open_until": result.open_until,
        "lost": result.lost or None,
        "changed_servers": result.changed_servers,
        "servers": [_report_server(each, result) for each in result.servers],
        "notes": list_capture_notes(result),
    }


def format_capture_table(result: CaptureResult, terminal: Terminal) -> list[str]:
    """Format a result as lines to print."""
    lines = [terminal.draw_rule("captures"), *terminal.format_pairs(list(_list_counts(result)))]
    if result.problems:
        lines += [terminal.draw_rule("not taken"), *_format_problems(result, terminal)]
    if result.servers:
        shown, changed = len(result.servers), result.changed_servers
        title = f"servers with new rows: {shown} of {changed:,}" if shown < changed else "servers with new rows"
        lines += [
            terminal.draw_rule(title),
            *(line for each in result.servers for line in _format_server(each, result)),
        ]
    lines += [f"  {terminal.dim('note')}  {note}" for note in list_capture_notes(result)]
    return [*lines, terminal.draw_rule(), _format_end(result, terminal)]


def list_capture_notes(result: CaptureResult) -> list[str]:
    """List the notes for a reader of the numbers."""
    notes = [
        f"{count:,} points were rejected as {code}: {_REASONS[code]}"
        for code, count in sorted(result.points.rejected.items())
        if count > 0 and code in _REASONS
    ]
    repeated = result.dump.repeated + result.bodies.repeated
    if repeated:
        notes.append(f"{repeated:,} points have the series and the time of another one: each pair counts once")
    if result.bodies.stamped:
        notes.append(f"{result.bodies.stamped:,} lines have no timestamp: the daemon took them as of now")
    if result.open_until is not None:
        notes.append(
            f"the newest step is not over before {format_time(result.open_until)}: its rows close row_grace_seconds"
            " later (a longer --settle waits for them)"
        )
    if result.dump.faults:
        first = result.dump.listed_faults[0] if result.dump.listed_faults else ""
        notes.append(f"{result.dump.faults:,} lines of the dump cannot be read; {first}")
    if result.requests and not result.changed_servers and not result.lost:
        had = result.points.taken and result.open_until is None
        notes.append("no window has a new row" + (": the daemon had these rows before" if had else ""))
    if result.lost:
        notes.append(f"the daemon was lost, and nothing was sent after that: {result.lost}")
    return notes


def _list_counts(result: CaptureResult) -> Iterator[tuple[str, str]]:
    status, bodies, dump = result.status, result.bodies, result.dump
    yield "daemon", "  ".join(part for part in (result.setup.url, status.engine, status.backend) if part)
    if bodies.files:
        yield "bodies", f"{bodies.files:,} with {bodies.points:,} points"
    if dump.files:
        skipped = "".join(f", {count:,} of {reason} left out" for reason, count in sorted(dump.skipped.items()))
        yield "dump", f"{dump.samples:,} samples of {dump.series:,} series{skipped}"
    if result.first_time is not None and result.last_time is not None:
        yield "time", f"{format_time(result.first_time)} to {format_time(result.last_time)}"
    answers = ", ".join(f"{count:,} {kind}" for kind, count in sorted(result.answers.items()) if count)
    yield "posted", f"{result.requests:,} in {result.post_seconds:.1f} s" + (f": {answers}" if answers else "")
    points = result.points
    for name, counts in (("ignored", points.ignored), ("skipped", points.skipped), ("rejected", points.rejected)):
        if name == "ignored":
            yield "taken", f"{points.taken:,} points"
        if any((+counts).values()):
            yield name, _format_reasons(+counts)


def _format_reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def _format_problems(result: CaptureResult, terminal: Terminal) -> Iterator[str]:
    for each in result.problems[:SHOWN_PROBLEMS]:
        line = f"  {each.name}: {each.reason}" if each.name else f"  {each.reason}"
        yield terminal.paint_bad(line) if each.is_refused else line
    more = len(result.problems) - SHOWN_PROBLEMS
    more = max(more, 0) + result.dropped_problems
    if more:
        yield f"  and {more:,} more"


# ---------------------------------------------------------------- servers
def _format_server(server: ReplayedServer, result: CaptureResult) -> Iterator[str]:
    contract = result.status.contract
    until = "" if server.origin is None else f", up to {format_time(server.origin)}"
    missing = [name for name in contract.features if name not in server.features]
    features = f"{len(server.features)} of {len(contract.features)} features"
    if missing and server.have:
        features += f" (not {', '.join(missing)})"
    name = "".join(character if character.isprintable() else "?" for character in server.name)
    yield f"  {name}: {server.have:,} rows, {server.new:,} of them new{until}; {features}"
    yield from (f"    {line}" for line in _format_forecast(server, result))


def _format_forecast(server: ReplayedServer, result: CaptureResult) -> Iterator[str]:
    forecast = server.forecast
    if not forecast.values:
        yield f"{forecast.status or 'no forecast'} {forecast.have:,}/{forecast.need:,}"
        return
    chosen = result.setup.choose_targets(forecast.targets, server.features)
    width = max((len(name) for name in chosen), default=0)
    for name in chosen:
        steps = forecast.values[forecast.targets.index(name)]
        if steps is None:
            yield f"{name:<{width}}  unknown: no row of the window has a value"
            continue
        cells = (
            f"in {_format_duration((step + 1) * result.status.contract.step_seconds)}"
            f" {_format_quantiles(steps[step], forecast.quantiles)}"
            for step in _choose_steps(len(steps))
        )
        unit = result.status.contract.units.get(name, "")
        yield f"{name:<{width}}  {'   '.join(cells)}  {unit}".rstrip()


def _choose_steps(count: int) -> list[int]:
    """Return the first, the middle and the last of some steps."""
    return sorted({0, (count - 1) // 2, count - 1}) if count else []


def _format_quantiles(values: list[float | None], levels: list[float]) -> str:
    low, middle, high = (
        _format_value(values[min(range(len(levels)), key=lambda place: abs(levels[place] - level))])
        for level in (LOW_LEVEL, MIDDLE_LEVEL, HIGH_LEVEL)
    )
    return f"{middle} ({low} to {high})"


def _format_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _format_duration(seconds: int) -> str:
    if seconds < 3600:
        return f"{seconds / 60:g} min"
    return f"{seconds / 3600:.3g} h"


def _report_server(server: ReplayedServer, result: CaptureResult) -> dict[str, Any]:
    forecast = server.forecast
    chosen = result.setup.choose_targets(forecast.targets, server.features)
    return {
        "server": server.name,
        "rows": server.have,
        "new_rows": server.new,
        "origin": server.origin,
        "features": list(server.features),
        "forecast": {
            "origin": forecast.origin,
            "quantiles": forecast.quantiles,
            "targets": {name: forecast.values[forecast.targets.index(name)] for name in chosen},
        }
        if forecast.values
        else {"status": forecast.status, "have": forecast.have, "need": forecast.need},
    }


def _format_end(result: CaptureResult, terminal: Terminal) -> str:
    refused = result.answers[AnswerKind.REFUSED] + result.unreadable
    match result.choose_exit():
        case Exit.INTERRUPTED:
            return f"{terminal.paint_bad('stopped')}  before the end"
        case Exit.LOST if result.lost:
            return f"{terminal.paint_bad('LOST')}  the daemon no longer answers"
        case Exit.LOST:
            return f"{terminal.paint_bad('REFUSED')}  {refused:,} bodies or files; the others were taken"
        case Exit.NOTHING:
            return f"{terminal.paint_bad('NOTHING TAKEN')}  a mapping rule wants no point, or all were rejected"
        case _:
            rejected = (+result.points.rejected).total()
            more = terminal.paint_bad(f"; {rejected:,} points were rejected") if rejected else ""
            return f"{terminal.paint_good('complete')}  {result.points.taken:,} points taken{more}"


def format_time(seconds: float) -> str:
    """Format epoch seconds in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s"
