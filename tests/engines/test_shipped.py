"""Tests `engines`.

The engine versions that ship, as the daemon runs them: what the contract promises of every forecast.
"""

import csv
import gzip
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamd.core.calendar import compute_known_future
from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend
from streamd.repository.versions import EngineVersion, load_version

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = sorted(path.name for path in (ROOT / "engines").iterdir() if path.is_dir())
ORIGIN_STEP = 5_266_944  # a Monday in 2020, 00:00 UTC

Floats = npt.NDArray[np.float32]
Forecast = Callable[..., Floats]


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> EngineVersion:
    return load_version(ROOT / "engines" / request.param)


@pytest.fixture(scope="module")
def forecast(version: EngineVersion) -> Forecast:
    """Windows `(batch, context, features)`, with a memory or none, to `(batch, horizon, targets, quantiles)`."""
    lane = OnnxRuntimeCpuBackend(version.onnx, version.contract, (1, 32), threads_per_lane=1).make_lane(0)

    def run(
        windows: Floats,
        step: int = ORIGIN_STEP,
        status: int = 0,
        server_id: int = 0,
        memory: Floats | float = np.nan,
    ) -> Floats:
        count = len(windows)
        lane.inputs.encoder_cont[:count] = windows
        if lane.inputs.memory_cont is not None:
            lane.inputs.memory_cont[:count] = memory
        for buffer in (lane.inputs.encoder_cat, lane.inputs.decoder_cat):
            buffer[:count, :, 0] = server_id
            buffer[:count, :, 1] = status
        lane.inputs.decoder_cont[:count] = compute_known_future(
            step, version.contract.horizon, version.contract.step_seconds
        )
        return lane.run(count).copy()

    return run


def days(version: EngineVersion, windows: int, seed: int = 1) -> Floats:
    """Windows with a daily shape, a level and noise of their own for every feature, all between 5 and 95."""
    random = np.random.default_rng(seed)
    contract = version.contract
    steps = np.arange(contract.context_length)[None, :, None]
    shape = (windows, 1, len(contract.features))
    wave = np.sin(2 * np.pi * (steps / 288 + random.random(shape)))
    values = 50 + 30 * random.random(shape) * wave + 3 * random.standard_normal((windows, 288, shape[2]))
    return np.clip(values, 5, 95).astype(np.float32)


def test_quantiles_are_ordered_and_finite_whatever_is_missing(version: EngineVersion, forecast: Forecast) -> None:
    random = np.random.default_rng(2)
    windows = days(version, 6)
    windows[0, random.random(288) < 0.25] = np.nan  # rows
    windows[1][:, random.random(windows.shape[2]) < 0.5] = np.nan  # features
    windows[2, :240] = np.nan  # a short window
    windows[3, :287] = np.nan  # a single row
    windows[4][:, :] = np.nan
    windows[4, 5, 0] = 7.0  # a single value, of one feature, long ago
    windows[5, random.random(windows[5].shape) < 0.9] = np.nan
    values = forecast(windows)
    assert np.isfinite(values).all()
    assert (np.diff(values, axis=-1) >= 0).all()


def test_a_constant_is_forecast_as_itself(version: EngineVersion, forecast: Forecast) -> None:
    for level in (0.0, 1e-6, 0.5, 42.0, 3e6, 1e12):
        windows = np.full_like(days(version, 1), level)
        np.testing.assert_allclose(forecast(windows), level, rtol=0.01)


def test_few_equal_rows_are_not_certain(version: EngineVersion, forecast: Forecast) -> None:
    windows = np.full_like(days(version, 1), np.nan)
    windows[:, -5:] = 42.0
    values = forecast(windows)
    assert (values[..., -1] > values[..., 0]).all()


def test_one_absurd_value_hardly_moves_a_forecast(version: EngineVersion, forecast: Forecast) -> None:
    cases = list(product((3, 150, -1), (6e16, 3e38, -6e10, np.inf)))
    windows = days(version, len(cases), seed=5)
    reference = forecast(windows)
    for window, (row, absurd) in zip(windows, cases, strict=True):
        window[row] = absurd
    moved = np.abs(forecast(windows) - reference).mean(axis=(1, 3))
    assert moved.max() < 6, "of a span of 10 to 60"


