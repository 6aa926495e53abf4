"""Tests `streamd/runtime/state/opening.py`: a state folder belongs to one daemon, and survives kill -9."""

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamd.core.errors import StateError
from streamd.runtime.state.mapped_file import StateFile
from streamd.runtime.state.opening import open_state
from tests.support.contracts import make_contract
from tests.support.state_files import (
    LIMITS,
    NOW,
    fill,
    last_status,
    opened,
    rows_of,
    run_python,
    send,
    whole,
    window_of,
)

SAME = make_contract()


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
