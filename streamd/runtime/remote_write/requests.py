"""Makes the bodies of remote write requests from forecasts that were copied off the board. Has no clock, sends nothing.

Runs in a thread: what it is given belongs to it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Numbers
from streamd.core.forecast_export.choice import ForecastExport
from streamd.core.forecast_export.exposition import FORECAST_METRIC, ORIGIN_METRIC
from streamd.protocols.prometheus.labels import METRIC_NAME
from streamd.protocols.prometheus.series_encoding import encode_label, encode_request, encode_samples, encode_series
from streamd.runtime.forecast_exports import ExportedForecasts

CURVE_METRIC = "streamd_forecast_at"
"""The metric whose samples have the times that are forecast."""


@dataclass(frozen=True, kw_only=True)
class ForecastPart:
    """Forecasts of some servers, as one request sends them."""

    current: ExportedForecasts | None
    """The values at the chosen horizons, which are sent with the time `now`; `None` if they are not sent."""
    now: float
    """Epoch seconds."""
    curve_names: list[str]
    """The servers whose whole curves are sent."""
    curve_origins: Numbers
    """Epoch seconds, `(n,)`."""
    curves: Float32
    """`(n, targets, quantiles, horizon)`."""
    curve_sent: npt.NDArray[np.bool_]
    """Whether an agent sends the target and its forecast is known, `(n, targets)`."""


@dataclass(frozen=True, slots=True)
class RemoteWriteRequest:
    """A body, and the number of its samples."""

    body: bytes
    samples: int


class RequestMaker:
    """Makes requests with the labels of one export, sorted by their names."""

    def __init__(self, export: ForecastExport, step_seconds: int, horizon: int) -> None:
        # In milliseconds. A later forecast of a time must beat an earlier one, and a store keeps only one sample of a
        # time. So step k of a forecast is stamped k ms before its time: the fewer steps ahead, the later the stamp.
        self._curve_offsets = np.arange(horizon, dtype=np.int64) * (step_seconds * 1_000 - 1)
        self._origin_head = encode_label(METRIC_NAME, ORIGIN_METRIC)
        self._cells = [
            (
                encode_label(METRIC_NAME, FORECAST_METRIC)
                + encode_label("horizon", cell.horizon)
                + encode_label("quantile", cell.quantile),
                encode_label("target", cell.target),
            )
            for cell in export.cells
        ]
        self._curve_heads = [
            encode_label(METRIC_NAME, CURVE_METRIC) + encode_label("quantile", quantile)
            for quantile in export.quantile_labels
        ]
        self._targets = [encode_label("target", target) for target in export.target_names]

    def make_request(self, part: ForecastPart) -> RemoteWriteRequest:
        """Return the body that sends a part."""
        series: list[bytes] = []
        if part.current is not None:
            self._add_current(series, part.current, round(part.now * 1_000))
        samples = len(series)
        if part.curve_names:
            self._add_curves(series, part)
        samples += (len(series) - samples) * len(self._curve_offsets)
        return RemoteWriteRequest(encode_request(series), samples)

    def _add_current(self, series: list[bytes], current: ExportedForecasts, now_ms: int) -> None:
        times = np.array(now_ms, np.int64)
        samples = encode_samples(times, current.values.astype(np.float64))
        origins = encode_samples(times, current.origins.astype(np.float64))
        missing = np.isnan(current.values).tolist()
        for place, name in enumerate(current.names):
            server = encode_label("server", name)
            row = samples[place].tobytes()
            size = samples.itemsize
            for cell, (head, target) in enumerate(self._cells):
                if not missing[place][cell]:
                    series.append(encode_series((head, server, target), row[cell * size : (cell + 1) * size]))
            series.append(encode_series((self._origin_head, server), origins[place].tobytes()))

    def _add_curves(self, series: list[bytes], part: ForecastPart) -> None:
        origins = part.curve_origins * 1_000
        times = origins[:, None, None, None] + self._curve_offsets
        samples = encode_samples(times, part.curves.astype(np.float64))
        for place, name in enumerate(part.curve_names):
            server = encode_label("server", name)
            for number in np.flatnonzero(part.curve_sent[place]).tolist():
                for quantile, head in enumerate(self._curve_heads):
                    curve = samples[place, number, quantile].tobytes()
                    series.append(encode_series((head, server, self._targets[number]), curve))
