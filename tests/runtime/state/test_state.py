"""Tests `streamd/runtime/state/state.py`.

A state folder belongs to one daemon, survives kill -9 and changes of capacity and model, and reports a full disk.
"""

import errno
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.errors import StateError, StorageError, TooOldError
from streamd.core.state.layout import HEADER_BYTES, Column, Layout
from streamd.core.state.windows import NO_STEP
from streamd.runtime.state.mapped_file import StateFile, open_state_file
from streamd.runtime.state.state import WindowLimits, open_state
from tests.support.contracts import make_contract
from tests.support.state_files import LIMITS, NOW, fill, last_status, opened, rows_of, send, whole, window_of

SAME = make_contract()


def run_python(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a program in another process, in the repository's root."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- restarts
def test_a_restart_finds_everything(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 12)
        send(state, "web-02", 100, {"cpu": 1.0}, status=3)
        window = window_of(state, "web-01")
        forecast = np.arange(24, dtype=np.float32).reshape(SAME.forecast_shape)
        serial = state.board.post(state.directory.slots["web-01"], 111, 8, b"model", forecast)
    with opened(tmp_path, now=5_000.0) as state:
        np.testing.assert_array_equal(window_of(state, "web-01"), window)
        found = state.board.get_forecast(state.directory.slots["web-01"])
        assert found is not None
        assert (found.serial, found.step, found.context, found.model) == (serial, 111, 8, "model")
        np.testing.assert_array_equal(found.values, forecast)
        assert state.windows.get_next_deadline() == 5_000.0 + LIMITS.grace_seconds
        assert send(state, "web-02", 100, {"mem": 2.0, "net": 3.0}) == 0, "one of the two rows that are needed"
        assert rows_of(state, "web-02") == {100: {"cpu": 1.0, "mem": 2.0, "net": 3.0}}
        assert last_status(state, "web-02") == 3
        assert {name: count for name, count in state.recovered.items() if count} == {"servers": 2}


def test_rows_that_were_not_forecast_are_found(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        slots = {name: fill(state, name, rows) for name, rows in {"done": 3, "new": 3, "short": 1}.items()}
        state.board.post(slots["done"], 102, 3, b"model", np.zeros(SAME.forecast_shape, np.float32))
        assert state.find_unforecast() == [slots["new"]]
    with opened(tmp_path) as state:
        assert state.find_unforecast() == [state.directory.slots["new"]]
        fill(state, "done", 1, first_step=103)
        assert sorted(state.find_unforecast()) == sorted(slots[name] for name in ("done", "new"))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.state_files import opened, send, whole
with opened(Path(sys.argv[1])) as state:
    for step in range(100, 120):
        for server in ("web-01", "web-02"):
            send(state, server, step, whole(float(step)))
            print(server, step, flush=True)
    send(state, "web-02", 120, {"mem": 7.0})
    print("web-02", 120, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_samples_that_a_killed_process_acknowledged_are_stored(tmp_path: Path) -> None:
    ended = run_python(KILLED, tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(ended.stdout.splitlines()) == 41
    with opened(tmp_path) as state:
        for server in ("web-01", "web-02"):
            assert rows_of(state, server) == {step: whole(float(step)) for step in range(112, 120)}
        assert state.windows.close_overdue_rows(NOW + 99) == [state.directory.slots["web-02"]]
        assert rows_of(state, "web-02")[120] == {"mem": 7.0}


# ---------------------------------------------------------------- one daemon at a time
OPENED = """
import sys
from pathlib import Path
from streamd.core.errors import StateError
from tests.support.state_files import opened
try:
    with opened(Path(sys.argv[1])):
        print("opened")
except StateError as error:
    print(error.code, error)
"""


def test_two_processes_cannot_open_one_folder(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 3)
        second = run_python(OPENED, tmp_path)
        assert second.stdout.startswith("state "), second.stderr
        assert "another process has it open" in second.stdout
        with pytest.raises(StateError, match="another process"):
            open_state(tmp_path, SAME, LIMITS, NOW)
        assert len(rows_of(state, "web-01")) == 3
    assert run_python(OPENED, tmp_path).stdout.endswith("opened\n"), "close releases the lock, even if views are held"


def test_a_folder_that_cannot_be_made_is_an_error_of_the_state(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError, match="cannot be opened"):
        open_state(tmp_path / "file" / "state", SAME, LIMITS, NOW)


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


def test_an_open_first_row_is_carried_over(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        send(state, "web-01", 100, {"cpu": 1.0}, status=4)
    with opened(tmp_path, limits=replace(LIMITS, capacity=9)) as state:
        assert rows_of(state, "web-01") == {100: {"cpu": 1.0}}
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


@pytest.mark.parametrize("damage", [b"\xff" * 200, b"web-02"])
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
        assert state.board.last_serial == 0
        assert state.recovered["carried_over"] == 0, "the window file is unchanged"
        assert len(rows_of(state, "web-01")) == 3
        assert state.find_unforecast() == [slot]
    assert list(tmp_path.glob("*.old")) == []


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


# ---------------------------------------------------------------- a full disk
def fill_the_disk(monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)


def test_a_full_disk_evicts_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as state:
        names = [f"web-{number}" for number in range(LIMITS.capacity)]
        for name in names:
            fill(state, name, 3)
    with opened(tmp_path) as state:  # it does not know which pieces of the file have space
        generations = list(state.directory.generations)
        fill_the_disk(monkeypatch)
        with pytest.raises(StorageError, match="no space") as caught:
            send(state, "one-more", 100, whole(1.0))
        assert caught.value.retry
        assert sorted(state.directory.slots) == sorted(names)
        assert state.directory.generations == generations
        for name in names:
            assert len(rows_of(state, name)) == 3
        assert send(state, names[0], 103, whole(1.0)) == 1, "known servers go on"
        monkeypatch.undo()
        send(state, "one-more", 100, whole(1.0))
        assert "one-more" in state.directory.slots


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fill_the_disk(monkeypatch, code)
    with opened(tmp_path) as state:
        fill(state, "web-01", 3)
        assert len(rows_of(state, "web-01")) == 3


@pytest.mark.parametrize("has_space_for_pieces", [True, False])
def test_a_slot_is_reserved_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_space_for_pieces: bool
) -> None:
    reserved: dict[int, list[tuple[int, int]]] = {}

    def reserve(fd: int, offset: int, size: int) -> None:
        if size > mmap.PAGESIZE and not has_space_for_pieces:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserved.setdefault(fd, []).append((offset, offset + size))

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with opened(tmp_path) as state:
        slot, _ = state.admit("web-01", NOW)
        files = (state.windows_file, state.board_file)
        assert len(reserved) == len(files)
        for file, ranges in zip(files, reserved.values(), strict=True):
            for offset, size in file.layout.list_slot_extents(slot):
                assert any(start <= offset and offset + size <= end for start, end in ranges)


def test_a_piece_of_a_file_is_reserved_once_for_all_of_its_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, offset, size: reserved.append((fd, offset)))
    with opened(tmp_path) as state:
        for number in range(LIMITS.capacity):
            state.admit(f"web-{number}", NOW)
    assert len(set(reserved)) == len(reserved) == 2, "each file is smaller than a piece"


# ---------------------------------------------------------------- capacity
def test_the_longest_silent_server_is_evicted_and_its_slot_emptied(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        for number in range(LIMITS.capacity):
            slot = fill(state, f"web-{number}", 3, now=NOW + number)
            state.board.post(slot, 102, 3, b"model", np.zeros(SAME.forecast_shape, np.float32))
        fill(state, "web-0", 1, first_step=103, now=NOW + 50)
        slot, forgotten = state.admit("one-more", NOW + 60)
        assert forgotten == "web-1"
        assert state.directory.names[slot] == "one-more"
        assert state.windows.get_newest_step(slot) == NO_STEP
        assert state.windows.have[slot] == 0
        assert state.board.get_forecast(slot) is None
        assert np.isnan(window_of(state, "one-more")).all()


# ---------------------------------------------------------------- the file itself
def test_a_file_can_be_closed_twice_and_flushed_afterwards(tmp_path: Path) -> None:
    layout = Layout((Column("a", "<f4"),), 4, {"kind": "test"})
    file, aside = open_state_file(tmp_path / "a" / "b" / "file", layout)
    assert aside is None
    assert file.is_new
    file.map_arrays()["a"][2] = 5.0
    file.flush()
    file.close()
    file.close()
    file.flush()
    again = StateFile(file.path, layout)
    assert not again.is_new
    assert again.identifier == file.identifier
    assert again.map_arrays()["a"].tolist() == [0.0, 0.0, 5.0, 0.0]
    again.close()


def test_a_file_is_sparse_until_it_is_used(tmp_path: Path) -> None:
    limits = WindowLimits(capacity=20_000, need=1)
    contract = make_contract(context_length=288)
    with opened(tmp_path, contract, limits) as state:
        before = os.stat(state.windows_file.path)
        assert before.st_size > 100 * 2**20
        fill(state, "web-01", 3)
        # A server takes a piece of each large column at first; the next servers find their space in it.
        assert os.stat(state.windows_file.path).st_blocks * 512 < 10 * 2**20


# ---------------------------------------------------------------- the folder as a whole
def test_a_second_daemon_is_refused_also_while_files_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window file is another one after a carry-over, and is not locked by the file that it replaced."""
    with opened(tmp_path) as state:
        fill(state, "web-01", 3)
    refused: list[str] = []

    def try_again(file: StateFile, former: Path, aside: Path | None) -> None:
        former.unlink()
        with pytest.raises(StateError) as caught:
            open_state(tmp_path, SAME, LIMITS, NOW)
        refused.append(str(caught.value))
        raise StateError("enough")

    monkeypatch.setattr(StateFile, "replace_former", try_again)
    with pytest.raises(StateError, match="enough"):
        open_state(tmp_path, SAME, replace(LIMITS, capacity=9), NOW)
    assert refused == [f"{tmp_path}: another process has it open; one state folder serves one daemon"]


@pytest.mark.parametrize("mark", [b"", b"clean", b"cleam", b"x" * 64, b"\0" * 100])
def test_whatever_the_mark_is_the_windows_are_right(tmp_path: Path, mark: bytes) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 12)
        send(state, "web-01", 112, {"cpu": 1.0})
    (tmp_path / "lock").write_bytes(mark)
    with opened(tmp_path) as state:
        assert state.recovered["torn"] == (mark != b"clean")
        assert state.recovered["lost_rows"] == 0
        assert rows_of(state, "web-01") == {step: whole(float(step)) for step in range(104, 112)}
        assert state.windows.get_latest_step(0) == 112


def test_a_state_that_was_killed_in_this_boot_is_not_torn(tmp_path: Path) -> None:
    ended = run_python(KILLED_AT_ONCE, tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    with opened(tmp_path) as state:
        assert (state.recovered["torn"], state.recovered["lost_rows"]) == (0, 0)
        assert rows_of(state, "web-01") == {step: whole(float(step)) for step in range(100, 103)}


KILLED_AT_ONCE = """
import os, signal, sys
from pathlib import Path
from tests.support.state_files import fill, opened
with opened(Path(sys.argv[1])) as state:
    fill(state, "web-01", 3)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_state_that_cannot_be_flushed_at_the_end_is_checked_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = open_state(tmp_path, SAME, LIMITS, NOW)
    fill(state, "web-01", 3)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    state.close()
    monkeypatch.undo()
    assert not (tmp_path / "lock").read_bytes().startswith(b"clean")
    with opened(tmp_path) as state:
        assert rows_of(state, "web-01") == {step: whole(float(step)) for step in range(100, 103)}
