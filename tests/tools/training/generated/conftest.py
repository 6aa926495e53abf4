"""Fixtures of draws and rows for the kinds of series."""

from typing import Any

import pytest


@pytest.fixture
def draws(one_thread: Any) -> Any:
    """Return draws of series of two weeks."""
    torch = pytest.importorskip("torch")
    from streamd.tools.training.generated.draws import SeriesDraws

    return SeriesDraws(torch.Generator().manual_seed(7), torch.device("cpu"), 4032)


@pytest.fixture
def rows(draws: Any) -> Any:
    """Return 60 rows of as many servers that begin on a Monday 00:00."""
    torch = pytest.importorskip("torch")
    from streamd.tools.training.generated.loads import SeriesRows, make_loads

    begin = torch.zeros(60, 1)
    return SeriesRows(draws, begin, make_loads(draws, begin))
