"""Tests `streamd/tools/training/generated/disturbances.py`: each changes its share of the servers or series."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.training.generated import disturbances  # noqa: E402


@pytest.fixture
def noise(draws: Any) -> Any:
    """Return 300 servers with 4 series far above zero."""
    return 8.0 + torch.randn(300, 4, draws.length, generator=draws.rng)


def test_series_are_scaled_to_unit_and_constants_to_one_or_zero() -> None:
    x = torch.stack([7.0 * torch.randn(500) + 70.0, torch.full((500,), 3e6), torch.zeros(500)])
    scaled = disturbances.scale_to_unit(x)
    assert scaled.std(-1).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-4)
    assert scaled[1:].mean(-1).tolist() == pytest.approx([1.0, 0.0])


def test_an_outage_stops_most_series_of_a_server_at_once(draws: Any, noise: Any) -> None:
    down = disturbances.add_outages(draws, noise) == 0
    servers = down.any(-1).any(-1)
    assert 0.05 < servers.float().mean() < 0.3
    assert down[servers].any(-1).float().mean() > 0.5


def test_rare_spikes_stand_far_above_all_else(draws: Any, noise: Any) -> None:
    x = disturbances.add_rare_spikes(draws, noise)
    touched = (x != noise).any(-1)
    assert 0.02 < touched.float().mean() < 0.09
    assert (x != noise).float().mean(-1)[touched].max() < 0.01


def test_some_series_have_few_values(draws: Any, noise: Any) -> None:
    few = (disturbances.round_values(draws, noise) != noise).any(-1)
    assert 0.07 < few.float().mean() < 0.17


def test_held_values_were_reported_before(draws: Any, noise: Any) -> None:
    x = disturbances.hold_values(draws, noise)
    touched = (x != noise).any(-1)
    assert 0.01 < touched.float().mean() < 0.08
    assert (x[touched].diff() == 0).float().mean(-1).min() > 0.4


def test_a_change_of_behaviour_and_a_mixture_leave_most_series_alone(draws: Any, noise: Any) -> None:
    for change in (disturbances.change_behaviour, disturbances.mix_series, disturbances.turn_over):
        touched = (change(draws, noise) != noise).any(-1).float().mean()
        assert 0.02 < touched < 0.22, change


def test_what_is_left_of_a_limit_is_not_below_zero(draws: Any, noise: Any) -> None:
    assert disturbances.turn_over(draws, noise.clamp(min=0)).min() > -1e-4
