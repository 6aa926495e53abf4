"""Tests `streamd/tools/networks/quantile_order.py`: quantiles never cross, in any precision and for any weights."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.networks.quantile_order import QuantileOrder, Widening  # noqa: E402

QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
KINDS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_cannot_cross(kind: Any) -> None:
    sizes = torch.tensor([0.0, 0.01, 1.0, 30.0, 1000.0])[torch.randint(0, 5, (500, 6))]
    median = torch.randn(500, 1) * 1000.0
    found = QuantileOrder(QUANTILES)(median.to(kind), (sizes * torch.rand(500, 6)).to(kind))
    assert torch.equal(found[:, 3:4], median.to(kind))
    assert (found.diff(dim=1) >= 0).all()


def test_distances_are_added_on_both_sides_of_the_median() -> None:
    gaps = torch.tensor([[32.0, 16.0, 8.0, 4.0, 2.0, 1.0]])
    found = QuantileOrder(QUANTILES)(torch.tensor([[100.0]]), gaps)
    assert found.tolist() == [[44.0, 76.0, 92.0, 100.0, 104.0, 106.0, 107.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_widened_quantiles_cannot_cross(kind: Any) -> None:
    widening = Widening(QUANTILES, 96)
    widening.factors[:3], widening.factors[4:] = 0.8 + torch.rand(96), 0.8 + torch.rand(96)
    ordered = (torch.randn(20, 7, 7, 96) * 100).sort(dim=2).values
    found = widening.to(kind)(ordered.to(kind))
    assert torch.equal(found[:, :, 3], ordered[:, :, 3].to(kind))
    assert (found.diff(dim=2) >= 0).all()


def test_factors_stretch_the_distance_from_the_median() -> None:
    widening = Widening((0.1, 0.5, 0.9), 2)
    ordered = torch.tensor([[[[9.0, 8.0], [10.0, 10.0], [14.0, 20.0]]]])
    assert torch.equal(widening(ordered), ordered)
    widening.factors.copy_(torch.tensor([[2.0, 3.0], [9.0, 9.0], [0.5, 1.5]]))
    assert widening(ordered).tolist() == [[[[8.0, 4.0], [10.0, 10.0], [12.0, 25.0]]]]
