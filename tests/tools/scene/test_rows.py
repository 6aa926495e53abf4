"""Tests `streamd/tools/scene/rows.py`: gaps, rows that lack features, and impossible values."""

from streamd.tools.loadtest.daemon import ServerWindow
from streamd.tools.scene.rows import check_rows, find_lost_values, read_rows

WHOLE = {"cpu_idle": 90.0, "net_in": 5.0}


def test_rows_of_a_window_are_found_by_step() -> None:
    window = ServerWindow(
        server="a",
        step_seconds=5,
        origin=500.0,
        features=["cpu_idle", "net_in"],
        values=[[1.0, None], [None, None], [3.0, 4.0]],
    )
    assert read_rows(window) == {97: {"cpu_idle": 1.0}, 99: {"cpu_idle": 3.0, "net_in": 4.0}}


def test_whole_rows_have_no_fault() -> None:
    check = check_rows("a", dict.fromkeys(range(10, 16), WHOLE), 15)
    assert check.is_whole
    assert (check.first_step, check.expected, sorted(check.features)) == (10, 6, ["cpu_idle", "net_in"])


def test_the_rows_before_the_first_whole_one_do_not_count() -> None:
    rows = {10: {"cpu_idle": 90.0}, **dict.fromkeys(range(11, 16), WHOLE)}
    check = check_rows("a", rows, 15)
    assert check.is_whole
    assert check.first_step == 11


def test_a_gap_and_a_row_that_lacks_a_feature_are_found() -> None:
    rows = {**dict.fromkeys(range(10, 20), WHOLE), 15: {"cpu_idle": 90.0}}
    del rows[13]
    check = check_rows("a", rows, 21)
    assert check.missing == [13, 20, 21]
    assert check.incomplete == {15: ["net_in"]}
    assert not check.is_whole


def test_absurd_values_are_found() -> None:
    rows = {10: WHOLE, 11: {"cpu_idle": 120.0, "net_in": -1.0}, 12: WHOLE}
    assert check_rows("a", rows, 12).absurd == ["cpu_idle is 120 in step 11", "net_in is -1 in step 11"]


def test_a_server_without_rows_is_not_whole() -> None:
    check = check_rows("a", {}, 12)
    assert (check.expected, check.is_whole) == (0, False)


def test_what_an_agent_has_not_measured_is_not_missing() -> None:
    rows = dict.fromkeys([10, 11, 14], WHOLE)
    check = check_rows("a", rows, 14, unmeasured={12, 13})
    assert check.is_whole
    assert check_rows("a", rows, 14, unmeasured={12}).missing == [13]


def test_rows_that_lost_values_are_found() -> None:
    before = {1: WHOLE, 2: WHOLE, 3: WHOLE, 4: WHOLE}
    after = {1: WHOLE, 3: {"cpu_idle": 90.0}, 4: {**WHOLE, "net_in": 6.0}}
    assert find_lost_values(before, after) == [2, 3]
