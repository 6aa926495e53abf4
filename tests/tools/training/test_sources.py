"""Tests `streamd/tools/training/sources.py`: what of a fleet training may draw from, and hours of all phases."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")

from streamd.tools.training.sources import (  # noqa: E402
    compute_hours,
    count_phases,
    make_fleet_source,
    roughen_hours,
)

MONDAY = 345_600


def test_a_source_has_the_training_days_only(fleet: Any) -> None:
    source = make_fleet_source(fleet, 1.0)
    assert source.values.shape == (5, 3, 1152)
    torch.testing.assert_close(source.values.transpose(1, 2), torch.from_numpy(fleet.values[:, :1152]), equal_nan=True)
    assert source.extents.tolist() == [[0, 1152]] * 5


def test_extents_are_those_of_the_values_within_the_training_days(fleet: Any) -> None:
    fleet.values[0, :100] = np.nan
    fleet.values[1, 1000:] = np.nan
    fleet.values[2, :1152] = np.nan
    fleet.values[3, 400:2304] = np.nan
    fleet.values[3, :399] = np.nan
    source = make_fleet_source(fleet, 1.0)
    assert source.extents.tolist() == [[100, 1152], [0, 1000], [399, 400], [0, 1152]], "one has no training days"


def test_machines_that_are_left_out_are_not_in_the_source(fleet: Any) -> None:
    fleet.values[:] = np.arange(5)[:, None, None]
    source = make_fleet_source(fleet, 1.0, leave_out_every=5)
    assert source.values[:, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_features_are_numbered_by_the_fleet_s_map(fleet: Any) -> None:
    natural = make_fleet_source(fleet, 1.0).natural.tolist()
    assert [series for series in natural if series >= 0] == [0, 1, 2]
    assert natural.count(-1) == 11


@pytest.mark.parametrize("first", [0, 288])
def test_begins_count_from_a_monday(fleet: Any, first: int) -> None:
    fleet.begins[:] = MONDAY + 86_400 * np.arange(5) + 3_900
    fleet.splits["train"] = (first, 1152)
    source = make_fleet_source(fleet, 1.0)
    days = (np.arange(5) + first // 288) % 7
    assert source.begins.tolist() == (days * 86_400 + 3_900).tolist()
    assert count_phases(source, 300).tolist() == [1] * 5


def test_a_source_of_other_steps_has_no_memory(fleet: Any) -> None:
    assert make_fleet_source(fleet, 1.0).has_memory
    assert not make_fleet_source(replace(fleet, step_seconds=3600), 1.0).has_memory


@pytest.mark.parametrize("steps", [24, 37, 48])
def test_hours_are_means_of_the_known_steps_of_each_hour(steps: int) -> None:
    values = torch.randn(4, 2, steps)
    values[torch.rand(values.shape) < 0.3] = torch.nan
    values[0, 0, :12] = torch.nan
    phases = torch.tensor([0, 5, 5, 11])
    found = compute_hours(values, phases, 12).numpy()
    for machine, phase in enumerate(phases.tolist()):
        for hour in range(found.shape[2]):
            part = values[machine, :, max(0, 12 * hour - phase) : max(0, 12 * (hour + 1) - phase)].numpy()
            known = (~np.isnan(part)).sum(axis=1)
            expected = np.where(known, np.nansum(part, axis=1) / np.maximum(known, 1), np.nan)
            np.testing.assert_allclose(found[machine, :, hour], expected, rtol=1e-5, atol=1e-6)


def test_every_step_is_in_an_hour() -> None:
    values = torch.ones(12, 1, 25)
    hours = compute_hours(values, torch.arange(12), 12)
    assert (hours.isnan() | (hours == 1)).all()
    assert ((~hours.isnan()).sum(dim=2).flatten() == torch.tensor([3] * 12)).all()


# ---------------------------------------------------------------- noise within the hour
def test_noise_within_the_hour_grows_with_the_change_between_hours(fleet: Any) -> None:
    source = make_fleet_source(fleet, 1.0)
    rough = roughen_hours(source, 1)
    added = (rough.values - source.values)[~source.values.isnan()]
    assert torch.equal(rough.values.isnan(), source.values.isnan())
    assert 0.001 < added.std() < source.values.nan_to_num().std()
    calm = replace(source, values=torch.full_like(source.values, 7.0))
    assert torch.equal(roughen_hours(calm, 1).values, calm.values)


def test_noise_is_the_same_for_a_seed_and_leaves_its_source_alone(fleet: Any) -> None:
    source = make_fleet_source(fleet, 1.0)
    before = source.values.clone()
    one, same, other = (roughen_hours(source, seed).values for seed in (1, 1, 2))
    torch.testing.assert_close(one, same, rtol=0, atol=0, equal_nan=True)
    assert not torch.allclose(one, other, equal_nan=True)
    torch.testing.assert_close(source.values, before, rtol=0, atol=0, equal_nan=True)


def test_noise_makes_nothing_negative_that_was_not(fleet: Any) -> None:
    fleet.values[:] = np.random.default_rng(1).integers(0, 2, fleet.values.shape)
    source = make_fleet_source(fleet, 1.0)
    assert roughen_hours(source, 1).values.min() == 0.0
    below = replace(source, values=source.values - 1.0)
    assert roughen_hours(below, 1).values.min() < -1.0
