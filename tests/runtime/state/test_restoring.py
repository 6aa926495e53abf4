"""Tests `streamd/runtime/state/restoring.py`: former files and damaged ones, carried over or set aside."""

import os
import signal
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.errors import StateError, TooOldError
from streamd.core.state.layout import HEADER_BYTES
from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.state.opening import open_state
from tests.support.contracts import make_contract
from tests.support.state_files import (
    LIMITS,
    NOW,
    fill,
    fill_the_disk,
    last_status,
    opened,
    rows_of,
    run_python,
    send,
    whole,
    window_of,
)

SAME = make_contract()


# ---------------------------------------------------------------- another layout
@pytest.mark.parametrize("content", [b"?", b"\0" * HEADER_BYTES, b"streamd\x01{}".ljust(2 * HEADER_BYTES, b"\0")])
def test_a_foreign_file_is_set_aside_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "windows.streamd"
    path.write_bytes(content)
    with opened(tmp_path) as state:
        assert len(state.directory) == 0
        fill(state, "web-01", 2)
    (aside,) = tmp_path.glob("windows.streamd*.old")
    assert aside.read_bytes() == content


def test_a_cut_off_file_is_set_aside(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 3)
    path = tmp_path / "windows.streamd"
    os.truncate(path, path.stat().st_size - HEADER_BYTES)
    with opened(tmp_path) as state:
        assert len(state.directory) == 0
    assert len(list(tmp_path.glob("windows.streamd*.old"))) == 1


def test_rows_of_another_step_are_not_carried_over(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 3)
    with opened(tmp_path, make_contract(step_seconds=60)) as state:
        assert len(state.directory) == 0
    assert len(list(tmp_path.glob("windows.streamd*.old"))) == 1


@pytest.mark.parametrize("capacity", [2, 3, 9])
def test_another_capacity_retains_the_windows_of_the_servers_seen_last(tmp_path: Path, capacity: int) -> None:
    names = ["oldest", "older", "newer", "newest"]
    with opened(tmp_path) as state:
        # Not in the order in which they were seen last.
        for name in ("newer", "oldest", "newest", "older"):
            fill(state, name, 12, now=NOW + names.index(name))
        before = {name: window_of(state, name) for name in names}
    with opened(tmp_path, limits=replace(LIMITS, capacity=capacity)) as state:
        kept = names[-capacity:]
        assert sorted(state.directory.slots) == sorted(kept)
        for name in kept:
            np.testing.assert_array_equal(window_of(state, name), before[name])
            assert state.directory.get_last_seen(state.directory.slots[name]) == NOW + names.index(name)
            assert state.windows.have[state.directory.slots[name]] == 8
        assert state.recovered["carried_over"] == len(kept)
        assert (state.windows.closed_rows, state.windows.warming_rows) == (0, 0), (
            "they count from the start of the process"
        )
        assert sorted(state.find_unforecast()) == sorted(state.directory.slots.values())
    with opened(tmp_path, limits=replace(LIMITS, capacity=capacity)) as state:
        assert state.recovered["carried_over"] == 0, "once"


def test_another_model_retains_the_features_that_it_shares(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 8)
    other = make_contract(features=("net", "disk", "cpu"), targets=("disk",))
    with opened(tmp_path, other) as state:
        expected = {step: {name: whole(float(step))[name] for name in ("cpu", "net")} for step in range(100, 108)}
        assert rows_of(state, "web-01") == expected
        assert send(state, "web-01", 108, {"net": 1.0, "cpu": 2.0}) == 1, "the values of the row before are there"


@pytest.mark.parametrize("context_length", [3, 8, 20])
def test_another_context_length_retains_the_rows_that_fit(tmp_path: Path, context_length: int) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 12)
    with opened(tmp_path, make_contract(context_length=context_length)) as state:
        kept = min(context_length, SAME.context_length)
        assert rows_of(state, "web-01") == {step: whole(float(step)) for step in range(112 - kept, 112)}


