"""Tests `streamd/core/forecast_export/exposition.py`: any name and value can be read back, by two parsers."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from streamd.core.forecast_export.choice import ExportSettings, ForecastExport
from streamd.core.forecast_export.exposition import (
    FORECAST_METRIC,
    OPENMETRICS_END,
    ORIGIN_METRIC,
    ForecastText,
    describe_forecast_metric,
    format_family_head,
    format_origins,
)
from tests.support.contracts import make_contract

CONTRACT = make_contract(targets=('m"e\\m', "cpu"), features=('m"e\\m', "cpu", "net"), units={"cpu": "per\\cent\n"})
EXPORT = ForecastExport(ExportSettings(servers=("*",), horizons=("5m", "20m")), CONTRACT)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False)


def write_page(names: list[str], values: "np.typing.NDArray[np.float32]") -> str:
    text = format_family_head(FORECAST_METRIC, describe_forecast_metric(EXPORT, CONTRACT.units))
    text += ForecastText(EXPORT).format_forecasts(names, values)
    text += format_family_head(ORIGIN_METRIC, "text") + format_origins(names, np.arange(len(names)) + 1_700_000_000)
    return text.decode()


@given(st.lists(NAMES, max_size=4, unique=True), st.data())
def test_both_parsers_read_the_names_and_values_back(names: list[str], data: st.DataObject) -> None:
    shape = len(names), len(EXPORT.cells)
    numbers = data.draw(st.lists(st.none() | VALUES, min_size=math.prod(shape), max_size=math.prod(shape)))
    values = np.array([math.nan if number is None else number for number in numbers], np.float32).reshape(shape)
    page = write_page(names, values)
    expected = {
        (name, cell.target, cell.horizon, cell.quantile): value
        for name, row in zip(names, values.tolist(), strict=True)
        for cell, value in zip(EXPORT.cells, row, strict=True)
        if not math.isnan(value)
    }
    for parse, text in ((parse_text, page), (parse_open, page + OPENMETRICS_END.decode())):
        families = {family.name: family for family in parse(text)}
        assert set(families) == {FORECAST_METRIC, ORIGIN_METRIC}
        assert families[FORECAST_METRIC].documentation.endswith('(m"e\\m: as its samples, cpu: per\\cent\n)')
        keys = ("server", "target", "horizon", "quantile")
        found = {tuple(each.labels[key] for key in keys): each.value for each in families[FORECAST_METRIC].samples}
        assert {key: np.float32(value) for key, value in found.items()} == expected
        origins = {each.labels["server"]: each.value for each in families[ORIGIN_METRIC].samples}
        assert origins == {name: 1_700_000_000 + place for place, name in enumerate(names)}


def test_a_value_has_the_fewest_digits_that_are_its_own() -> None:
    values = np.full((1, len(EXPORT.cells)), 0.1, np.float32)
    line = ForecastText(EXPORT).format_forecasts(["a"], values).splitlines()[0]
    assert line == b'streamd_forecast{server="a",target="m\\"e\\\\m",horizon="5m",quantile="0.1"} 0.1'
