"""Tests `streamd/runtime/forecast_exports.py`: the forecasts that leave as metrics are those of chosen servers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.forecast_export.choice import ExportSettings, ForecastExport
from streamd.runtime.forecast_exports import MAX_ORIGIN_AHEAD_SECONDS, ForecastExports
from streamd.runtime.state.state import State
from tests.support.state_files import fill, opened, send

MODEL = b"patch_20260101_000000"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with opened(tmp_path) as each:
        yield each


def make_exports(state: State, now: float = 0.0, **settings: Any) -> ForecastExports:
    values = {"servers": ("web-*",), "horizons": ("5m", "20m"), "quantiles": (0.5,), **settings}
    return ForecastExports(state, ForecastExport(ExportSettings(**values), state.contract), lambda: now)


def post(state: State, server: str, *, rows: int = 3, level: float = 0.0) -> int:
    slot = fill(state, server, rows)
    step = state.windows.get_newest_step(slot)
    values = np.arange(np.prod(state.contract.forecast_shape), dtype=np.float32).reshape(state.contract.forecast_shape)
    state.board.post(slot, step, rows, MODEL, values + np.float32(level))
    return slot


def test_only_chosen_servers_leave_and_a_slot_with_another_server_is_decided_anew(state: State) -> None:
    exports = make_exports(state)
    slots = np.array([post(state, server) for server in ("web-01", "db-01")])
    assert exports.find_chosen(slots).tolist() == [True, False]
    state.forget(int(slots[1]))
    exports.forget(int(slots[1]))
    assert post(state, "web-02") == slots[1]
    assert exports.find_chosen(slots).tolist() == [True, True]


def test_costly_globs_are_matched_only_where_that_has_turns(state: State) -> None:
    exports = make_exports(state, servers=tuple(f"*{number}-*" for number in range(100)))
    assert exports.export.globs.is_costly
    slots = np.array([post(state, server) for server in ("web-7-1", "db-01")])
    assert exports.find_chosen(slots).tolist() == [False, False]
    exports.decide(slots)
    assert exports.find_chosen(slots).tolist() == [True, False]


def test_a_forecast_is_left_out_once_it_is_older_than_the_limit_or_lies_far_ahead(state: State) -> None:
    slot = post(state, "web-01")
    origin = state.contract.to_origin(state.windows.get_newest_step(slot))
    exports = make_exports(state, max_age_steps=2)
    ahead = MAX_ORIGIN_AHEAD_SECONDS
    for now, is_live in ((600, True), (601, False), (-ahead, True), (-ahead - 1, False)):
        assert exports.find_live(np.array([slot]), origin + now).tolist() == [slot] * is_live
    state.board.take_down(slot)
    assert exports.find_live(np.array([slot]), float(origin)).tolist() == []
    assert exports.find_posted().tolist() == []


def test_values_are_those_of_the_board_and_missing_for_a_target_that_no_agent_sends(state: State) -> None:
    slot = post(state, "web-01", level=10.0)
    exports = make_exports(state)
    found = exports.read_forecasts(np.array([slot]))
    board = state.board.values[slot]
    assert found.names == ["web-01"]
    assert found.origins.tolist() == [state.contract.to_origin(state.windows.get_newest_step(slot))]
    assert found.values.tolist() == [[board[0, 0, 1], board[0, 3, 1], board[1, 0, 1], board[1, 3, 1]]]
    send(state, "web-01", 110, {"cpu": 1.0, "net": 1.0})  # with mem missing
    send(state, "web-01", 111, {"cpu": 1.0, "net": 1.0})
    values = exports.read_forecasts(np.array([slot])).values[0]
    assert np.isnan(values).tolist() == [True, True, False, False], "the first target is mem"
    assert exports.find_sent(np.array([slot])).tolist() == [[False, True]]


def test_a_target_that_is_unknown_in_its_forecast_is_not_sent_even_if_its_first_value_came_since(state: State) -> None:
    slot = post(state, "web-01")
    slots = np.array([slot])
    values = state.board.values[slot].copy()
    values[0] = np.nan
    state.board.post(slot, state.windows.get_newest_step(slot), 3, MODEL, values)
    exports = make_exports(state)
    assert exports.find_sent(slots).tolist() == [[False, True]]
    assert np.isnan(exports.read_forecasts(slots).values[0]).tolist() == [True, True, False, False]
