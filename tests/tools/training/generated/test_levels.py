"""Tests `streamd/tools/training/generated/levels.py`: noise has no pattern, levels hold, idle machines are coarse."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.training.generated import levels  # noqa: E402
from streamd.tools.training.generated.draws import standardize  # noqa: E402

LEVELS = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).view(-1, 1, 1)


def compute_loss(forecast: Any, actual: Any) -> Any:
    """Return the pinball loss `(rows,)` of `forecast (quantile, rows, 1 or steps)`."""
    error = actual - forecast
    return torch.maximum(LEVELS * error, (LEVELS - 1) * error).mean((0, 2))


def test_the_quantiles_of_the_window_beat_yesterday_for_noise(rows: Any) -> None:
    x = levels.make_level_noise(rows)
    window, actual = x[:, 2000:2288], x[:, 2288:2384]
    own = compute_loss(torch.quantile(window, LEVELS.view(-1), dim=1).unsqueeze(-1), actual)
    yesterday = compute_loss(window[:, :96].expand(5, -1, -1), actual)
    assert (own < yesterday).float().mean() > 0.85


def test_heavy_noise_has_many_tails_and_no_memory(rows: Any) -> None:
    x = standardize(levels.make_heavy_noise(rows.draws, 300))
    fourth = (x**4).mean(-1)
    assert fourth.min() < 3.2
    assert fourth.quantile(0.9) > 20
    assert (x[:, 1:] * x[:, :-1]).mean(-1).abs().max() < 0.1


def test_walks_wander_within_minutes_to_weeks(rows: Any) -> None:
    x = standardize(levels.make_wandering(rows))
    kept = (x[:, 288:] * x[:, :-288]).mean(-1)
    assert kept.min() < 0.1
    assert kept.max() > 0.5


def test_steps_hold_their_level(rows: Any) -> None:
    x = levels.make_steps(rows)
    change = x.diff().abs() / x.std(-1, keepdim=True)
    assert ((change > 0.3).float().mean(-1) < 0.03).float().mean() > 0.5


def test_regimes_have_few_states(rows: Any) -> None:
    x = standardize(levels.make_regimes(rows))
    assert ((x**4).mean(-1) < 3).float().mean() > 0.3  # Flatter than a bell: apart from one another.


def test_an_idle_machine_has_few_values_and_none_below_zero(rows: Any) -> None:
    x = levels.make_idle(rows)
    assert x.min() >= 0
    few = torch.tensor([len(row.unique()) < 200 for row in x])
    assert 0.3 < few.float().mean() < 0.95
