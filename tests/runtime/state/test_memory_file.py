"""Tests `streamd/runtime/state/memory_file.py`: the memory survives restarts, kills and power losses, and migrates."""

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.arrays import Float32
from streamd.core.contract import MEMORY_LENGTH
from streamd.core.errors import StorageError, TooOldError
from streamd.core.state.directory import VOLATILE_DIRECTORY_COLUMNS
from streamd.core.state.layout import HEADER_BYTES, make_zeros
from streamd.core.state.memory_columns import NO_PERIOD
from streamd.core.state.rows import RowReader
from streamd.core.state.window_columns import NO_STEP, make_volatile_columns
from streamd.runtime.state.mapped_file import StateFile
from streamd.runtime.state.opening import SharedArrays, StateReplacedError, open_shared_state, open_state
from streamd.runtime.state.state import State
from tests.support.contracts import make_contract
from tests.support.power_loss import TornFolder
from tests.support.state_files import LIMITS, NOW, fill, opened, run_python, send, whole

HALF_HOURS = make_contract(step_seconds=1800)
"""Windows of four hours; an hour is two steps."""


@pytest.fixture(autouse=True)
def skip_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files stay in memory: what is on the disk is up to the tests."""
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)


def memory_of(state: State, server: str) -> Float32:
    """Return the memory of a server's window, `(length, features)`."""
    assert state.memory is not None
    slots = np.array([state.directory.slots[server]])
    found: Float32 = np.zeros((1, MEMORY_LENGTH, len(state.contract.features)), np.float32)
    state.memory.gather(slots, state.windows.arrays["newest"][slots], found)
    return found.reshape(MEMORY_LENGTH, -1)


