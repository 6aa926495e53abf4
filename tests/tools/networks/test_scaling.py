"""Tests `streamd/tools/networks/scaling.py`: units, absurd values and missing ones, in a window and in its memory."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from streamd.tools.networks.scaling import ScaledWindow, WindowScaler  # noqa: E402

CONTEXT, MEMORY = 288, 168
POSITIONS = st.sampled_from([0, 1, 100, CONTEXT - 2]) | st.just(CONTEXT - 1) | st.integers(0, CONTEXT - 1)
SIZES = st.floats(1.3, 29.0).flatmap(lambda power: st.sampled_from([10.0**power, -(10.0**power)]))


def make_scaler(targets: int = 1, memory: bool = False) -> Any:
    return WindowScaler(list(range(targets)), CONTEXT, MEMORY if memory else 0, only_targets=True)


def scale(past: Any, memory: Any = None) -> Any:
    return make_scaler(past.shape[2], memory is not None)(past, memory)[1]


def make_window(kind: str) -> Any:
    """Return a window `(1, context, 1)` whose values differ by about one."""
    time = torch.arange(CONTEXT) / CONTEXT
    noise = torch.rand(CONTEXT, generator=torch.Generator().manual_seed(1))
    series = {"noise": noise, "day": torch.sin(6.28 * time) / 2 + 0.1 * noise, "counts": torch.round(3 * noise) / 3}
    return (series[kind] + 5.0).view(1, -1, 1)


def assert_same(one: ScaledWindow, other: ScaledWindow) -> None:
    for field in fields(ScaledWindow):
        first, second = getattr(one, field.name), getattr(other, field.name)
        assert (first is None) == (second is None)
        assert first is None or torch.equal(first, second), field.name


@given(st.sampled_from(["noise", "day", "counts"]), POSITIONS, SIZES)
def test_one_absurd_value_counts_as_missing(kind: str, position: int, size: float) -> None:
    absurd, missing = make_window(kind), make_window(kind)
    absurd[0, position], missing[0, position] = size, torch.nan
    assert_same(scale(absurd), scale(missing))


@given(POSITIONS, SIZES)
def test_one_absurd_value_in_a_constant_series_counts_as_missing(position: int, size: float) -> None:
    absurd = torch.full((1, CONTEXT, 1), 7.0)
    absurd[0, position] = size
    window = scale(absurd)
    assert (float(window.low.flatten()), float(window.span.flatten())) == (7.0, 0.0)


@pytest.mark.parametrize("size", [60.0, 1e6, 1e25])
def test_a_surge_is_seen_from_its_second_step_on(size: float) -> None:
    surge = make_window("noise")
    surge[0, -1] = size
    assert float(scale(surge).span.flatten()) < 2.0
    surge[0, -2] = size
    window = scale(surge)
    assert float(window.span.flatten()) == pytest.approx(size, rel=0.2)
    assert window.observed.all()


@pytest.mark.parametrize("every", [12, 24, 72])
def test_large_values_that_come_every_few_hours_are_no_errors(every: int) -> None:
    cron = make_window("noise")
    cron[0, 7::every] = 1e4
    assert scale(cron).observed.all()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, 3e38, -3e38, 1e30])
@pytest.mark.parametrize("rows", [slice(40, 41), slice(40, 60), slice(0, CONTEXT), slice(CONTEXT - 2, CONTEXT)])
def test_values_beyond_all_measures_count_as_missing(value: float, rows: slice) -> None:
    absurd, missing = make_window("noise"), make_window("noise")
    absurd[0, rows], missing[0, rows] = value, torch.nan
    assert_same(scale(absurd), scale(missing))


def test_an_absurd_value_whose_share_overflows_leaves_no_trace() -> None:
    past = make_window("noise") * 1e-12
    past[0, 50] = 1e29
    window = scale(past)
    assert window.values.isfinite().all()
    assert window.values[0, 0, 50] == 0.0


@pytest.mark.parametrize("every", [6, 12, 36, 72, 100])
def test_a_feature_that_comes_now_and_then_is_believed(every: int) -> None:
    past = torch.full((1, CONTEXT, 1), torch.nan)
    past[0, every - 1 :: every] = make_window("noise")[0, every - 1 :: every]
    assert scale(past).observed.sum() == (~past.isnan()).sum()


def test_values_have_a_mean_near_zero_and_a_deviation_near_one() -> None:
    past = torch.rand(4, CONTEXT, 3) * torch.tensor([1e-6, 1.0, 1e12]) + torch.tensor([0.0, 1e3, 0.0])
    past[:, ::7] = torch.nan
    window = scale(past)
    seen = window.observed > 0
    assert torch.equal(seen, ~past.isnan().transpose(1, 2))
    count = seen.sum(2)
    torch.testing.assert_close(window.values.sum(2) / count, torch.zeros(4, 3), rtol=0, atol=1e-3)
    torch.testing.assert_close(window.values.abs().sum(2) / count, torch.ones(4, 3), rtol=1e-3, atol=0)
    assert (window.values[~seen] == 0).all()
    assert torch.equal(window.values.amin(2, keepdim=True), window.least)
    torch.testing.assert_close(window.values.amax(2, keepdim=True), window.most)


def test_some_spikes_do_not_flatten_the_rest() -> None:
    past = make_window("noise")
    past[0, 50:53] = 500.0
    assert scale(past).values[0, 0, :50].std() > 0.01


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1024.0, 1e6])
def test_a_change_of_the_unit_changes_two_numbers_only(factor: float) -> None:
    past, memory = torch.rand(3, CONTEXT, 2), torch.rand(3, MEMORY, 2)
    one, other = scale(past, memory), scale(past * factor, memory * factor)
    for field in fields(ScaledWindow):
        first, second = getattr(one, field.name), getattr(other, field.name)
        by = factor if field.name in ("low", "span") else 1.0
        torch.testing.assert_close(second, first * by, rtol=1e-4, atol=1e-4 * by)


def test_targets_alone_are_scaled_as_among_all_features() -> None:
    past = torch.rand(4, CONTEXT, 5) * 100
    past[:, ::9, 2] = torch.nan
    everything, targets = WindowScaler([3, 1, 2], CONTEXT)(past)
    alone, same = WindowScaler([3, 1, 2], CONTEXT, only_targets=True)(past)
    assert everything.values.shape == (4, 5, CONTEXT)
    assert_same(alone, same)
    for field in fields(ScaledWindow)[:-2]:
        torch.testing.assert_close(getattr(alone, field.name), getattr(targets, field.name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [-5.0, 3.0])
def test_the_fewer_values_the_wider_is_the_least_span(value: float) -> None:
    spans = []
    for rows in (1, 2, 12, 23, 24, 288):
        past = torch.full((1, CONTEXT, 1), torch.nan)
        past[0, -rows:] = value
        spans.append(float(scale(past).span.flatten()))
    assert (np.diff(spans[:5]) < 0).all()
    assert spans[0] == pytest.approx(0.1 * abs(value), rel=0.05)
    assert spans[4] == spans[5] == 0.0


def test_a_window_without_values_is_all_zeros() -> None:
    window = scale(torch.full((2, CONTEXT, 3), torch.nan))
    assert not window.observed.any()
    assert not window.values.any()
    assert not window.low.any()
    assert not window.span.any()


# ---------------------------------------------------------------- memory
def make_memory() -> Any:
    """Return a memory `(1, length, 1)` around the values of the windows."""
    return 5.0 + torch.rand(1, MEMORY, 1, generator=torch.Generator().manual_seed(2))


def test_a_memory_is_in_the_units_of_the_window() -> None:
    past, memory = make_window("noise"), make_memory()
    memory[0, 30:40] = torch.nan
    window = scale(past, memory)
    assert torch.equal(window.remembered > 0, ~memory.isnan().transpose(1, 2))
    assert (window.memory[window.remembered == 0] == 0).all()
    share = window.center + window.spread * window.memory
    back = (window.low.flatten() + window.span.flatten() * share).transpose(1, 2)
    torch.testing.assert_close(back[~memory.isnan()], memory[~memory.isnan()])


@given(st.integers(0, MEMORY - 1), st.sampled_from([1, 2]), SIZES)
def test_one_absurd_value_s_hours_of_the_memory_count_as_missing(hour: int, count: int, size: float) -> None:
    """An absurd value is in one hourly mean, and this mean in two neighbouring elements of the memory."""
    absurd, missing = make_memory(), make_memory()
    absurd[0, hour : hour + count], missing[0, hour : hour + count] = size, torch.nan
    assert_same(scale(make_window("noise"), absurd), scale(make_window("noise"), missing))


def test_a_backup_of_each_night_stays_in_the_memory() -> None:
    memory = make_memory()
    memory[0, 3::24] = 1e5
    window = scale(make_window("noise"), memory)
    assert window.remembered.all()
    assert float(window.span.flatten()) == pytest.approx(1e5, rel=0.01)


@pytest.mark.parametrize("value", [torch.inf, 3e38])
def test_a_memory_of_values_beyond_all_measures_is_none(value: float) -> None:
    absent, absurd = torch.full((1, MEMORY, 1), torch.nan), torch.full((1, MEMORY, 1), value)
    assert_same(scale(make_window("day"), absurd), scale(make_window("day"), absent))


def test_a_memory_without_values_changes_nothing() -> None:
    past = torch.rand(3, CONTEXT, 2)
    with_memory, without = scale(past, torch.full((1, MEMORY, 2), torch.nan)), scale(past)
    assert not with_memory.remembered.any()
    with_memory.memory = with_memory.remembered = None
    assert_same(with_memory, without)


def test_an_empty_window_is_scaled_by_its_memory() -> None:
    window = scale(torch.full((1, CONTEXT, 1), torch.nan), make_memory())
    assert window.remembered.all()
    assert 5.0 <= float(window.low.flatten()) < 5.1
    assert float(window.span.flatten()) == pytest.approx(1.0, abs=0.1)
