"""Tests `streamd/tools/networks/operations.py`: operations in elementary operators are those of PyTorch."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.networks.operations import (  # noqa: E402
    Bounded,
    compress_spikes,
    compute_past_calendar,
    elu,
    round_softly,
    softplus,
)
from streamd.tools.training.augment import compute_calendar  # noqa: E402

VALUES = torch.cat([torch.linspace(-30, 30, 6001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, -200.0, 1e30, -1e30])])


@pytest.mark.parametrize(("ours", "theirs"), [(elu, torch.nn.functional.elu), (softplus, torch.nn.functional.softplus)])
def test_values_and_gradients_are_those_of_the_operator(ours: Any, theirs: Any) -> None:
    found, expected = (VALUES.clone().requires_grad_() for _ in range(2))
    ours(found).sum().backward()
    theirs(expected).sum().backward()
    torch.testing.assert_close(ours(VALUES), theirs(VALUES), rtol=1e-6, atol=1e-6)
    away_from_zero = VALUES != 0
    torch.testing.assert_close(found.grad[away_from_zero], expected.grad[away_from_zero], rtol=1e-5, atol=1e-6)


def test_elu_has_the_operator_s_gradient_at_zero_too() -> None:
    zero = torch.zeros(1, requires_grad=True)
    elu(zero).backward()
    assert zero.grad.item() == 1.0


def test_spikes_are_compressed_and_values_near_zero_are_not() -> None:
    found = compress_spikes(torch.tensor([0.0, 1e-4, -1e-4, 100.0, -1e30]))
    torch.testing.assert_close(found, torch.tensor([0.0, 1e-4, -1e-4, 4.6151, -69.0776]), rtol=1e-3, atol=0.0)


def test_numbers_are_limited_to_those_of_a_table() -> None:
    numbers = torch.tensor([-(2**31), -1, 0, 15, 16, 2**31 - 1], dtype=torch.int32)
    assert Bounded(16)(numbers).tolist() == [0, 0, 0, 15, 15, 15]


def test_the_past_calendar_is_the_calendar_of_the_past() -> None:
    start = torch.tensor([86_400.0 * 3 + 7_200, 0.0])
    future = compute_calendar(start + 288 * 300, 96, 300)
    torch.testing.assert_close(
        compute_past_calendar(future, 288, 300), compute_calendar(start, 288, 300), rtol=0, atol=2e-5
    )


def test_soft_rounding_is_rounding_but_in_the_middle_tenth_and_never_falls() -> None:
    x = torch.linspace(-3.0, 3.0, 60_001)
    found = round_softly(x)
    far = (x - x.floor() - 0.5).abs() > 0.1001
    torch.testing.assert_close(found[far], torch.round(x[far]), rtol=0, atol=1e-6)
    assert (found.diff() >= -1e-6).all()
    assert found.diff().max() < 0.001, "there is no jump"
