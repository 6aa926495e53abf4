"""Tests `streamd/tools/training/calibrate.py`: factors that bring bands of a known width to their coverage."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")

from torch import nn  # noqa: E402

from streamd.tools.networks.quantile_order import Widening  # noqa: E402
from streamd.tools.training.backtest import Backtest  # noqa: E402
from streamd.tools.training.calibrate import AIM, FACTORS, calibrate, choose_factors, measure_beyond  # noqa: E402

DEVIATION = 0.1
NORMAL = np.array([-2.0537, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 2.0537])


class Banded(nn.Module):
    """Forecasts the true rhythm of the test's fleet, with normal bands of a wrong width below and above."""

    def __init__(self, contract: Any, below: float, above: float) -> None:
        super().__init__()
        self.contract, self.below, self.above = contract, below, above
        self.widening = Widening(contract.quantiles, contract.horizon)

    def predict(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        sine = inputs["decoder_cont"][..., 0]
        wrong = np.where(NORMAL < 0, self.below, self.above)
        table = (2.0 + sine)[:, None, None] + (DEVIATION * NORMAL * wrong)[:, None]
        found = self.widening(torch.from_numpy(table.astype(np.float32))).numpy()
        return np.repeat(found.transpose(0, 3, 1, 2), len(self.contract.targets), axis=2)


def test_each_side_is_stretched_as_far_as_it_is_too_narrow_or_too_wide(fleet: Any, contract: Any) -> None:
    model = Banded(contract, below=0.8, above=1.15)
    found = calibrate(model, model.predict, [fleet], contract)
    narrow = 1.3255 / 1.2816  # The normal quantile of half of what AIM leaves, beside that of 0.1.
    assert np.mean(found["below"]) == pytest.approx(narrow / 0.8, rel=0.06)
    assert np.mean(found["above"]) == pytest.approx(narrow / 1.15, rel=0.06)
    assert found["validation"]["small"]["cov80"] == pytest.approx(AIM, abs=0.02)
    assert all(q == pytest.approx(AIM, abs=0.04) for q in found["validation"]["small"]["by_quarter"])


def test_the_table_leaves_the_median_and_the_order_as_they_are(fleet: Any, contract: Any) -> None:
    model = Banded(contract, below=0.8, above=1.3)
    calibrate(model, model.predict, [fleet], contract)
    table = model.widening.factors.numpy()
    assert (table[3] == 1.0).all()
    assert (table[:3] == table[0]).all()
    assert (table[4:] == table[6]).all()
    assert np.abs(np.diff(table[0])).max() < 0.02, "no step between two quarters"
    again = calibrate(model, model.predict, [fleet], contract)
    assert np.mean(again["below"]) == pytest.approx(1.0, abs=0.03), "a second pass starts at the first one's bands"


def test_what_lies_beyond_is_counted_by_side_and_quarter(fleet: Any, contract: Any) -> None:
    fleet.values[:] = np.nan_to_num(fleet.values, nan=2.0)
    backtest = Backtest(fleet, contract, split="val", stride=36)
    actual = backtest.read_actual(backtest.windows)
    forecasts = actual[..., None] + np.array([-3, -2, -1, 0, 1, 2, 3])
    forecasts[:, 72:] -= 10.0
    beyond = measure_beyond(backtest, forecasts)
    assert (beyond[0] == 0).all()
    assert (beyond[1, :3] == 0).all()
    assert (beyond[1, 3] == 1).all()


def test_the_least_factor_that_suffices_is_chosen_or_the_largest() -> None:
    beyond = np.linspace(0.2, 0.0, len(FACTORS))[None, None].repeat(2, 1)
    beyond[0, 1] = 0.5
    found = choose_factors(beyond, 0.1)
    assert found[0, 0] == FACTORS[np.argmax(beyond[0, 0] <= 0.1)]
    assert found[0, 1] == FACTORS[-1]
