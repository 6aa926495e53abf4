"""Tests `streamd/tools/training/augment.py`: variations stay finite, and the memory stays that of its window."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")

from streamd.core.calendar import compute_known_future  # noqa: E402
from streamd.core.memory_means import compute_memory  # noqa: E402
from streamd.tools.training.augment import Augmentation, compute_calendar, summarize_last_day  # noqa: E402
from streamd.tools.training.pool import DrawnWindows  # noqa: E402

NAMES = tuple(Augmentation.__dataclass_fields__)
NOTHING = Augmentation(**dict.fromkeys(NAMES, 0.0))
EVERYTHING = Augmentation(**dict.fromkeys(NAMES, 1.0))
CONTEXT, STEPS, HOURS = 288, 384, 168


def draw_windows(batch: int = 40, features: int = 3) -> DrawnWindows:
    """Return windows of daily rhythm, some with missing values, and their memory."""
    phase = torch.randint(0, 12, (batch,))
    step = torch.arange(STEPS).view(1, -1, 1) - CONTEXT
    hour = 12.0 * torch.arange(-HOURS, 0).view(1, -1, 1) + 5.5
    turn = 6.283 / 288
    values = torch.sin(turn * step) + 0.2 * torch.randn(batch, STEPS, features) + 3.0
    values[::5, ::7] = torch.nan
    values[1::5, :, 0] = torch.nan
    values[2::5, :CONTEXT, 0] = torch.nan
    memory = (torch.sin(turn * hour) + 3.0).expand(batch, -1, features).clone()
    memory[::3, :50] = torch.nan
    return DrawnWindows(
        values=values, memory=memory, phase=phase, seconds=300.0 * torch.arange(batch), has_weekday=phase > 5
    )


def vary_everything(variation: Augmentation, draw: DrawnWindows) -> tuple[Any, Any]:
    """Return the context and the memory after all variations, in the order of training."""
    draw = variation.vary_series(draw, CONTEXT)
    x = variation.add_incidents(draw.values, CONTEXT)
    past = variation.add_absurd_values(variation.hide_values(x[:, :CONTEXT]))
    return past, variation.hide_memory(draw.memory, past, draw.phase)


@pytest.mark.parametrize("name", [*NAMES, "everything"])
def test_each_variation_leaves_finite_numbers(name: str) -> None:
    variation = EVERYTHING if name == "everything" else replace(NOTHING, **{name: 1.0})
    for found in vary_everything(variation, draw_windows()):
        assert found[~found.isnan()].isfinite().all()


def test_without_variations_a_window_and_its_memory_stay_as_they_are() -> None:
    draw = draw_windows()
    same = NOTHING.vary_series(draw, CONTEXT)
    assert torch.equal(same.values.nan_to_num(-9), draw.values.nan_to_num(-9))
    past, memory = vary_everything(NOTHING, draw)
    assert torch.equal(past.nan_to_num(-9), draw.values[:, :CONTEXT].nan_to_num(-9))
    before = slice(0, HOURS - 24)
    assert torch.equal(memory[:, before].nan_to_num(-9), draw.memory[:, before].nan_to_num(-9))


@pytest.mark.parametrize("name", ["mix", "flip", "swell", "bend", "noise", "shift", "raise_level"])
def test_the_memory_varies_with_its_window(name: str) -> None:
    """After a variation, the newest hours of the memory still are about the means of the window's first hours."""
    draw = draw_windows()
    draw.values.nan_to_num_(3.0)
    draw.memory.nan_to_num_(3.0)
    found = replace(NOTHING, **{name: 1.0}).vary_series(draw, CONTEXT)
    assert not torch.allclose(found.values, draw.values)
    first = summarize_last_day(found.values[:, :CONTEXT], torch.zeros_like(draw.phase), 12)
    off = (found.memory[:, -24:] - first).abs().mean()
    assert off < 0.15 * first.abs().mean() + 0.15
    assert off < 0.5 * (draw.memory[:, -24:] - first).abs().mean() or name in ("noise", "shift", "mix", "swell")


@pytest.mark.parametrize("phase", [0, 1, 7, 11])
def test_the_last_day_of_the_memory_is_that_of_the_context(phase: int) -> None:
    past = torch.randn(4, CONTEXT, 3)
    past[torch.rand(past.shape) < 0.4] = torch.nan
    past[0, 100:200] = torch.nan
    found = summarize_last_day(past, torch.full((4,), phase), 12).numpy()
    history = np.full((4, 169 * 12, 3), np.nan)
    history[:, -CONTEXT:] = past.numpy()
    expected = compute_memory(history, np.full(4, phase), HOURS, 12)[:, -24:]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_hidden_in_the_context_is_hidden_in_the_memory() -> None:
    draw = draw_windows()
    past = draw.values[:, :CONTEXT].clone()
    past[:, :, 1] = torch.nan
    memory = NOTHING.hide_memory(draw.memory, past, draw.phase)
    assert memory[:, -24:, 1].isnan().all()
    assert memory[2, -24:, 2].isfinite().all()


