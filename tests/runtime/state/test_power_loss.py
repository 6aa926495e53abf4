"""Tests `streamd/runtime/state/state.py` after a power loss: no number is wrong, and what was flushed is there.

Every block of the files is of any age between the last flush and the power loss, whatever the order of the writes was.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.errors import TooOldError
from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract
from tests.support.power_loss import TornFolder
from tests.support.state_files import NOW, opened, rows_of, send, whole

CONTRACT = make_contract()
LENGTH = CONTRACT.context_length
LIMITS = WindowLimits(capacity=3, need=2, late_steps=LENGTH - 1, grace_seconds=10.0)
SERVERS = ("web-01", "web-02", "web-03", "db-01")
"""One more than there are slots: a slot gets another server now and then."""

Cells = dict[str, float]
Event = tuple[str, int, int, int]
"""A server, how many steps its sample is ahead of its newest row, the features of the sample, and a status."""

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(SERVERS), st.sampled_from([1, 1, 1, 2, 9, 0, -1, -3]), st.integers(1, 7), st.integers(0, 2)
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(autouse=True)
def skip_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files stay in memory: the test itself decides what is on the disk."""
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Fleet:
    """Sends samples and posts forecasts, and remembers everything that was ever stored."""

    def __init__(self, state: State, torn: TornFolder) -> None:
        self.ever: defaultdict[tuple[str, int], list[Cells]] = defaultdict(list)
        """Each content that the row of a server and step ever had."""
        self.forecasts: set[tuple[str, int, float]] = set()
        self._state = state
        self._torn = torn
        self._value = 0.0

    def feed(self, event: Event) -> None:
        """Send one sample, post the forecast of the server's newest row, and record the files after each."""
        server, ahead, mask, status = event
        self._value += 1.0
        slot = self._state.directory.slots.get(server)
        newest = NO_STEP if slot is None else self._state.windows.get_latest_step(slot)
        step = (100 if newest == NO_STEP else newest) + ahead
        values = {name: value for bit, (name, value) in enumerate(whole(self._value).items()) if mask >> bit & 1}
        try:
            send(self._state, server, step, values, status, now=NOW + self._value)
        except TooOldError:
            return
        self._torn.record(self._state)
        self._remember(server)
        slot = self._state.directory.slots[server]
        if self._state.is_unforecast(slot):
            step = self._state.windows.get_newest_step(slot)
            forecast = np.full(CONTRACT.forecast_shape, self._value, np.float32)
            self._state.board.post(slot, step, self._state.windows.have[slot], b"model", forecast)
            self.forecasts.add((server, step, self._value))
            self._torn.record(self._state)

    def _remember(self, server: str) -> None:
        for step, cells in list_rows(self._state, server):
            if cells not in self.ever[server, step]:
                self.ever[server, step].append(cells)


def list_rows(state: State, server: str) -> Iterator[tuple[int, Cells]]:
    """Yield the rows of a window that have values, and the open row."""
    slot, arrays = state.directory.slots[server], state.windows.arrays
    if state.windows.get_newest_step(slot) != NO_STEP:
        yield from rows_of(state, server).items()
    if (open_step := int(arrays["open_step"][slot])) != NO_STEP:
        row = arrays["open_values"][slot].tolist()
        yield open_step, {name: cell for name, cell in zip(CONTRACT.features, row, strict=True) if cell == cell}


@settings(max_examples=120, deadline=None)
@given(before=EVENTS, after=EVENTS, seed=st.integers(0, 2**32 - 1))
def test_a_torn_state_has_no_wrong_number_and_lacks_only_what_was_not_flushed(
    tmp_path_factory: pytest.TempPathFactory, before: list[Event], after: list[Event], seed: int
) -> None:
    folder, torn = tmp_path_factory.mktemp("state"), TornFolder()
    with opened(folder, CONTRACT, LIMITS) as state:
        fleet = Fleet(state, torn)
        for event in before:
            fleet.feed(event)
        torn.record(state)
        torn.flush()
        flushed = {server: dict(list_rows(state, server)) for server in state.directory.slots}
        touched = {event[0] for event in after}
        evicted_before = set(state.directory.slots)
        for event in after:
            fleet.feed(event)
        is_stable = set(state.directory.slots) == evicted_before
    torn.write(folder, np.random.default_rng(seed))

    with opened(folder, CONTRACT, LIMITS, now=NOW + 1e6) as state:
        assert state.recovered["torn"] == 1
        assert state.set_aside == []
        for server, slot in state.directory.slots.items():
            for step, cells in list_rows(state, server):
                assert cells in fleet.ever[server, step], f"{server} never had {cells} at {step}"
            forecast = state.board.get_forecast(slot)
            if forecast is not None:
                (value,) = set(forecast.values.ravel().tolist())
                assert (server, forecast.step, value) in fleet.forecasts
                assert forecast.step <= state.windows.get_newest_step(slot)
        for server in flushed.keys() - touched if is_stable else ():
            assert dict(list_rows(state, server)) == flushed[server], "it was on the disk, and nothing changed it"
        check_goes_on(state)


def check_goes_on(state: State) -> None:
    """Check that every server takes rows and becomes due again."""
    for server in SERVERS[:3]:
        slot = state.directory.slots.get(server)
        latest = 500 if slot is None else max(state.windows.get_latest_step(slot), 500)
        assert sum(send(state, server, latest + ahead, whole(1.0), now=NOW + 2e6) for ahead in (1, 2, 3)) >= 2
        assert rows_of(state, server)[latest + 3] == whole(1.0)


def test_rows_after_the_last_page_of_the_newest_step_are_found(tmp_path: Path) -> None:
    """The page with the newest step is old, the pages with the rows are new: the window continues."""
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        for step in range(100, 100 + LENGTH):
            send(state, "web-01", step, whole(float(step)))
        offset = state.windows_file.layout.offsets["newest"]
        number = state.windows_file.path.read_bytes()[offset : offset + 8]
        send(state, "web-01", 100 + LENGTH, whole(7.0))
        path = state.windows_file.path
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = number
    path.write_bytes(content)
    (tmp_path / "lock").write_bytes(b"another boot")
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        assert rows_of(state, "web-01") == {
            **{step: whole(float(step)) for step in range(101, 100 + LENGTH)},
            100 + LENGTH: whole(7.0),
        }
        assert state.recovered["lost_rows"] == 0


def test_a_rebuilt_state_is_in_order_at_the_next_start(tmp_path: Path) -> None:
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        send(state, "web-01", 100, whole(1.0))
    (tmp_path / "lock").write_bytes(b"another boot")
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        assert state.recovered["torn"] == 1
    with opened(tmp_path, CONTRACT, LIMITS) as state:
        assert (state.recovered["torn"], state.recovered["lost_rows"]) == (0, 0)
