"""Tests `streamd/tools/networks/anchors.py`: simple forecasts equal those of NumPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from streamd.tools.networks.anchors import (  # noqa: E402
    SHARPNESS,
    LevelAnchors,
    MemoryAnchors,
    WindowQuantiles,
    make_laplace_quantiles,
)
from streamd.tools.networks.contract import NetworkContract  # noqa: E402
from streamd.tools.networks.scaling import WindowScaler  # noqa: E402

CONTRACT = NetworkContract(memory_length=168)
QUANTILES = CONTRACT.quantiles
EDGES = 0.7 * np.sinh(np.linspace(-1, 1, 20) * np.arcsinh(10 / 0.7))


def scale(past: Any, memory: Any = None) -> Any:
    """Return the scaled window of series `(series, context)` of one server, with a memory `(series, length)`."""
    scaler = WindowScaler(list(range(len(past))), past.shape[1], 0 if memory is None else 168, only_targets=True)
    return scaler(past.T.unsqueeze(0), None if memory is None else memory.T.unsqueeze(0))[1]


def to_numpy(values: Any, mask: Any) -> np.ndarray:
    """Return scaled series `(series, step)` with NaN where missing."""
    return np.where(mask[0].numpy() > 0, values[0].numpy(), np.nan)


def average(values: np.ndarray) -> np.ndarray:
    """Return the mean of the known values of each series; 0 without any."""
    known = ~np.isnan(values)
    return np.asarray(np.nansum(values, axis=1) / np.maximum(known.sum(axis=1), 1))


def find_levels(window: Any) -> np.ndarray:
    """Return the levels of a window of one server, `(series, anchor, horizon)`."""
    by_step, flat = LevelAnchors(CONTRACT)(window)
    found = torch.cat([by_step, flat.expand(-1, -1, -1, by_step.shape[3])], dim=2)
    return np.asarray(found[0].numpy())


def make_series(count: int = 3, steps: int = 288) -> Any:
    return torch.randn(count, steps).cumsum(1)


# ---------------------------------------------------------------- levels
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_levels_are_means_of_parts_of_the_window(share: float) -> None:
    past = make_series()
    past[torch.rand(past.shape) < share] = torch.nan
    window = scale(past)
    found = find_levels(window)
    series = to_numpy(window.values, window.observed)
    assert found.shape == (3, 7, 96)
    for ahead in (0, 1, 5, 50, 95):
        near = [series[:, max(0, ahead - reach) : ahead + reach + 1] for reach in (0, 3, 12)]
        parts = [*near, series[:, -3:], series[:, -24:], series[:, :24]]
        expected = np.stack([*map(average, parts), np.zeros(3)], axis=1)
        np.testing.assert_allclose(found[:, :, ahead], expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- memory
def interpolate(hours: np.ndarray, ahead: int) -> np.ndarray:
    """Return the values of a step ahead from those of a day's hours, `(series, 24)`; the last is the newest."""
    middle = (ahead + 0.5) / 12 - 0.5
    before = int(np.floor(middle))
    share = middle - before
    return np.asarray((1 - share) * hours[:, before % 24] + share * hours[:, (before + 1) % 24])


