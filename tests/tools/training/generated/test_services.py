"""Tests `streamd/tools/training/generated/services.py`: each kind follows the load in its own way."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.training.generated import services  # noqa: E402
from streamd.tools.training.generated.draws import standardize  # noqa: E402


def correlate(x: Any, y: Any) -> Any:
    return (standardize(x) * standardize(y)).mean(-1)


def test_a_service_follows_its_load(rows: Any) -> None:
    x = services.make_service(rows)
    assert x.min() >= 0
    assert correlate(x, rows.load).median() > 0.6


def test_working_days_do_not_follow_the_load_of_their_server(rows: Any) -> None:
    assert correlate(services.make_working_days(rows), rows.load).abs().median() < 0.5


def test_growth_changes_the_level_over_the_weeks(rows: Any) -> None:
    x = services.make_growth(rows)
    ratio = (x[:, -2016:].mean(-1) / x[:, :2016].mean(-1)).log().abs()
    before = (rows.load[:, -2016:].mean(-1) / rows.load[:, :2016].mean(-1)).log().abs()
    assert ratio.median() > 2 * before.median()


def test_saturation_stays_at_a_ceiling(rows: Any) -> None:
    x = services.make_saturation(rows)
    assert x.max() <= 1.0
    assert ((x > 0.9).float().mean(-1) > 0.1).float().mean() > 0.5


def test_counts_are_whole_and_as_variable_as_their_rate(rows: Any) -> None:
    x = services.make_counts(rows)
    assert torch.equal(x, x.round())
    assert (x.var(-1) > 0.8 * x.mean(-1)).all()


def test_a_backlog_is_empty_while_the_load_is_low(rows: Any) -> None:
    x = services.make_backlog(rows)
    assert x.min() >= 0
    assert ((x < 1e-3).float().mean(-1) > 0.05).float().mean() > 0.5
    assert (x.amax(-1) > 0).float().mean() > 0.9


def test_instances_are_whole_or_share_the_load(rows: Any) -> None:
    x = services.make_instances(rows)
    whole = (x == x.round()).all(-1)
    assert 0.2 < whole.float().mean() < 0.8
    assert (x[whole] >= 1).all()
