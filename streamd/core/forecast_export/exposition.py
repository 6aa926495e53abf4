"""Forecasts in the Prometheus text format 0.0.4, which OpenMetrics reads too but for its last line.

Formats many servers at once, because a scrape may have 100,000 lines. Pure.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import orjson

from streamd.core.arrays import Float32, Numbers
from streamd.core.forecast_export.choice import ForecastExport

FORECAST_METRIC = "streamd_forecast"
ORIGIN_METRIC = "streamd_forecast_origin_timestamp_seconds"
LEFT_OUT_METRIC = "streamd_forecast_series_left_out"

OPENMETRICS_END = b"# EOF\n"

_MISSING = b"null"


def escape_label_value(text: str) -> bytes:
    """Return a label's value as it stands between its quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").encode()


def format_family_head(metric: str, text: str) -> bytes:
    """Return the lines before the series of a gauge."""
    shown = text.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {metric} {shown}\n# TYPE {metric} gauge\n".encode()


def describe_forecast_metric(export: ForecastExport, units: Mapping[str, str]) -> str:
    """Return the help of the forecasts, with the unit of each target."""
    named = ", ".join(f"{target}: {units.get(target, 'as its samples')}" for target in export.target_names)
    return (
        "Forecast of the step that ends one horizon (a label) after the newest row of the server "
        f"(streamd_forecast_origin_timestamp_seconds), in the unit of its target ({named})"
    )


class ForecastText:
    """The lines of the forecasts of one export."""

    def __init__(self, export: ForecastExport) -> None:
        # The server comes first, so that all else is the same for each server.
        self._tails = [
            b',target="%b",horizon="%b",quantile="%b"} '
            % (escape_label_value(cell.target), escape_label_value(cell.horizon), cell.quantile.encode())
            for cell in export.cells
        ]

    def format_forecasts(self, names: Sequence[str], values: Float32) -> bytes:
        """Return the lines of servers with `values (n, cells)`; a value that is NaN has no line."""
        # orjson writes float32 with the fewest digits, ten times as fast as Python.
        texts = orjson.dumps(np.ascontiguousarray(values).reshape(-1), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        cells = texts.split(b",")
        lines: list[bytes] = []
        count = len(self._tails)
        for place, name in enumerate(names):
            head = b'streamd_forecast{server="%b"' % escape_label_value(name)
            some = cells[place * count : place * count + count]
            lines += [
                b"%b%b%b\n" % (head, tail, text)
                for tail, text in zip(self._tails, some, strict=True)
                if text != _MISSING
            ]
        return b"".join(lines)


def format_origins(names: Sequence[str], origins: Numbers) -> bytes:
    """Return the lines of the origins `(n,)` of servers' forecasts, in epoch seconds."""
    return b"".join(
        b'streamd_forecast_origin_timestamp_seconds{server="%b"} %d\n' % (escape_label_value(name), origin)
        for name, origin in zip(names, origins.tolist(), strict=True)
    )