def test_no_memory_is_none_at_all() -> None:
    draw = draw_windows()
    assert replace(NOTHING, no_memory=1.0).hide_memory(draw.memory, draw.values[:, :CONTEXT], draw.phase).isnan().all()


def test_a_memory_of_some_days_has_its_newest_hours() -> None:
    draw = draw_windows()
    draw.memory.nan_to_num_(3.0)
    draw.values.nan_to_num_(3.0)
    known = ~replace(NOTHING, some_memory=1.0).hide_memory(draw.memory, draw.values[:, :CONTEXT], draw.phase).isnan()
    assert (known.long().diff(dim=1) >= 0).all(), "hours are missing before others"
    lengths = known.sum(dim=1)[:, 0]
    assert len(lengths.unique()) > 20


def test_short_windows_more_often_have_no_memory() -> None:
    draw = draw_windows(2000, 1)
    past = draw.values[:, :CONTEXT].nan_to_num(3.0)
    short = past.clone()
    short[:, :200] = torch.nan
    share = [
        replace(NOTHING, no_memory=0.2).hide_memory(draw.memory, each, draw.phase).isnan().all(1).float().mean().item()
        for each in (past, short)
    ]
    assert share == pytest.approx([0.2, 0.6], abs=0.05)


def test_hidden_values_are_missing_and_no_others_change() -> None:
    past = draw_windows().values[:, :CONTEXT]
    found = EVERYTHING.hide_values(past)
    assert found.isnan().float().mean() > 0.5
    assert torch.equal(found[~found.isnan()], past[~found.isnan()])


def test_one_value_of_a_series_is_absurd() -> None:
    past = draw_windows().values[:, :CONTEXT]
    found = replace(NOTHING, absurd=1.0).add_absurd_values(past)
    changed = (found != past) & ~past.isnan()
    assert (changed.sum(1) <= 1).all()
    assert changed.sum() > 80
    assert (found[changed].abs() >= 10 * past[changed].abs()).all()
    assert changed[:, -1].sum() > 10, "often the newest"


def test_incidents_begin_in_the_context() -> None:
    x = draw_windows(64).values.nan_to_num(3.0)
    touched = (replace(NOTHING, incident=1.0).add_incidents(x, CONTEXT) != x) & ~x.isnan()
    assert touched.any()
    ahead = touched[:, CONTEXT:].any(1)
    assert (touched[:, :CONTEXT].any(1) | ~ahead).all()


def test_surges_begin_shortly_before_the_origin() -> None:
    x = draw_windows(64).values
    found = replace(NOTHING, surge=1.0).add_incidents(x, CONTEXT)
    touched = (found != x) & ~x.isnan()
    assert not touched[:, : CONTEXT - 48].any()
    assert touched[:, CONTEXT - 48 :].any(1).float().mean() > 0.7
    assert (found[touched] > x[touched]).all()


# ---------------------------------------------------------------- calendar
def test_the_calendar_is_the_daemon_s() -> None:
    monday = 345_600
    seconds = torch.tensor([0.0, 7_200.0, 604_500.0])
    found = compute_calendar(seconds, 96, 300).numpy()
    for start, rows in zip(seconds.tolist(), found, strict=True):
        expected = compute_known_future((monday + int(start)) // 300 - 1, 96, 300)
        np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_only_untrue_weekdays_are_replaced() -> None:
    draw = draw_windows(300)
    found = NOTHING.make_calendar(draw, 96, 300)
    exact = compute_calendar(draw.seconds, 96, 300)
    same = (found == exact).all(dim=2).all(dim=1)
    assert same[draw.has_weekday].all()
    assert same[~draw.has_weekday].float().mean() < 0.3
    torch.testing.assert_close(found[..., :2], exact[..., :2], rtol=0, atol=1e-3)


def test_a_shifted_calendar_has_another_time_of_day() -> None:
    draw = draw_windows(300)
    found = replace(NOTHING, calendar_shift=1.0).make_calendar(draw, 96, 300)
    assert (found[..., :2] - compute_calendar(draw.seconds, 96, 300)[..., :2]).abs().mean() > 0.3