def test_an_open_first_row_is_carried_over_and_stays_open_if_the_features_are_the_same(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        send(state, "web-01", 100, {"cpu": 1.0}, status=4)
    with opened(tmp_path, limits=replace(LIMITS, capacity=9)) as state:
        assert state.windows.get_newest_step(state.directory.slots["web-01"]) == NO_STEP
        assert send(state, "web-01", 100, {"mem": 2.0}) == 0
    with opened(tmp_path, make_contract(features=("mem", "cpu", "disk"))) as state:
        assert rows_of(state, "web-01") == {100: {"cpu": 1.0, "mem": 2.0}}
        assert last_status(state, "web-01") == 4


def test_statuses_and_gaps_are_carried_over(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        send(state, "web-01", 100, whole(1.0), status=2)
        send(state, "web-01", 102, {}, status=7)
        send(state, "web-01", 105, whole(2.0), status=15)
    with opened(tmp_path, limits=replace(LIMITS, capacity=9)) as state:
        assert rows_of(state, "web-01") == {100: whole(1.0), 105: whole(2.0)}
        statuses = np.empty(8, np.int32)
        state.windows.gather_window(state.directory.slots["web-01"], np.empty((8, 3), np.float32), statuses)
        assert statuses.tolist() == [0, 0, 2, 0, 7, 0, 0, 15]


def test_a_torn_row_does_not_replace_another_when_it_is_carried_over(tmp_path: Path) -> None:
    """After a kill in the middle of a write, half of a row is where the oldest row of the window was."""
    with opened(tmp_path) as state:
        slot = fill(state, "web-01", 8)
        arrays = state.windows.arrays
        arrays["journal"][slot] = 108
        arrays["values"][slot, 108 % 8] = (7.0, 8.0, 9.0)
    with opened(tmp_path, limits=replace(LIMITS, capacity=9)) as state:
        assert rows_of(state, "web-01") == {step: whole(float(step)) for step in range(101, 108)}


@pytest.mark.parametrize("damage", [b"\xff" * 60, b"web-02"])
def test_servers_beside_a_damaged_name_are_carried_over(tmp_path: Path, damage: bytes) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 3, now=NOW + 9)
        slot = state.directory.slots["web-01"]
        fill(state, "web-02", 4)
        column = state.windows_file.map_arrays()
        column["name"][slot, : len(damage)] = np.frombuffer(damage, np.uint8)
        column["name_bytes"][slot] = len(damage)
    with opened(tmp_path, limits=replace(LIMITS, capacity=9)) as state:
        # Of two servers with one name, the first that is read stays; an unreadable name is dropped.
        (server,) = state.directory.slots
        assert server == "web-02"
        assert len(rows_of(state, "web-02")) in (3, 4)
        assert send(state, "web-03", 100, whole(1.0)) == 0


SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(100, 118),
        st.dictionaries(st.sampled_from(SAME.features), st.integers(0, 99).map(float), max_size=3),
    ),
    min_size=5,
    max_size=30,
)


@settings(max_examples=50)
@given(SAMPLES, st.integers(3, 9), st.permutations(SAME.features), st.sampled_from([3, 8, 11]))
def test_any_content_of_the_windows_is_carried_over(
    samples: list[tuple[str, int, dict[str, float | None]]], capacity: int, features: list[str], context_length: int
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda descriptor: None)  # the files need not reach the disk
        folder = Path(name)
        with opened(folder) as state:
            for server, step, values in samples:
                if values:
                    with suppress(TooOldError):
                        send(state, server, step, values)
            state.windows.close_overdue_rows(float("inf"))
            before = {server: rows_of(state, server) for server in state.directory.slots}
            newest = {server: state.windows.get_newest_step(slot) for server, slot in state.directory.slots.items()}
        other = make_contract(features=tuple(features), context_length=context_length)
        with opened(folder, other, replace(LIMITS, capacity=capacity)) as state:
            assert set(state.directory.slots) == set(before)
            for server, rows in before.items():
                fits = {step: row for step, row in rows.items() if step > newest[server] - context_length}
                assert rows_of(state, server) == fits
                slot = state.directory.slots[server]
                assert state.windows.have[slot] == len(fits)
                assert state.windows.get_newest_step(slot) == newest[server]


