"""Tests `streamd/runtime/remote_write/requests.py`: the labels and times of the samples.

Labels are sorted, and of two forecasts of one time the later one is stamped later.
"""

import cramjam
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.forecast_export.choice import ExportSettings, ForecastExport
from streamd.runtime.forecast_exports import ExportedForecasts
from streamd.runtime.remote_write.requests import ForecastPart, RequestMaker
from tests.support.contracts import make_contract
from tests.support.remote_write_bodies import RemoteSeries, read_request_1

CONTRACT = make_contract()
EXPORT = ForecastExport(
    ExportSettings(servers=("*",), horizons=("5m", "20m"), quantiles=(0.1, 0.5), targets=("cpu",)), CONTRACT
)
MAKER = RequestMaker(EXPORT, CONTRACT.step_seconds, CONTRACT.horizon)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


def make_part(names: list[str], *, is_current: bool, origin: int = 1_700_000_100, level: float = 0.0) -> ForecastPart:
    count = len(names)
    values = np.arange(count * len(EXPORT.cells), dtype=np.float32).reshape(count, len(EXPORT.cells))
    curves = np.arange(count * 2 * CONTRACT.horizon, dtype=np.float32).reshape(count, 1, 2, CONTRACT.horizon)
    origins = np.full(count, origin, np.int64)
    return ForecastPart(
        current=ExportedForecasts(names, origins, values) if is_current else None,
        now=1_700_000_123.4567,
        curve_names=[] if is_current else names,
        curve_origins=origins,
        curves=curves + np.float32(level),
        curve_sent=np.ones((count, 1), np.bool_),
    )


def read_series(part: ForecastPart) -> list[RemoteSeries]:
    request = MAKER.make_request(part)
    series = read_request_1(bytes(cramjam.snappy.decompress_raw(request.body)))
    assert request.samples == sum(len(samples) for _, samples in series)
    for labels, _ in series:
        assert [name for name, _ in labels] == sorted(name for name, _ in labels)
    return series


@given(st.lists(NAMES, max_size=3, unique=True))
def test_current_values_have_the_time_of_sending(names: list[str]) -> None:
    part = make_part(names, is_current=True)
    assert part.current is not None
    expected = []
    for name, row in zip(names, part.current.values.tolist(), strict=True):
        for cell, value in zip(EXPORT.cells, row, strict=True):
            labels = {"horizon": cell.horizon, "quantile": cell.quantile, "server": name, "target": "cpu"}
            expected.append(({"__name__": "streamd_forecast", **labels}, [(1_700_000_123_457, value)]))
        labels = {"__name__": "streamd_forecast_origin_timestamp_seconds", "server": name}
        expected.append((labels, [(1_700_000_123_457, 1_700_000_100.0)]))
    assert [(dict(labels), samples) for labels, samples in read_series(part)] == expected


def test_a_missing_value_has_no_series() -> None:
    part = make_part(["a"], is_current=True)
    assert part.current is not None
    part.current.values[0, 1] = np.nan
    assert len(read_series(part)) == len(EXPORT.cells)
    curves = make_part(["a", "b"], is_current=False)
    curves.curve_sent[0, 0] = False
    assert {dict(labels)["server"] for labels, _ in read_series(curves)} == {"b"}


def test_of_a_time_a_later_forecast_has_the_later_stamp_and_none_is_used_twice() -> None:
    stamped: dict[int, dict[int, int]] = {}
    for number in range(6):
        origin = 1_700_000_100 + 300 * number
        series = read_series(make_part(["a"], is_current=False, origin=origin, level=100.0 * number))
        assert [dict(labels) for labels, _ in series] == [
            {"__name__": "streamd_forecast_at", "quantile": quantile, "server": "a", "target": "cpu"}
            for quantile in ("0.1", "0.5")
        ]
        for step, (time, value) in enumerate(series[0][1]):
            assert value == 100.0 * number + step
            about = origin + 300 * step
            assert about * 1_000 - 5 < time <= about * 1_000
            stamped.setdefault(about, {})[number] = time
    for times in stamped.values():
        assert list(times.values()) == sorted(set(times.values())), "in the order of the forecasts, each once"
