"""Adds up what the processes of a daemon have counted, for `/v1/status` and `/metrics`. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

SUMMED = tuple(
    f"streamd_{name}"
    for name in (
        *("samples", "refused_frames", "rows", "ignored_features", "forecasts_dropped", "subscribers"),
        *("forecast_age_seconds", "connections", "connections_closed", "pending_bytes", "peers_left"),
        *("malformed_requests", "refused_requests", "servers_rewound", "trace_spans", "resident_memory_bytes"),
    )
)
"""The metrics that each process has for itself; of all others the engine process knows the whole."""

_SUFFIXES = ("", "_total", "_bucket", "_sum", "_count")


def merge_status(status: dict[str, Any], others: Iterable[Mapping[str, Any]]) -> None:
    """Add the numbers of other processes to a status, entry by entry; an entry that only they have is added."""
    for other in others:
        for name, value in other.items():
            if isinstance(value, Mapping):
                merge_status(status.setdefault(name, {}), [value])
            else:
                status[name] = status.get(name, 0) + value


def merge_metrics(text: bytes, others: Iterable[bytes]) -> bytes:
    """Return metrics in the Prometheus format with those of `SUMMED` added up over all processes."""
    lines = text.decode().splitlines()
    values = {_read_series(line): float(line.rpartition(" ")[2]) for line in lines if _is_summed(line)}
    added: dict[str, float] = {}
    for other in others:
        for line in filter(_is_summed, other.decode().splitlines()):
            series, value = _read_series(line), float(line.rpartition(" ")[2])
            into = values if series in values else added
            into[series] = into.get(series, 0.0) + value
    merged = [f"{_read_series(line)} {values[_read_series(line)]!r}" if _is_summed(line) else line for line in lines]
    for series, value in added.items():
        merged.insert(_find_place(merged, series), f"{series} {value!r}")
    return ("\n".join(merged) + "\n").encode()


def _read_series(line: str) -> str:
    return line.rpartition(" ")[0]


def _read_name(line: str) -> str:
    return line.partition("{")[0].partition(" ")[0]


def _is_summed(line: str) -> bool:
    name = _read_name(line)
    return not line.startswith("#") and any(name == f"{each}{suffix}" for each in SUMMED for suffix in _SUFFIXES)


def _find_place(lines: list[str], series: str) -> int:
    """Return the place behind the last line of a series' name: its other labels, or the text about it."""
    name = _read_name(series)
    family = name.removesuffix("_total")
    last = 0
    for place, line in enumerate(lines):
        if _read_name(line) == name or line.startswith((f"# TYPE {family} ", f"# TYPE {name} ")):
            last = place
    return last + 1
