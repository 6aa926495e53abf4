"""Tests `streamd/tools/training/recorded_tables.py`: rows of a table onto a grid, and derived columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="the extra [train] is not installed")

from streamd.tools.fleets.errors import FleetError  # noqa: E402
from streamd.tools.training.recorded_tables import derive_column, place_on_grid, read_table  # noqa: E402


def make_frame(rows: list[tuple[str, int, float]]) -> Any:
    return pd.DataFrame(rows, columns=["machine", "ts", "load"])


@pytest.mark.parametrize(("factor", "unit"), [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_times_in_a_finer_unit_are_named(tmp_path: Path, factor: int, unit: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"machine,ts,cpu_user\na,{1_763_708_400 * factor},1\n")
    with pytest.raises(FleetError, match=rf"f\.csv:2: time [0-9.e+]+ looks like {unit}; expected epoch seconds"):
        read_table(path)


def test_another_column_can_name_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("series,ts,value\nrate-1,600,1.5\n")
    assert read_table(path, "series").to_dict("records") == [{"machine": "rate-1", "ts": 600.0, "value": 1.5}]
    with pytest.raises(FleetError, match="columns are series, ts, value"):
        read_table(path)


def test_the_last_sample_about_a_step_is_used_and_a_step_without_one_is_missing() -> None:
    frame = make_frame([("b", 1060, 4.0), ("a", 580, 1.0), ("a", 740, 2.0), ("a", 1200, 3.0)])
    machines, columns, values = place_on_grid(frame, begin=600, steps=3, step_seconds=300)
    assert (machines, columns) == (["a", "b"], ["load"])
    np.testing.assert_array_equal(values[..., 0], [[2.0, np.nan, 3.0], [np.nan, np.nan, 4.0]])


def test_rows_beyond_the_grid_are_left_out() -> None:
    frame = make_frame([("a", 0, 1.0), ("a", 600, 2.0), ("a", 900, 3.0)])
    np.testing.assert_array_equal(place_on_grid(frame, 600, 1, 300)[2], [[[2.0]]])


def test_a_derived_column_is_a_number_minus_a_column() -> None:
    frame = make_frame([("a", 0, 30.0)])
    assert derive_column(frame, "load").tolist() == [30.0]
    assert derive_column(frame, "100 - load").tolist() == [70.0]


@pytest.mark.parametrize("expression", ["idle", "100 - idle", "load - 1", "100 + load", " - load"])
def test_another_expression_is_refused_by_its_name(expression: str) -> None:
    with pytest.raises(FleetError, match=f"feature map: '.*{expression[-3:]}' is neither a column nor"):
        derive_column(make_frame([]), expression)