def test_a_memory_is_read_by_the_version_that_asks_for_it(version: EngineVersion, forecast: Forecast) -> None:
    contract = version.contract
    windows = days(version, 4, seed=6)
    windows[:, :-48] = np.nan
    week = days(version, 4, seed=7)[:, :24].repeat(7, axis=1)
    assert (contract.memory_length == 0) or week.shape[1] == contract.memory_length
    alone, remembering = forecast(windows), forecast(windows, memory=week if contract.memory_length else np.nan)
    assert np.isfinite(remembering).all()
    assert (np.abs(alone - remembering).max() > 1) == (contract.memory_length > 0)


def test_the_unit_does_not_matter(version: EngineVersion, forecast: Forecast) -> None:
    windows = days(version, 4)
    contract = version.contract
    free = [i for i, name in enumerate(contract.targets) if contract.units.get(name) != "percent"]
    reference = forecast(windows)
    assert free
    for factor in (1e-6, 1e-2, 1e4, 1e9):
        scaled = forecast(windows * np.float32(factor))
        np.testing.assert_allclose(scaled[:, :, free], reference[:, :, free] * factor, rtol=2e-3, atol=0.05 * factor)


def test_percentages_stay_within_100(version: EngineVersion, forecast: Forecast) -> None:
    windows = np.minimum(days(version, 8) + 25, 100).astype(np.float32)
    contract = version.contract
    percent = [i for i, name in enumerate(contract.targets) if contract.units[name] == "percent"]
    values = forecast(windows)
    assert percent
    assert values[:, :, percent].max() <= 100
    assert values.min() >= 0, "what never was below zero never will be"


def test_a_forecast_stays_near_what_was_seen(version: EngineVersion, forecast: Forecast) -> None:
    windows = days(version, 8, seed=3)
    windows[:, 100] *= 50  # a spike
    low, high = np.nanmin(windows), np.nanmax(windows)
    values = forecast(windows)
    assert values.max() <= high + 2 * (high - low)


def test_a_window_s_forecast_does_not_depend_on_its_neighbours(version: EngineVersion, forecast: Forecast) -> None:
    windows = days(version, 32, seed=4)
    windows[::3, :100] = np.nan
    together = forecast(windows)
    for place in (0, 7, 31):
        alone = forecast(windows[place : place + 1])
        np.testing.assert_allclose(together[place : place + 1], alone, rtol=1e-3, atol=1e-3)


def test_any_server_id_and_status_is_taken(version: EngineVersion, forecast: Forecast) -> None:
    windows = days(version, 2)
    assert np.isfinite(forecast(windows, status=15, server_id=1_000_000)).all()


# ---------------------------------------------------------------- on the shipped servers
def _series() -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with gzip.open(ROOT / "examples" / "fleet" / "servers.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["server"]].append(row)
    return {
        server: {name: np.array([float(row[name]) for row in each]) for name in each[0] if name != "server"}
        for server, each in rows.items()
    }


def _pinball(actual: Any, values: Any, quantiles: Any) -> float:
    error = np.asarray(actual)[:, None] - values
    return float(np.maximum(quantiles * error, (quantiles - 1) * error).mean())


def test_better_than_yesterday_and_than_the_window_s_own_quantiles(version: EngineVersion, forecast: Forecast) -> None:
    contract = version.contract
    quantiles = np.array(contract.quantiles)
    ours, yesterday, window_s = 0.0, 0.0, 0.0
    for series in _series().values():
        for origin in (288, 408, 528, 648, 768):
            past = np.full((1, 288, len(contract.features)), np.nan, np.float32)
            for column, name in enumerate(contract.features):
                if name in series:
                    past[0, :, column] = series[name][origin - 288 : origin]
            step = int(series["time"][origin - 1]) // contract.step_seconds
            values = forecast(past, step=step)[0]
            for place, name in enumerate(contract.targets):
                scale = series[name].std()
                if scale == 0:
                    continue
                actual, before = series[name][origin : origin + 96], series[name][origin - 288 : origin]
                flat = np.tile(np.quantile(before, quantiles), (96, 1))
                ours += _pinball(actual, values[:, place], quantiles) / scale
                yesterday += _pinball(actual, before[:96, None], quantiles) / scale
                window_s += _pinball(actual, flat, quantiles) / scale
    assert ours < 0.75 * window_s
    assert ours < 0.6 * yesterday