@pytest.mark.parametrize("hidden", ["nothing", "some hours", "five days", "everything"])
def test_the_memory_s_levels_are_means_of_its_days(hidden: str) -> None:
    memory = torch.randn(3, 168).cumsum(1)
    match hidden:
        case "some hours":
            memory[torch.rand(memory.shape) < 0.4] = torch.nan
        case "five days":
            memory[:, : 5 * 24] = torch.nan
        case "everything":
            memory[:] = torch.nan
    window = scale(make_series(), memory)
    levels = torch.from_numpy(find_levels(window))
    given = window, levels[None, :, :1], levels[None, :, 4:5, :1]
    found, spread = (part[0].numpy() for part in MemoryAnchors(CONTRACT)(*given))
    assert (found.shape, spread.shape) == ((3, 4, 96), (3, 1, 96))
    days = to_numpy(window.memory, window.remembered).reshape(3, 7, 24)
    known = ~np.isnan(days)
    count = np.maximum(known.sum(axis=1), 1)
    usual = np.nansum(days, axis=1) / count
    deviation = np.nansum(np.abs(days - usual[:, None]), axis=1) / count
    zero = np.nan_to_num(days)
    recent = usual[:, -2:].mean(axis=1)
    for ahead in (0, 5, 6, 40, 95):
        mean, week, day = (interpolate(hours, ahead) for hours in (usual, zero[:, 0], zero[:, -1]))
        yesterday, last_hours = levels[:, 0, ahead].numpy(), levels[:, 4, ahead].numpy()
        expected = np.stack([mean, week, mean + yesterday - day, mean + last_hours - recent], axis=1)
        np.testing.assert_allclose(found[:, :, ahead], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(spread[:, 0, ahead], interpolate(deviation, ahead), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- quantiles
def find_quantiles(window: Any) -> np.ndarray:
    """Return the quantiles of the window and of its last quarter, `(series, 2, quantile)`."""
    found = WindowQuantiles(QUANTILES)(window)
    assert found.shape[2:] == (2 * len(QUANTILES), 1)
    return np.asarray(found.reshape(-1, 2, len(QUANTILES)).numpy())


def assert_within_a_bin(found: np.ndarray, values: np.ndarray) -> None:
    """Compare quantiles with those of NumPy: each is in the bin of the exact one, or of the next value on a side."""
    known = values[~np.isnan(values)]
    least, most = (np.quantile(known, np.clip(np.add(QUANTILES, d / len(known)), 0, 1)) for d in (-1, 1))
    low = EDGES[np.maximum(np.searchsorted(EDGES, least) - 1, 0)]
    high = EDGES[np.minimum(np.searchsorted(EDGES, most), len(EDGES) - 1)]
    assert (found >= np.minimum(low, least) - 1 / SHARPNESS).all()
    assert (found <= np.maximum(high, most) + 1 / SHARPNESS).all()


@pytest.mark.parametrize("kind", ["normal", "even", "spikes", "counts", "two levels"])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_quantiles_are_those_of_numpy_within_a_bin(kind: str, share: float) -> None:
    noise = torch.randn(2, 288)
    past = {
        "normal": noise,
        "even": torch.rand(2, 288),
        "spikes": torch.exp(1.5 * noise),
        "counts": torch.round(noise.abs()),
        "two levels": torch.sign(noise) + 0.01 * noise,
    }[kind]
    past[torch.rand(past.shape) < share] = torch.nan
    window = scale(past)
    series, found = to_numpy(window.values, window.observed), find_quantiles(window)
    for values, quantiles in zip(series, found, strict=True):
        assert_within_a_bin(quantiles[0], values)


def test_the_last_quarter_has_quantiles_of_its_own() -> None:
    past = torch.rand(1, 288)
    past[:, -72:] += 3.0
    window = scale(past)
    whole, recent = find_quantiles(window)[0]
    series = to_numpy(window.values, window.observed)[0]
    assert_within_a_bin(whole, series)
    assert abs(recent[3] - np.median(series[-72:])) < 0.3
    assert recent[3] - whole[3] > 1.0


def test_an_empty_last_quarter_has_the_quantiles_of_the_window() -> None:
    past = torch.rand(2, 288)
    past[:, -72:] = torch.nan
    whole, recent = find_quantiles(scale(past)).swapaxes(0, 1)
    np.testing.assert_allclose(recent, whole, rtol=1e-4, atol=1e-5)


@given(st.lists(st.floats(-1e4, 1e4, width=32) | st.none(), min_size=8, max_size=32))
def test_quantiles_are_ordered_and_never_beyond_the_values(values: list[float | None]) -> None:
    steps = len(values) // 4 * 4
    past = torch.tensor([[torch.nan if value is None else value for value in values[:steps]]])
    window = scale(past)
    found = find_quantiles(window)[0]
    assert (np.diff(found, axis=1) >= -1e-6).all()
    if window.observed.any():
        known = to_numpy(window.values, window.observed)[0]
        assert np.nanmin(known) - 1e-4 <= found.min()
        assert found.max() <= np.nanmax(known) + 1e-4
    assert np.isfinite(found).all()


def test_laplace_quantiles_have_the_deviation_one() -> None:
    fine = make_laplace_quantiles(tuple((np.arange(20_000) + 0.5) / 20_000))
    assert float(fine.abs().mean()) == pytest.approx(1.0, abs=1e-3)
    assert make_laplace_quantiles((0.25, 0.5, 0.75)).flatten().tolist() == pytest.approx(
        [-0.6931, 0.0, 0.6931], abs=1e-4
    )
