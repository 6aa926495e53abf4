"""Tests `streamd/tools/networks/restoring.py`: scaled forecasts become raw ones within bounds."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.networks.restoring import WindowRestorer  # noqa: E402
from streamd.tools.networks.scaling import WindowScaler  # noqa: E402

CONTEXT = 288


def scale(past: Any) -> Any:
    return WindowScaler(list(range(past.shape[2])), CONTEXT)(past)[1]


def restore(past: Any, raw: Any, percent: bool = False, training: bool = False) -> Any:
    """Return what becomes of a forecast `raw`, `(quantile,)`, of a window `(1, context, 1)`."""
    window = scale(past)
    low, span = window.low.flatten(), window.span.flatten()
    scaled = ((raw - low) / torch.where(span > 0, span, 1.0) - window.center.flatten()) / window.spread.flatten()
    restorer = WindowRestorer([percent]).train(training)
    return restorer(scaled.view(1, 1, 1, -1), window).flatten()


def test_restoring_inverts_scaling() -> None:
    past = torch.rand(3, CONTEXT, 2) * 7e8 + 1e9
    window = scale(past)
    back = WindowRestorer([False, False])(window.values.transpose(1, 2).unsqueeze(-1), window)[..., 0]
    torch.testing.assert_close(back, past, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("highest", "percent", "most"), [(90.0, True, 100.0), (90.0, False, 225.0), (400.0, True, 1000.0)]
)
def test_a_percentage_that_never_passed_100_never_will(highest: float, percent: bool, most: float) -> None:
    past = torch.linspace(0.0, highest, CONTEXT).view(1, CONTEXT, 1)
    assert float(restore(past, torch.tensor([9e9]), percent)) == pytest.approx(most, rel=1e-3)


@pytest.mark.parametrize(("lowest", "least"), [(0.0, 0.0), (5.0, 0.0), (-10.0, -160.0)])
def test_only_a_series_that_was_negative_is_forecast_so(lowest: float, least: float) -> None:
    past = torch.linspace(lowest, 90.0, CONTEXT).view(1, CONTEXT, 1)
    assert float(restore(past, torch.tensor([-9e9]))) == pytest.approx(least, rel=1e-3)


def test_forecasts_of_counts_are_counts_once_training_is_over() -> None:
    past = torch.randint(0, 9, (1, CONTEXT, 1)).float()
    raw = torch.tensor([-0.3, 0.2, 1.4, 2.6, 3.0, 7.7, 11.1])
    torch.testing.assert_close(
        restore(past, raw), torch.tensor([0.0, 0.0, 1.0, 3.0, 3.0, 8.0, 11.0]), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(restore(past, raw, training=True), raw.clamp(min=0.0), rtol=0, atol=1e-4)


def test_forecasts_of_series_without_a_grain_are_not_rounded() -> None:
    past = torch.rand(1, CONTEXT, 1)
    raw = torch.linspace(0.1, 0.9, 50)
    torch.testing.assert_close(restore(past, raw), raw, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["counts", "noise"])
def test_ordered_quantiles_stay_ordered(kind: str) -> None:
    past = torch.randint(-4, 5, (1, CONTEXT, 1)).float() if kind == "counts" else torch.randn(1, CONTEXT, 1)
    found = restore(past, torch.linspace(-40.0, 40.0, 5_000))
    assert (found.diff() >= 0).all()


def test_a_window_with_a_single_value_is_forecast_as_that_value() -> None:
    found = restore(torch.full((1, CONTEXT, 1), 3.7e12), torch.tensor([0.0, 1e9, 9e15]))
    assert (found == torch.tensor(3.7e12)).all()
