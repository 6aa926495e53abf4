"""Tests `streamd/tools/networks/grain.py`: counts and coarse values have a grain, others have none."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.networks.grain import MOST_LEVELS, find_grain  # noqa: E402

STEPS = 288


def find(values: Any, observed: Any = None, is_enough: bool = True) -> float:
    """Return the grain of a series in its own units."""
    observed = torch.ones(STEPS) if observed is None else observed
    known = values[observed > 0]
    low, span = known.min(), known.max() - known.min()
    share = ((values - low) / span * observed).view(1, 1, -1)
    found = find_grain(share, observed.view(1, 1, -1), torch.tensor([[[is_enough]]]))
    assert found.shape == (1, 1, 1)
    return float(found * span)


@pytest.mark.parametrize("grain", [1.0, 0.01, 0.25, 1e9])
@pytest.mark.parametrize("levels", [1, 4, 40])
def test_multiples_of_a_number_have_it_as_their_grain(grain: float, levels: int) -> None:
    counts = torch.randint(0, levels + 1, (STEPS,)).float()
    counts[:2] = torch.tensor([levels, levels - 1.0])
    assert find((counts + 7) * grain) == pytest.approx(grain, rel=1e-3)


def test_missing_values_have_no_say() -> None:
    counts = torch.randint(0, 5, (STEPS,)).float()
    observed = (torch.arange(STEPS) % 7 > 0).float()
    assert find(torch.where(observed > 0, counts, 0.123), observed) == pytest.approx(1.0, rel=1e-3)


def test_continuous_values_have_none() -> None:
    assert find(torch.rand(STEPS)) == 0.0


def test_one_value_between_the_levels_leaves_none() -> None:
    counts = torch.randint(0, 5, (STEPS,)).float()
    counts[100] = 2.4
    assert find(counts) == 0.0


def test_more_levels_than_a_few_have_none() -> None:
    ramp = torch.arange(STEPS).float()
    assert find(ramp % (MOST_LEVELS + 1)) == pytest.approx(1.0, rel=1e-3)
    assert find(ramp % (MOST_LEVELS + 2)) == 0.0


def test_too_few_values_have_none() -> None:
    assert find(torch.randint(0, 5, (STEPS,)).float(), is_enough=False) == 0.0


def test_a_constant_has_none() -> None:
    nothing = torch.zeros(1, 1, STEPS)
    assert float(find_grain(nothing, torch.ones(1, 1, STEPS), torch.tensor([[[True]]]))) == 0.0
