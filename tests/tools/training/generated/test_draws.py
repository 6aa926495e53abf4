"""Tests `streamd/tools/training/generated/draws.py`: noise has its memory, filters look back only."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.training.generated.draws import standardize  # noqa: E402


@pytest.mark.parametrize("memory", [0.2, 3.0, 40.0])
def test_reverting_noise_forgets_as_an_autoregression_does(draws: Any, memory: float) -> None:
    x = draws.make_reverting_noise(torch.full((200, 1), memory))
    assert x.std().item() == pytest.approx(1.0, abs=0.05)
    found = (x[:, 1:] * x[:, :-1]).mean() / (x**2).mean()
    assert found.item() == pytest.approx(torch.tensor(-1.0 / memory).exp().item(), abs=0.02)


def test_the_spectrum_of_noise_has_its_slope(draws: Any) -> None:
    rough, walk = draws.make_noise(50, 0.0, 0.0), draws.make_noise(50, 2.0, 2.0)
    assert (rough.diff() ** 2).mean().item() == pytest.approx(2.0, rel=0.05)
    assert (walk.diff() ** 2).mean() < 0.05


def test_a_filter_looks_back_only(draws: Any) -> None:
    x = torch.zeros(1, draws.length)
    x[0, 1000] = 1.0
    smooth = draws.smooth_causally(x, torch.full((1, 1), 20.0))
    torch.testing.assert_close(smooth[:, :1000], x[:, :1000], atol=1e-5, rtol=0)
    keep = torch.tensor(-1.0 / 20.0).exp()
    expected = (1 - keep) * keep ** torch.arange(50)
    torch.testing.assert_close(smooth[0, 1000:1050], expected, atol=1e-5, rtol=0)


def test_a_filter_keeps_a_constant(draws: Any) -> None:
    x = torch.full((3, draws.length), 5.0)
    torch.testing.assert_close(draws.smooth_causally(x, torch.full((3, 1), 70.0)), x, atol=1e-4, rtol=0)


def test_each_event_is_answered_by_the_kernel(draws: Any) -> None:
    events, kernel = torch.zeros(1, draws.length), torch.zeros(1, draws.length)
    events[0, [10, 12, draws.length - 1]] = torch.tensor([1.0, 2.0, 4.0])
    kernel[0, :3] = torch.tensor([1.0, 0.5, 0.25])
    answered = draws.convolve(events, kernel)[0]
    torch.testing.assert_close(answered[10:16], torch.tensor([1.0, 0.5, 2.25, 1.0, 0.5, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(answered[[0, 1, -1]], torch.tensor([0.0, 0.0, 4.0]), atol=1e-5, rtol=0)


def test_draws_keep_their_range(draws: Any) -> None:
    x = draws.draw_log_uniform(0.01, 100.0, 4000)
    assert ((x >= 0.0099) & (x <= 100.1)).all()
    assert (x < 1.0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert set(draws.draw_choice((1.0, 2.0, 5.0), 300).tolist()) == {1.0, 2.0, 5.0}
    assert draws.draw_counts(torch.full((4000,), 3.0)).mean().item() == pytest.approx(3.0, abs=0.2)


def test_a_constant_series_is_standardized_to_zero() -> None:
    assert (standardize(torch.full((1, 9), 4.0)) == 0).all()
