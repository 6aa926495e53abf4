"""Tests `streamd/tools/training/pool.py`: windows of training days, with the memory that the daemon would have."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")

from streamd.core.memory_means import compute_memory  # noqa: E402
from streamd.tools.training.pool import SeriesPool, blend_hours  # noqa: E402
from streamd.tools.training.sources import SeriesSource, make_fleet_source  # noqa: E402

CPU = torch.device("cpu")
CONTEXT, HORIZON = 288, 96


def make_pool(*sources: Any) -> Any:
    return SeriesPool(list(sources), CPU, CONTEXT, HORIZON, 300)


def make_source(values: Any, **options: Any) -> SeriesSource:
    """Return a source of series `(machine, series, step)`, each for one feature in their order."""
    machines, series, steps = values.shape
    given: dict[str, Any] = {
        "name": "made",
        "values": values,
        "natural": torch.arange(series),
        "weight": 1.0,
        "begins": torch.zeros(machines, dtype=torch.long),
        "extents": torch.tensor([[0, steps]]).expand(machines, 2),
    }
    return SeriesSource(**{**given, **options})


def make_counter(machines: int = 1, steps: int = 3000) -> Any:
    """Return series in which each value is the number of its machine and its step: 1,000,000 x machine + step."""
    step = torch.arange(steps, dtype=torch.float32).expand(machines, 1, steps)
    return step + 1_000_000 * torch.arange(machines).view(-1, 1, 1)


def find_starts(draw: Any, source: SeriesSource) -> list[tuple[int, int]]:
    """Return the machine and the first step of each drawn window, whose first series is a counter that was scaled."""
    deviation = source.values[:, 0].std(dim=1, correction=0)
    raw = draw.values[:, 0, 0].view(-1, 1) * deviation
    found = []
    for values in torch.round(raw).tolist():
        (place,) = [(m, int(v) % 1_000_000) for m, v in enumerate(values) if int(v) // 1_000_000 == m]
        found.append(place)
    return found


def test_windows_are_of_training_days_only(fleet: Any) -> None:
    fleet.values[:, fleet.splits["train"][1] :] = 1e6
    pool = make_pool(make_fleet_source(fleet, 1.0))
    draw = pool.draw_windows(200, 0.5)
    assert torch.nan_to_num(draw.values).max() < 1e4
    assert pool.pooled.flat.numel() == 5 * 3 * fleet.splits["train"][1]


def test_windows_begin_everywhere_within_the_extent_and_nowhere_else() -> None:
    source = make_source(make_counter(2, 1000), extents=torch.tensor([[100, 484], [300, 700]]))
    pool = make_pool(source)
    places = find_starts(pool.draw_windows(500, 1.0), source)
    assert {start for machine, start in places if machine == 0} == {100}
    assert {start for machine, start in places if machine == 1} == set(range(300, 317))


def test_a_machine_that_is_too_short_is_never_drawn() -> None:
    source = make_source(make_counter(3, 500), extents=torch.tensor([[0, 383], [0, 384], [120, 500]]))
    pool = make_pool(source)
    assert pool.pooled.starts.tolist() == [0, 1, 0]
    assert {machine for machine, _ in find_starts(pool.draw_windows(100, 1.0), source)} == {1}


def test_the_first_machine_is_not_drawn_by_a_random_number_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(make_counter(2, 500), extents=torch.tensor([[0, 100], [0, 500]]))
    pool = make_pool(source)
    monkeypatch.setattr(torch, "rand", lambda *shape, device: torch.zeros(shape))
    assert find_starts(pool.draw_windows(3, 1.0), source) == [(1, 0)] * 3


def test_a_source_without_a_window_is_named() -> None:
    with pytest.raises(ValueError, match="source 'short': expected a machine with 384 steps of training days"):
        make_pool(make_source(make_counter(2, 383), name="short"))


def test_machines_are_drawn_by_their_length_and_sources_by_their_weight() -> None:
    long, short = make_counter(2, 2000), torch.randn(1, 1, 400) - 1e6
    source = make_source(long, extents=torch.tensor([[0, 2000], [0, 787]]), weight=3.0)
    pool = make_pool(source, make_source(short, name="short"))
    share = pool.pooled.weight / pool.pooled.weight.sum()
    assert share.tolist() == pytest.approx([0.75 * 1617 / 2021, 0.75 * 404 / 2021, 0.25])
    machine = torch.searchsorted(pool.cumulative, torch.rand(20_000) * 4.0, right=True)
    assert (machine == 2).float().mean() == pytest.approx(0.25, abs=0.02)


def test_mapped_windows_have_their_series_where_the_map_puts_them(fleet: Any, contract: Any) -> None:
    draw = make_pool(make_fleet_source(fleet, 1.0)).draw_windows(50, 1.0)
    reported = (~draw.values.isnan()).any(1).all(0)
    assert [f for f, r in zip(contract.features, reported, strict=True) if r] == ["cpu_user", "mem_used", "net_in"]


def test_only_some_features_are_drawn_if_a_network_looks_at_no_other(fleet: Any, contract: Any) -> None:
    index = torch.tensor(contract.target_index)
    draw = make_pool(make_fleet_source(fleet, 1.0)).draw_windows(20, 1.0, index)
    assert draw.values.shape == (20, 384, 7)
    assert draw.memory.shape == (20, 168, 7)
    reported = (~draw.values.isnan()).any(1).all(0).tolist()
    assert [f for f, r in zip(contract.targets, reported, strict=True) if r] == ["cpu_user", "mem_used", "net_in"]


def test_flat_series_are_missing() -> None:
    values = torch.randn(1, 2, 500)
    values[:, 1] = 7.0
    draw = make_pool(make_source(values)).draw_windows(10, 1.0)
    assert draw.values[..., 0].isfinite().all()
    assert draw.values[..., 1].isnan().all()
    assert draw.memory[..., 1].isnan().all()


# ---------------------------------------------------------------- time
def test_windows_have_the_time_of_their_origin() -> None:
    begins = torch.tensor([0, 600_000])
    source = make_source(make_counter(2), begins=begins, has_weekdays=True)
    pool = make_pool(source)
    draw = pool.draw_windows(50, 1.0)
    for (machine, start), seconds in zip(find_starts(draw, source), draw.seconds.tolist(), strict=True):
        assert seconds == int(begins[machine]) + 300 * (start + CONTEXT)
    assert draw.has_weekday.all()


def test_weekdays_are_true_where_the_source_s_are(fleet: Any) -> None:
    true, unknown = (make_source(torch.randn(1, 3, 500), has_weekdays=known) for known in (True, False))
    draw = make_pool(true, replace(unknown, values=unknown.values + 100.0)).draw_windows(100, 1.0)
    assert torch.equal(draw.has_weekday, draw.values[:, 0, 0] < 50.0)


# ---------------------------------------------------------------- memory
def test_the_memory_is_that_of_the_daemon() -> None:
    values = torch.randn(2, 3, 2600)
    values[torch.rand(values.shape) < 0.5] = torch.nan
    values[:, :, 500:900] = torch.nan
    values[:, 0] = make_counter(2, 2600)[:, 0]
    source = make_source(values, begins=torch.tensor([0, 600_000 + 300 * 7]))
    pool = make_pool(source)
    draw = pool.draw_windows(60, 1.0)
    deviation = np.sqrt(np.nanvar(values.numpy(), axis=2))
    for window, (machine, start) in enumerate(find_starts(draw, source)):
        end = start + CONTEXT
        history = np.full((1, 169 * 12, 3), np.nan)
        known = values[machine, :, max(0, end - 169 * 12) : end].T.numpy() / deviation[machine]
        history[0, len(history[0]) - len(known) :] = known
        phase = (int(source.begins[machine]) // 300 + end) % 12
        assert int(draw.phase[window]) == phase
        expected = compute_memory(history, np.array([phase]), 168, 12)[0]
        np.testing.assert_allclose(draw.memory[window].numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_source_of_other_steps_has_an_empty_memory() -> None:
    draw = make_pool(make_source(torch.randn(1, 1, 3000), has_memory=False)).draw_windows(10, 1.0)
    assert draw.memory.isnan().all()


@pytest.mark.parametrize(
    ("phase", "expected"), [(0, [1.0, torch.nan, 3.0]), (3, [1.0, 3.0, 3.0]), (6, [1.0, 3.0, 4.0])]
)
def test_hours_are_blended_by_their_shares(phase: int, expected: list[float]) -> None:
    means = torch.tensor([1.0, torch.nan, 3.0, torch.nan if phase < 6 else 5.0]).view(1, 4, 1)
    found = blend_hours(means, torch.tensor([phase]), 12)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected), equal_nan=True)
