"""Draws one frame of `streamd top` as lines of text that fit into the terminal. Knows no terminal and no daemon."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamd.tools.engine.text_table import align_columns
from streamd.tools.top.rates import SampleChange
from streamd.tools.top.reader import DaemonSample

HISTOGRAMS = (
    ("forecast age", "streamd_forecast_age_seconds"),
    ("queue delay", "streamd_queue_delay_seconds"),
    ("inference", "streamd_inference_seconds"),
)
SHOWN_QUANTILES = (0.5, 0.9, 0.99)

MAX_LISTED = 12
"""The most lanes and protocols that a frame lists; the rest is counted."""


def draw_frame(change: SampleChange, url: str, before: DaemonSample | None = None) -> list[str]:
    """Return the lines of a frame; `before` is the sample that `change` began with."""
    return [
        *_draw_head(change, url),
        "",
        *_draw_rates(change),
        "",
        *_draw_latency(change),
        "",
        *_draw_lanes(change, before),
        *_draw_batches(change),
        *_draw_agents(change),
    ]


def clip_lines(lines: Sequence[str], columns: int, rows: int | None = None) -> list[str]:
    """Cut lines to a terminal's size; `rows` is `None` for output that scrolls.

    Characters that a terminal would obey instead of showing are replaced: a frame has texts of the daemon.
    """
    shown = ["".join(letter if letter.isprintable() else "?" for letter in line) for line in lines]
    cut = [line if len(line) <= columns else f"{line[: max(columns - 1, 0)]}…" for line in shown]
    return cut if rows is None or len(cut) <= rows else cut[: max(rows, 0)]


def _draw_head(change: SampleChange, url: str) -> Iterator[str]:
    status, now = change.now.status, change.now
    backend = status.get("backend") or "no backend yet"
    up = format_duration(now.get("streamd_uptime_seconds") or 0.0)
    yield f"streamd {url}   up {up}{'   RESTARTED' if change.is_restarted else ''}"
    yield f"{status.get('engine', '?')} on {backend}"
    condition = "draining" if status.get("draining") else "ready" if status.get("ready") else "NOT READY"
    yield f"{condition}{'   STUCK: ' + str(status['stall']) if status.get('stall') else ''}"
    for fallback in status.get("fallbacks", ())[:3]:
        yield f"passed over {fallback.get('backend', '?')}: {fallback.get('reason', '')}"


def _draw_rates(change: SampleChange) -> Iterator[str]:
    now, rate = change.now, change.get_rate
    capacity = now.status.get("capacity")
    accepted = rate("streamd_samples_total", result="accepted")
    rows = [
        (
            ("rows/s", format_rate(rate("streamd_rows_total", state="closed"))),
            ("forecasts/s", format_rate(rate("streamd_rows_total", state="delivered"))),
            ("superseded/s", format_rate(rate("streamd_rows_total", state="superseded"))),
            ("failed/s", format_rate(rate("streamd_rows_total", state="failed"))),
        ),
        (
            ("samples/s", format_rate(accepted)),
            ("rejected/s", format_rate(_subtract(rate("streamd_samples_total"), accepted))),
            ("due", format_count(now.get("streamd_due"))),
            ("waiting", format_count(now.get("streamd_waiting"))),
        ),
        (
            ("servers", format_count(now.get("streamd_servers"))),
            ("capacity", format_count(capacity if isinstance(capacity, int) else None)),
            ("in flight", format_count(now.get("streamd_in_flight"))),
            ("predict calls", format_count(now.get("streamd_predict_calls"))),
        ),
        (
            ("subscribers", format_count(now.get("streamd_subscribers"))),
            ("dropped/s", format_rate(rate("streamd_forecasts_dropped_total"))),
            ("series", format_count(now.get("streamd_series"))),
            ("memory", format_memory(now.get("streamd_resident_memory_bytes"))),
        ),
    ]
    yield from align_columns([tuple(f"{name} {value}" for name, value in row) for row in rows])


def _draw_latency(change: SampleChange) -> Iterator[str]:
    lines = [("latency", *(f"p{quantile * 100:g}" for quantile in SHOWN_QUANTILES))]
    for name, histogram in HISTOGRAMS:
        lines.append((name, *map(format_seconds, change.estimate_quantiles(histogram, SHOWN_QUANTILES))))
    yield from align_columns(lines)


def _draw_lanes(change: SampleChange, before: DaemonSample | None) -> Iterator[str]:
    lanes: list[Mapping[str, Any]] = list(change.now.status.get("lanes", ()))
    former = {lane.get("name"): lane for lane in before.status.get("lanes", ())} if before is not None else {}
    lines: list[tuple[str, ...]] = [("lane", "device", "batches", "windows", "failures", "busy")]
    for lane in lanes[:MAX_LISTED]:
        earlier = former.get(lane.get("name"), {})
        busy = change.get_share(float(lane.get("busy_seconds", 0.0)), float(earlier.get("busy_seconds", 0.0)))
        counts = (format_count(lane.get(field)) for field in ("batches", "windows", "failures"))
        lines.append((str(lane.get("name", "?")), str(lane.get("device", "?")), *counts, format_percent(busy)))
    yield from align_columns(lines)
    if len(lanes) > MAX_LISTED:
        yield f"and {len(lanes) - MAX_LISTED} more lanes"
    if lost := change.now.status.get("lanes_lost"):
        yield f"{len(lost)} lanes were lost; the last: {lost[-1]}"


def _draw_batches(change: SampleChange) -> Iterator[str]:
    """Yield the batches since start by the reason for their size, the most frequent first."""
    reasons = change.now.list_by_label("streamd_batches_total", "reason").items()
    counts = sorted(((count, reason) for reason, count in reasons if count), reverse=True)
    if counts:
        yield "batches   " + "   ".join(f"{reason} {format_count(count)}" for count, reason in counts)


def _draw_agents(change: SampleChange) -> Iterator[str]:
    protocols = sorted(change.now.list_by_label("streamd_agent_bodies_total", "protocol").items())
    if not protocols:
        return
    taken = change.get_rate("streamd_agent_points_total", result="taken")
    refused = change.get_rate("streamd_agent_refused_bodies_total")
    yield ""
    yield f"agents   points taken/s {format_rate(taken)}   bodies refused/s {format_rate(refused)}"
    lines = [("protocol", "bodies", "bodies/s")]
    for protocol, bodies in protocols[:MAX_LISTED]:
        rate = change.get_rate("streamd_agent_bodies_total", protocol=protocol)
        lines.append((protocol, format_count(bodies), format_rate(rate)))
    yield from align_columns(lines)


# ---------------------------------------------------------------- numbers
def _subtract(whole: float | None, part: float | None) -> float | None:
    return None if whole is None or part is None else max(whole - part, 0.0)


def format_rate(rate: float | None) -> str:
    """Format a rate: one digit below ten, else thousands; a dash if it is not known."""
    if rate is None:
        return "-"
    return f"{rate:.1f}" if rate < 10.0 else f"{rate:,.0f}"


def format_count(count: float | None) -> str:
    """Format a number as `12,345`; a dash if it is not known."""
    return "-" if count is None else f"{count:,.0f}"


def format_percent(share: float | None) -> str:
    """Format a share as a percentage; a dash if it is not known."""
    return "-" if share is None else f"{share * 100:.0f} %"


def format_memory(count: float | None) -> str:
    """Format bytes in MiB, or in GiB from one on; a dash if they are not known."""
    if count is None:
        return "-"
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def format_seconds(seconds: float | None) -> str:
    """Format seconds in ms below one, else in s; a dash if they are not known."""
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1.0 else f"{seconds * 1e3:.1f} ms"


def format_duration(seconds: float) -> str:
    """Format a long time by its two largest units."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3_600), int(seconds // 86_400)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"