def test_forecasts_of_another_model_are_dropped_and_windows_retained(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        slot = fill(state, "web-01", 3)
        state.board.post(slot, 102, 3, b"model", np.zeros(SAME.forecast_shape, np.float32))
    with opened(tmp_path, make_contract(quantiles=(0.5,))) as state:
        assert state.board.get_forecast(slot) is None
        assert state.board.last_serial == 1, "a reader may have that serial"
        assert state.recovered["carried_over"] == 0, "the window file is unchanged"
        assert len(rows_of(state, "web-01")) == 3
        assert state.find_unforecast() == [slot]
    assert list(tmp_path.glob("*.old")) == []


def test_a_reader_that_resumes_misses_no_forecast_of_a_replaced_board(tmp_path: Path) -> None:
    forecast = np.zeros(SAME.forecast_shape, np.float32)
    with opened(tmp_path) as state:
        slots = [fill(state, server, 3) for server in ("web-01", "web-02")]
        for _ in range(20):
            last_read = state.board.post(slots[0], 102, 3, b"model", forecast)
    contract = make_contract(quantiles=(0.5,))
    for _ in range(2):  # the second time, the board is not new any more, and still without a forecast
        with opened(tmp_path, contract) as state:
            assert state.board.last_serial == last_read
            assert not state.board.get_serials(np.array(slots)).any()
    with opened(tmp_path, contract) as state:
        for slot in slots:
            state.board.post(slot, 102, 3, b"model", np.zeros(contract.forecast_shape, np.float32))
        assert state.board.find_later_than(last_read).tolist() == slots


def test_an_implausible_serial_of_a_former_board_does_not_count(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        slot = fill(state, "web-01", 3)
        state.board.post(slot, 102, 3, b"model", np.zeros(SAME.forecast_shape, np.float32))
        state.board_file.map_arrays()["serial"][1:3] = [2**60, -(2**63)]
    with opened(tmp_path, make_contract(quantiles=(0.5,))) as state:
        assert state.board.last_serial == 1


CUT_OFF = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from streamd.runtime.state.state import State
from tests.support.state_files import LIMITS, last_status, opened
owner, where, left = (State if sys.argv[2] == "admit" else os), sys.argv[2], int(sys.argv[3])
whole = getattr(owner, where)
def dying(*arguments, **more):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **more)
setattr(owner, where, dying)
with opened(Path(sys.argv[1]), limits=replace(LIMITS, capacity=9)):
    pass
"""


@pytest.mark.parametrize(("where", "calls"), [("admit", 0), ("admit", 2), ("link", 0), ("replace", 0), ("replace", 1)])
def test_a_carry_over_that_was_killed_starts_again(tmp_path: Path, where: str, calls: int) -> None:
    with opened(tmp_path) as state:
        for number in range(4):
            fill(state, f"web-{number}", 8)
    ended = run_python(CUT_OFF, tmp_path, where, calls)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    limits = replace(LIMITS, capacity=9)
    with opened(tmp_path, limits=limits) as state:
        for number in range(4):
            assert rows_of(state, f"web-{number}") == {step: whole(float(step)) for step in range(100, 108)}
    with opened(tmp_path, limits=limits) as state:
        assert len(state.directory) == 4
        assert state.recovered["carried_over"] == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["forecasts.streamd", "lock", "windows.streamd", "windows.streamd.old"]


def test_a_carry_over_that_fails_leaves_no_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as state:
        for number in range(4):
            fill(state, f"web-{number}", 8)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fill_the_disk(monkeypatch)
    with pytest.raises(StateError, match="4 servers cannot be carried over"):
        open_state(tmp_path, SAME, replace(LIMITS, capacity=9), NOW)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with opened(tmp_path, limits=replace(LIMITS, capacity=9)) as state:
        assert len(state.directory) == 4


def test_files_of_a_killed_carry_over_are_removed_when_the_former_capacity_returns(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        for number in range(4):
            fill(state, f"web-{number}", 8)
    assert run_python(CUT_OFF, tmp_path, "admit", 2).returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*.new")) != []
    with opened(tmp_path) as state:
        assert len(state.directory) == 4
    assert list(tmp_path.glob("*.new")) == []


def test_forecasts_are_dropped_with_the_slots_of_their_window_file(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        slot = fill(state, "web-01", 3)
        state.board.post(slot, 102, 3, b"model", np.zeros(SAME.forecast_shape, np.float32))
    (tmp_path / "windows.streamd").unlink()
    with opened(tmp_path) as state:
        assert state.board.get_forecast(slot) is None
