"""Tests `streamd/runtime/accuracy/history.py`: forecasts are kept, and their truth is read from the windows."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from streamd.core.accuracy.history_scores import COUNT, ERROR
from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.core.arrays import Float32
from streamd.core.errors import UnavailableError
from streamd.runtime.accuracy import history as history_module
from streamd.runtime.accuracy.history import AccuracyHistory
from streamd.runtime.accuracy.history_records import ServerHistory
from streamd.runtime.state.state import State
from tests.support.state_files import opened, send

LIMITS = HistoryLimits(every_steps=1, settle_steps=1)
NAN = math.nan


def send_rows(state: State, server: str, steps: Iterable[int]) -> int:
    """Send whole rows: `mem` is the step, `cpu` twice as much; returns the server's slot."""
    for step in steps:
        send(state, server, step, {"cpu": 2.0 * step, "mem": float(step), "net": 0.0})
    return state.directory.slots[server]


def post(history: AccuracyHistory, slot: int, step: int, number: float = 0.0) -> None:
    """Post a forecast of which each median is a number."""
    history.forecasts_posted(np.array([slot]), np.array([step]), b"v1", make_values(number)[None])


def make_values(number: float) -> Float32:
    return np.broadcast_to(np.array([number - 1, number, number + 1], np.float32), (2, 4, 3)).copy()


async def read(history: AccuracyHistory, slot: int) -> ServerHistory:
    return await history.read_history(slot, 0, 2**53, 100)


async def open_history(state: State, limits: HistoryLimits = LIMITS) -> AccuracyHistory:
    """Open a history and wait until it has read its file."""
    history = AccuracyHistory(state, limits)
    history.open()
    await history._opening.wait()
    return history