def test_a_week_survives_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        fill(state, "web-01", 2 * MEMORY_LENGTH + 40)
        before = memory_of(state, "web-01")
        assert not np.isnan(before).any()
        np.testing.assert_array_equal(before[:, 0], np.arange(140.5, 140.5 + 2 * MEMORY_LENGTH, 2))
    with opened(tmp_path, HALF_HOURS) as state:
        np.testing.assert_array_equal(memory_of(state, "web-01"), before)
        assert state.recovered["lost_means"] == 0
        fill(state, "web-01", 2, first_step=100 + 2 * MEMORY_LENGTH + 40)
        np.testing.assert_array_equal(memory_of(state, "web-01")[:-1], before[1:])


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.contracts import make_contract
from tests.support.state_files import fill, opened
with opened(Path(sys.argv[1]), make_contract(step_seconds=1800)) as state:
    fill(state, "web-01", 60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_what_was_written(tmp_path: Path) -> None:
    assert run_python(KILLED, tmp_path).returncode == -signal.SIGKILL
    with opened(tmp_path, HALF_HOURS) as state:
        np.testing.assert_array_equal(memory_of(state, "web-01")[-30:, 0], np.arange(100.5, 160, 2))


def test_a_state_without_a_memory_gets_that_of_its_windows(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS, replace(LIMITS, has_memory=False)) as state:
        assert state.memory is None
        fill(state, "web-01", 20)
    assert not (tmp_path / "memory.streamd").exists()
    with opened(tmp_path, HALF_HOURS) as state:
        np.testing.assert_array_equal(memory_of(state, "web-01")[-5:, 0], [np.nan, 112.5, 114.5, 116.5, 118.5])


@pytest.mark.parametrize("step_seconds", [300, 7_000])
def test_rows_of_which_an_hour_has_no_mean_have_no_memory(tmp_path: Path, step_seconds: int) -> None:
    with opened(tmp_path, make_contract(step_seconds=step_seconds)) as state:
        assert state.memory is None
        fill(state, "web-01", 20)
    assert not (tmp_path / "memory.streamd").exists()


def test_a_memory_that_was_off_for_a_time_has_no_mean_of_another_server(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        slot = fill(state, "web-01", 100)
    with opened(tmp_path, HALF_HOURS, replace(LIMITS, has_memory=False)) as state:
        state.forget(slot)
        assert fill(state, "db-01", 4, first_step=200) == slot
    with opened(tmp_path, HALF_HOURS) as state:
        np.testing.assert_array_equal(memory_of(state, "db-01")[-3:, 0], [np.nan, 200.5, 202.5])
        assert np.isnan(memory_of(state, "db-01")[:-2]).all()


def test_a_server_that_was_forgotten_while_the_memory_was_off_is_not_remembered(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        slot = fill(state, "web-01", 100)
    with opened(tmp_path, HALF_HOURS, replace(LIMITS, has_memory=False)) as state:
        assert not (tmp_path / "memory.streamd").exists()
        state.forget(slot)
        fill(state, "web-01", 4, first_step=200)
    with opened(tmp_path, HALF_HOURS) as state:
        np.testing.assert_array_equal(memory_of(state, "web-01")[-3:, 0], [np.nan, 200.5, 202.5])
        assert np.isnan(memory_of(state, "web-01")[:-2]).all()


def test_a_server_that_was_forgotten_leaves_no_mean(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        state.forget(fill(state, "web-01", 40))
        fill(state, "web-01", 2, first_step=140)
        assert np.isnan(memory_of(state, "web-01")[:-1]).all()


def test_a_new_server_whose_means_have_no_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        assert state.memory_file is not None
        full = StorageError("the disk is full")
        monkeypatch.setattr(state.memory_file, "reserve", Mock(side_effect=full))
        with pytest.raises(StorageError):
            state.admit("web-01", NOW)
        assert len(state.directory) == 0


def test_a_daemon_that_stops_leaves_all_means_in_the_file(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        slot = fill(state, "web-01", 2)
        assert state.memory is not None
        arrays = state.memory.arrays
        assert arrays["periods"][slot].max() == NO_PERIOD, "it waits for others"
    assert arrays["periods"][slot].max() == 100 // 2 + 1


# ---------------------------------------------------------------- another layout
@pytest.mark.parametrize("capacity", [2, 9])
def test_another_capacity_carries_the_memory_over(tmp_path: Path, capacity: int) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        for number in range(3):
            fill(state, f"web-{number}", 60 + 2 * number, now=NOW + number)
        expected = memory_of(state, "web-2")
    with opened(tmp_path, HALF_HOURS, replace(LIMITS, capacity=capacity)) as state:
        np.testing.assert_array_equal(memory_of(state, "web-2"), expected)
        assert state.set_aside == []
    assert sorted(path.name for path in tmp_path.glob("memory*")) == ["memory.streamd", "memory.streamd.old"]


def test_means_are_carried_over_by_feature_name(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        fill(state, "web-01", 60)
        before = memory_of(state, "web-01")
    with opened(tmp_path, make_contract(step_seconds=1800, features=("disk", "net", "cpu"), targets=("cpu",))) as state:
        after = memory_of(state, "web-01")
        np.testing.assert_array_equal(after[:, 1:], before[:, [2, 0]])
        assert np.isnan(after[:, 0]).all()
    with opened(tmp_path, make_contract(step_seconds=1800, features=("cpu", "mem", "net"))) as state:
        np.testing.assert_array_equal(memory_of(state, "web-01")[:, [0, 2]], before[:, [0, 2]])


def test_rows_of_another_step_leave_no_memory(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        fill(state, "web-01", 60)
    with opened(tmp_path, make_contract(step_seconds=900)) as state:
        fill(state, "web-01", 4)
        assert np.isnan(memory_of(state, "web-01")[:-1]).all()
        assert len(state.set_aside) == 2
    assert sorted(path.name for path in tmp_path.glob("memory*")) == ["memory.streamd", "memory.streamd.1.old"]


@pytest.mark.parametrize("content", [b"?", b"\0" * HEADER_BYTES + b"?"])
def test_a_damaged_memory_file_is_set_aside_and_filled_from_the_windows(tmp_path: Path, content: bytes) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        fill(state, "web-01", 60)
    (tmp_path / "memory.streamd").write_bytes(content)
    with opened(tmp_path, HALF_HOURS) as state:
        assert [Path(path).name for path in state.set_aside] == ["memory.streamd.1.old"]
        assert (tmp_path / "memory.streamd.1.old").read_bytes() == content
        np.testing.assert_array_equal(memory_of(state, "web-01")[-5:, 0], [np.nan, 152.5, 154.5, 156.5, 158.5])


def test_a_memory_without_its_windows_is_removed(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        fill(state, "web-01", 60)
    (tmp_path / "windows.streamd").unlink()
    with opened(tmp_path, HALF_HOURS) as state:
        assert len(state.directory) == 0
    assert [path.name for path in tmp_path.glob("memory*")] == ["memory.streamd"]


KILLED_CARRY_OVER = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from tests.support.contracts import make_contract
from tests.support.state_files import LIMITS, opened
where, left = sys.argv[2], int(sys.argv[3])
whole = getattr(os, where)
def dying(*arguments, **more):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **more)
setattr(os, where, dying)
with opened(Path(sys.argv[1]), make_contract(step_seconds=1800), replace(LIMITS, capacity=9)):
    pass
"""


@pytest.mark.parametrize(
    ("where", "calls"), [("link", 0), ("link", 1), ("replace", 0), ("replace", 1), ("replace", 2), ("fdatasync", 2)]
)
def test_a_carry_over_that_was_killed_loses_no_mean(tmp_path: Path, where: str, calls: int) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        for number in range(4):
            fill(state, f"web-{number}", 60)
        expected = memory_of(state, "web-1")
    assert run_python(KILLED_CARRY_OVER, tmp_path, where, calls).returncode == -signal.SIGKILL
    for _ in range(2):
        with opened(tmp_path, HALF_HOURS, replace(LIMITS, capacity=9)) as state:
            for number in range(4):
                np.testing.assert_array_equal(memory_of(state, f"web-{number}"), expected)
    assert list(tmp_path.glob("*.new")) == []


def test_the_new_memory_is_on_the_disk_before_the_new_windows_take_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        fill(state, "web-01", 60)
    events: list[str] = []
    flush, replace_former = StateFile.flush, StateFile.replace_former

    def note_flush(file: StateFile) -> None:
        events.append(f"flush {file.path.name}")
        flush(file)

    def note_replacement(file: StateFile, former: Path, aside: Path | None) -> None:
        events.append(f"replace {former.name}")
        replace_former(file, former, aside)

    monkeypatch.setattr(StateFile, "flush", note_flush)
    monkeypatch.setattr(StateFile, "replace_former", note_replacement)
    with opened(tmp_path, HALF_HOURS, replace(LIMITS, capacity=9)):
        assert events[:2] == ["flush memory.streamd.new", "replace windows.streamd"]


# ---------------------------------------------------------------- other processes
def make_shared(capacity: int, *, in_use: bool) -> SharedArrays:
    return SharedArrays(make_zeros((*make_volatile_columns(), *VOLATILE_DIRECTORY_COLUMNS), capacity), in_use)


def test_another_process_reads_the_means_of_the_one_that_writes(tmp_path: Path) -> None:
    shared = make_shared(LIMITS.capacity, in_use=False)
    engine = open_state(tmp_path, HALF_HOURS, LIMITS, NOW, shared)
    worker = open_shared_state(tmp_path, HALF_HOURS, LIMITS, SharedArrays(shared.volatile, True))
    try:
        slot, _ = engine.admit("web-01", NOW)
        worker.directory.slots["web-01"] = slot
        fill_known(worker, slot, 40)
        assert worker.memory is not None
        worker.memory.settle()
        np.testing.assert_array_equal(memory_of(engine, "web-01")[-20:, 0], np.arange(100.5, 140, 2))
    finally:
        worker.close()
        engine.close()


def fill_known(state: State, slot: int, rows: int) -> None:
    for step in range(100, 100 + rows):
        row = RowReader(state.contract.features).read_row(whole(float(step)))
        state.windows.write_sample(slot, step, row, None, NOW)


def test_a_state_in_use_whose_memory_is_missing_must_be_replaced(tmp_path: Path) -> None:
    with opened(tmp_path, HALF_HOURS) as state:
        fill(state, "web-01", 4)
    (tmp_path / "memory.streamd").unlink()
    with pytest.raises(StateReplacedError):
        open_state(tmp_path, HALF_HOURS, LIMITS, NOW, make_shared(LIMITS.capacity, in_use=True))


# ---------------------------------------------------------------- power loss
Event = tuple[str, int, int]
"""A server, how many steps its sample is ahead of its newest row, and the features of the sample."""

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["web-01", "web-02", "db-01"]), st.sampled_from([1] * 6 + [2, 9, -1, -3]), st.integers(1, 7)
    ),
    min_size=5,
    max_size=25,
)


class SentValues:
    """Sends samples, and remembers every value of a server by its hour and feature."""

    def __init__(self, state: State, torn: TornFolder) -> None:
        self.ever: defaultdict[tuple[str, int, int], list[float]] = defaultdict(list)
        self._state = state
        self._torn = torn
        self._value = 0.0

    def feed(self, event: Event) -> None:
        """Send one sample, and record the files."""
        server, ahead, mask = event
        self._value += 1.0
        slot = self._state.directory.slots.get(server)
        newest = NO_STEP if slot is None else self._state.windows.get_latest_step(slot)
        step = (100 if newest == NO_STEP else newest) + ahead
        values = {name: value for bit, (name, value) in enumerate(whole(self._value).items()) if mask >> bit & 1}
        try:
            send(self._state, server, step, values, now=NOW + self._value)
        except TooOldError:
            return
        assert self._state.memory is not None
        self._state.memory.settle()
        self._torn.record(self._state)
        for name, value in values.items():
            self.ever[server, step // 2, self._state.contract.features.index(name)].append(float(value or 0.0))


def list_means(state: State) -> Iterator[tuple[str, int, int, float]]:
    """Yield the server, hour, feature and mean of all that is stored."""
    assert state.memory is not None
    arrays = state.memory.arrays
    for server, slot in state.directory.slots.items():
        for place in np.flatnonzero(arrays["periods"][slot] != NO_PERIOD).tolist():
            for feature, mean in enumerate(arrays["means"][slot, place].tolist()):
                if mean == mean:
                    yield server, int(arrays["periods"][slot, place]) - 1, feature, mean


@settings(max_examples=40)
@given(before=EVENTS, after=EVENTS, seed=st.integers(0, 2**32 - 1))
def test_a_torn_memory_has_no_mean_that_its_values_could_not_have(
    tmp_path_factory: pytest.TempPathFactory, before: list[Event], after: list[Event], seed: int
) -> None:
    folder, torn, limits = tmp_path_factory.mktemp("state"), TornFolder(), replace(LIMITS, capacity=2)
    with opened(folder, HALF_HOURS, limits) as state:
        sent = SentValues(state, torn)
        torn.record(state)
        for event in before:
            sent.feed(event)
        torn.flush()
        for event in after:
            sent.feed(event)
    torn.write(folder, np.random.default_rng(seed))
    with opened(folder, HALF_HOURS, limits, now=NOW + 1e6) as state:
        assert state.recovered["torn"] == 1
        for server, hour, feature, mean in list_means(state):
            values = sent.ever[server, hour, feature]
            assert min(values) <= mean <= max(values), "a mean of what this server sent in this hour"
