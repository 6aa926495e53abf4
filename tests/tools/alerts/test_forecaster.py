"""Tests `streamd/tools/alerts/forecaster.py`: windows of any origin, as the daemon would have filled them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamd.core.calendar import compute_known_future
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError
from streamd.tools.alerts.forecaster import FleetForecaster
from streamd.tools.fleets.fleet import RecordedFleet

CONTRACT = ModelContract(("cpu", "net"), ("net", "cpu"), (0.1, 0.5), context_length=3, horizon=2, step_seconds=300)
NAN = np.nan
SERIES = np.array([[[1.0], [NAN], [3.0], [4.0]], [[5.0], [6.0], [7.0], [np.inf]]], np.float32)
FLEET = RecordedFleet(("a", "b"), ("net",), 1000, SERIES)


class RecordingNetwork:
    """Keeps what it was given, and answers with numbers that say where they stand."""

    def __init__(self, add: float = 0.0) -> None:
        self.inputs: dict[str, np.ndarray] = {}
        self._add = add

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        self.inputs = inputs
        shape = (len(inputs["encoder_cont"]), 2, 2, 2)
        return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)[..., ::-1] + self._add


def run(servers: list[int], origins: list[int], *, ids: dict[str, int] | None = None, add: float = 0.0) -> Any:
    network = RecordingNetwork(add)
    forecaster = FleetForecaster(FLEET, CONTRACT, network, ids)
    return forecaster.forecast(np.array(servers), np.array(origins)), network.inputs


def test_a_window_ends_before_its_origin_and_lacks_what_the_fleet_lacks() -> None:
    _, inputs = run([0, 1], [3, 1])
    expected = [[[NAN, 1.0], [NAN, NAN], [NAN, 3.0]], [[NAN, NAN], [NAN, NAN], [NAN, 5.0]]]
    np.testing.assert_array_equal(inputs["encoder_cont"], np.array(expected, np.float32))


def test_the_calendar_is_that_of_the_steps_after_the_newest_row() -> None:
    _, inputs = run([0], [3])
    np.testing.assert_array_equal(inputs["decoder_cont"][0], compute_known_future(1002, 2, 300))


def test_a_version_that_remembers_gets_the_hours_before_each_origin() -> None:
    contract = replace(CONTRACT, memory_length=2, memory_step_seconds=600)
    network = RecordingNetwork()
    FleetForecaster(FLEET, contract, network).forecast(np.array([0, 1, 0]), np.array([4, 2, 3]))
    expected = [[1.0, 3.5], [NAN, 5.5], [1.0, 1.0]]  # the last one: half of an hour is over
    np.testing.assert_array_equal(network.inputs["memory_cont"][..., 1], np.array(expected, np.float32))
    assert np.isnan(network.inputs["memory_cont"][..., 0]).all()


def test_servers_get_the_ids_that_the_version_knows_them_by() -> None:
    _, inputs = run([0, 1], [3, 3], ids={"b": 7})
    assert inputs["encoder_cat"][..., 0].tolist() == [[0, 0, 0], [7, 7, 7]]
    assert inputs["decoder_cat"][..., 0].tolist() == [[0, 0], [7, 7]]
    assert not inputs["encoder_cat"][..., 1].any()


def test_forecasts_come_by_target_with_sorted_quantiles() -> None:
    found, _ = run([0], [3])
    assert found.values[0, 0].tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert found.is_finite.tolist() == [True]


def test_a_target_without_a_value_in_the_window_is_unknown() -> None:
    found, _ = run([0, 1], [3, 4])
    assert np.isnan(found.values[:, 1]).all()
    assert np.isfinite(found.values[:, 0]).all()


def test_a_forecast_that_is_not_finite_would_not_be_delivered() -> None:
    found, _ = run([0], [3], add=np.inf)
    assert found.is_finite.tolist() == [False]


def test_contexts_count_the_rows_that_a_window_really_has() -> None:
    forecaster = FleetForecaster(FLEET, CONTRACT, RecordingNetwork())
    assert forecaster.count_contexts(np.array([0, 0, 1]), np.array([1, 4, 4])).tolist() == [1, 2, 2]
    assert forecaster.has_row.tolist() == [[True, False, True, True], [True, True, True, False]]


def test_a_fleet_without_values_is_refused() -> None:
    empty = RecordedFleet(("a",), ("net",), 0, np.full((1, 4, 1), NAN, np.float32))
    with pytest.raises(ConfigError, match="no row with a value"):
        FleetForecaster(empty, CONTRACT, RecordingNetwork())