async def test_a_forecast_is_scored_when_its_horizon_has_settled(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        post(history, slot, 102)
        post(history, slot, 103, 105.0)
        send_rows(state, "a", range(104, 108))
        assert history.sweep() == 0, "107 is the last step of the horizon, and has not settled"
        send_rows(state, "a", [108])
        assert history.sweep() == 1
        found = await read(history, slot)
        (forecast,) = found.forecasts
        assert (forecast.step, forecast.model, forecast.is_complete) == (103, "v1", True)
        np.testing.assert_array_equal(forecast.values, make_values(105.0))
        np.testing.assert_array_equal(forecast.truth, [[104, 105, 106, 107], [208, 210, 212, 214]])
        np.testing.assert_array_equal(found.total[0, :, ERROR], [1, 0, 1, 2])
        assert found.total[..., COUNT].sum() == 8
        assert history.sweep() == 0
        history.close()


async def test_until_then_the_truth_is_what_is_known(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        post(history, slot, 102)
        post(history, slot, 103)
        send_rows(state, "a", [104, 106])
        found = await read(history, slot)
        assert not found.forecasts[0].is_complete
        np.testing.assert_array_equal(found.forecasts[0].truth[0], [104, NAN, 106, NAN])
        assert found.scores == []
        history.close()


async def test_missing_truth_is_not_scored(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        post(history, slot, 102)
        post(history, slot, 103)
        send_rows(state, "a", [105, 107, 108])
        history.sweep()
        found = await read(history, slot)
        np.testing.assert_array_equal(found.forecasts[0].truth[0], [NAN, 105, NAN, 107])
        np.testing.assert_array_equal(found.total[0, :, COUNT], [0, 1, 0, 1])
        history.close()


async def test_rows_that_left_the_window_are_missing(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        post(history, slot, 102)
        post(history, slot, 103)
        send_rows(state, "a", [104, 113])
        assert history.sweep() == 1
        (forecast,) = (await read(history, slot)).forecasts
        assert forecast.is_complete
        assert np.isnan(forecast.truth).all(), "the window has the steps from 106 on, which no row filled"
        history.close()


async def test_a_restart_continues_with_what_waits(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        first = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        post(first, slot, 102)
        post(first, slot, 103, 105.0)
        await read(first, slot)  # written; it is killed, so never closed
    with opened(tmp_path) as state:
        second = await open_history(state)
        slot = send_rows(state, "a", range(104, 109))
        assert second.sweep() == 1
        found = await read(second, slot)
        assert [each.is_complete for each in found.forecasts] == [True]
        assert found.total[0, :, ERROR].tolist() == [1, 0, 1, 2]
        post(second, slot, 108)
        assert len((await read(second, slot)).forecasts) == 2, "the period continues"
        second.close()
        first.close()


async def test_a_forgotten_server_loses_its_history_and_another_one_takes_its_slot(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        for step in (102, 103):
            post(history, slot, step)
        state.forget(slot)
        history.forget(slot)
        assert send_rows(state, "b", range(100, 110)) == slot
        assert (await read(history, slot)).forecasts == []
        assert history.sweep() == 0, "what waited was of the former server"
        for step in (108, 109):
            post(history, slot, step)
        assert [each.step for each in (await read(history, slot)).forecasts] == [109]
        state.forget(slot)
        history.forget(slot)
        slot = send_rows(state, "a", range(100, 104))
        post(history, slot, 103)
        assert (await read(history, slot)).forecasts == [], "it is new"
        history.close()


async def test_a_server_that_is_unknown_at_the_next_start_loses_its_history(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        first = await open_history(state)
        for server in "ab":
            slot = send_rows(state, server, range(100, 104))
            for step in (102, 103):
                post(first, slot, step)
        first.close()
        state.forget(state.directory.slots["a"])  # and a kill before the history heard of it
    with opened(tmp_path) as state:
        second = await open_history(state)
        send_rows(state, "a", range(100, 104))
        for step in (102, 103):
            post(second, state.directory.slots["a"], step)
        steps = {
            name: [each.step for each in (await read(second, slot)).forecasts]
            for name, slot in state.directory.slots.items()
        }
        assert steps == {"a": [103], "b": [103]}, "the one of the former server was deleted first"
        assert second.describe()["servers"] == 2
        second.close()


async def test_rows_that_were_dropped_take_their_forecasts_along(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        for step in (102, 103):
            post(history, slot, step)
        send_rows(state, "a", [110])
        post(history, slot, 110)
        assert [each.step for each in (await read(history, slot)).forecasts] == [103, 110]
        state.rewind(slot, 103)
        history.forget(slot)
        assert [each.step for each in (await read(history, slot)).forecasts] == [103]
        send_rows(state, "a", range(104, 109))
        assert history.sweep() == 1
        assert (await read(history, slot)).forecasts[0].is_complete
        history.close()


async def test_without_selected_servers_there_is_no_file(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state, HistoryLimits(servers=()))
        slot = send_rows(state, "a", range(100, 104))
        for step in (102, 103):
            post(history, slot, step)
        history.sweep()
        assert (await read(history, slot)).forecasts == []
        history.close()
        assert not (tmp_path / "history.sqlite").exists()


async def test_globs_choose_the_servers(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state, HistoryLimits(every_steps=1, servers=("web-*", "db1")))
        for server in ("web-1", "db1", "db2"):
            slot = send_rows(state, server, range(100, 104))
            for step in (102, 103):
                post(history, slot, step)
        assert (history.servers, history.left_out) == (2, 0)
        assert (await read(history, state.directory.slots["db2"])).forecasts == []
        assert len((await read(history, state.directory.slots["db1"])).forecasts) == 1
        history.close()


async def test_forecasts_beyond_the_limit_of_a_sweep_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "MAX_WAITING", 2)
    with opened(tmp_path) as state:
        history = await open_history(state)
        slot = send_rows(state, "a", range(100, 110))
        for step in range(104, 110):
            post(history, slot, step)
        assert history.count_dropped() == 3
        assert [each.step for each in (await read(history, slot)).forecasts] == [105, 106]
        history.close()


async def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "RETRY_SWEEPS", 2)
    (tmp_path / "history.sqlite").mkdir()
    with opened(tmp_path) as state:
        history = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        post(history, slot, 102)
        assert (await read(history, slot)).forecasts == []
        (tmp_path / "history.sqlite").rmdir()
        for _ in range(2):
            history.sweep()
            await history._opening.wait()
        for step in (102, 103):
            post(history, slot, step)
        assert len((await read(history, slot)).forecasts) == 1
        history.close()


async def test_the_stored_forecasts_are_those_of_the_batch_and_not_views(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state)
        slots = np.array([send_rows(state, server, range(100, 104)) for server in "abc"])
        batch = np.stack([make_values(number) for number in (1.0, 2.0, 3.0)])
        for step in (102, 103):
            history.forecasts_posted(slots, np.full(3, step), b"v1", batch)
        batch[:] = -1.0
        for number, slot in enumerate(slots.tolist(), 1):
            (forecast,) = (await read(history, slot)).forecasts
            np.testing.assert_array_equal(forecast.values, make_values(float(number)))
        history.close()


async def test_a_caller_is_refused_while_the_file_cannot_be_read(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        history = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        (tmp_path / "history.sqlite").mkdir()
        for step in (102, 103):
            post(history, slot, step)
        with pytest.raises(UnavailableError, match="Is a directory"):
            await read(history, slot)
        assert "Is a directory" in history.describe()["problem"]
        (tmp_path / "history.sqlite").rmdir()
        history.sweep()
        assert len((await read(history, slot)).forecasts) == 1, "it was written later"
        history.close()


async def test_forecasts_from_rows_that_a_kill_left_dropped_are_deleted_at_the_next_start(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        first = await open_history(state)
        slot = send_rows(state, "a", range(100, 104))
        for step in (102, 103):
            post(first, slot, step)
        send_rows(state, "a", [110])
        post(first, slot, 110)
        await read(first, slot)
        state.rewind(slot, 103)  # and a kill before the history heard of it
        first.close()
    with opened(tmp_path) as state:
        second = await open_history(state)
        slot = send_rows(state, "a", range(104, 109))
        assert [each.step for each in (await read(second, slot)).forecasts] == [103]
        post(second, slot, 108)
        assert second.sweep() == 1
        assert [each.is_complete for each in (await read(second, slot)).forecasts] == [True, False]
        second.close()
