"""Tests `streamd/core/forecast_export/choice.py`.

A horizon is the step that ends so long after the origin, and what the model lacks is named.
"""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import ConfigError
from streamd.core.forecast_export.choice import ExportSettings, ForecastExport
from tests.support.contracts import make_contract

CONTRACT = make_contract(horizon=12)


def make_export(**settings: Any) -> ForecastExport:
    return ForecastExport(ExportSettings(**{"servers": ("*",), "horizons": ("5m", "1h"), **settings}), CONTRACT)


@pytest.mark.parametrize(
    ("horizon", "step"),
    [("5m", 0), ("300s", 0), ("1s", 0), ("301s", 1), ("10m", 1), ("0.5h", 5), ("1h", 11)],
)
def test_a_horizon_is_the_step_that_ends_then_or_is_not_over_then(horizon: str, step: int) -> None:
    export = make_export(horizons=(horizon,), targets=("mem",), quantiles=(0.5,))
    values = np.arange(12, dtype=np.float32)[None, None, :, None].repeat(2, axis=1).repeat(3, axis=3)
    assert export.cut(values, np.array([0])).tolist() == [[step]]


@given(
    st.lists(st.sampled_from(CONTRACT.targets), unique=True),
    st.lists(st.sampled_from(CONTRACT.quantiles), unique=True, min_size=1),
    st.lists(st.integers(1, 12), unique=True, min_size=1),
    st.lists(st.integers(0, 3), unique=True),
)
def test_each_cell_has_the_labels_of_its_value(
    targets: list[str], quantiles: list[float], steps: list[int], slots: list[int]
) -> None:
    export = make_export(
        targets=tuple(targets), quantiles=tuple(quantiles), horizons=tuple(f"{5 * step}m" for step in steps)
    )
    values = np.random.default_rng(1).normal(size=(4, *CONTRACT.forecast_shape)).astype(np.float32)
    cells = export.cut(values, np.array(slots, np.int64))
    assert cells.shape == (len(slots), len(targets or CONTRACT.targets) * len(quantiles) * len(steps))
    for row, slot in zip(cells, slots, strict=True):
        for cell, value in zip(export.cells, row, strict=True):
            target, quantile = CONTRACT.targets.index(cell.target), CONTRACT.quantiles.index(float(cell.quantile))
            assert value == values[slot, target, int(cell.horizon[:-1]) // 5 - 1, quantile]
    curves = export.cut_curves(values, np.array(slots, np.int64))
    for curve, slot in zip(curves, slots, strict=True):
        for target, name in enumerate(export.target_names):
            for quantile, label in enumerate(export.quantile_labels):
                wanted = values[slot, CONTRACT.targets.index(name), :, CONTRACT.quantiles.index(float(label))]
                assert curve[target, quantile].tolist() == wanted.tolist()


def test_horizons_beyond_the_model_are_left_out_and_named() -> None:
    export = make_export(horizons=("1h", "61m", "8h"))
    assert export.beyond == ("61m", "8h")
    assert {cell.horizon for cell in export.cells} == {"1h"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"targets": ("disk",)}, r"forecast_targets has 'disk', expected some of \['mem', 'cpu'\]"),
        ({"quantiles": (0.2,)}, r"forecast_quantiles has 0.2, expected some of \[0.1, 0.5, 0.9\]"),
        ({"quantiles": ()}, "forecast_quantiles is empty"),
        ({"horizons": ("soon",)}, "forecast_horizons: 'soon', expected a duration such as 30m"),
        ({"horizons": ("0m",)}, "forecast_horizons: '0m'"),
        ({"horizons": ("2h",)}, r"forecast_horizons: \['2h'\], expected one at least within 3600 s"),
        ({"horizons": ()}, "forecast_horizons"),
        ({"servers": ("*[a]x",) * 20_000}, "forecast_servers: servers has 20000 globs"),
    ],
)
def test_a_choice_that_the_model_cannot_serve_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make_export(**settings)


def test_the_age_is_counted_in_steps_and_0_is_no_limit() -> None:
    assert make_export(max_age_steps=3).max_age_seconds == 900
    assert make_export(max_age_steps=0).max_age_seconds == math.inf


def test_a_target_counts_as_sent_while_one_of_the_latest_rows_has_a_value() -> None:
    contract = make_contract(context_length=24, horizon=12)
    export = ForecastExport(ExportSettings(servers=("*",), horizons=("5m",)), contract)
    values = np.full((3, 24, 3), np.nan, np.float32)
    newest = np.array([49, 49, 47])
    values[0, 48 % 24, contract.feature_index["mem"]] = 1.0
    values[1, 47 % 24, contract.feature_index["mem"]] = 1.0  # older than 24 // 12 rows
    values[2, 47 % 24, contract.feature_index["cpu"]] = 1.0
    assert export.target_names == ("mem", "cpu")
    sent = export.find_sent_targets(values, newest, np.array([0, 1, 2]))
    assert sent.tolist() == [[True, False], [False, False], [False, True]]
