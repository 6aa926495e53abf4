"""Tests `streamd/core/state/board.py`: the latest forecast of each server, over restarts and a kill in between."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.board import Forecast, ForecastBoard, make_board_columns
from streamd.core.state.layout import Layout, NamedArrays
from streamd.core.state.windows import NO_STEP
from tests.support.contracts import make_contract

CONTRACT = make_contract()
SLOTS = 4


def make_arrays() -> NamedArrays:
    layout = Layout(make_board_columns(CONTRACT), SLOTS, {})
    return layout.make_views(bytearray(layout.nbytes))


def values_of(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    size = int(np.prod(CONTRACT.forecast_shape))
    return np.arange(number, number + size, dtype=np.float32).reshape(CONTRACT.forecast_shape)


def same(found: Forecast | None, serial: int, step: int) -> bool:
    if found is None:
        return False
    stored = (found.serial, found.step, found.context, found.model)
    return stored == (serial, step, step % 7, f"model_{step}") and np.array_equal(found.values, values_of(step))


@given(st.lists(st.tuples(st.integers(0, SLOTS - 1), st.sampled_from(["post", "post", "post", "reset", "restart"]))))
def test_the_board_is_a_dict_of_the_latest_forecasts(steps: list[tuple[int, str]]) -> None:
    arrays = make_arrays()
    board = ForecastBoard(arrays)
    posted: dict[int, tuple[int, int]] = {}
    last = 0
    for number, (slot, kind) in enumerate(steps):
        if kind == "post":
            serial = board.post(slot, number, number % 7, f"model_{number}".encode(), values_of(number))
            last += 1
            assert serial == board.last_serial == last
            posted[slot] = (serial, number)
        elif kind == "reset":
            board.take_down(slot)
            posted.pop(slot, None)
        else:
            board = ForecastBoard(arrays)
            assert board.last_serial == last, "a serial that a reader may have seen is never another forecast's"
        for each in range(SLOTS):
            serial, step = posted.get(each, (0, NO_STEP))
            assert (board.get_serial(each), board.get_step(each)) == (serial, step)
            assert same(board.get_forecast(each), serial, step) == (each in posted)
            assert (board.get_forecast(each) is None) == (each not in posted)
        assert board.find_lowest_serial(()) == last + 1
        assert board.find_lowest_serial(range(SLOTS)) == min(board.get_serial(each) for each in range(SLOTS))
        for since in range(-1, board.last_serial + 1):
            later = sorted((serial, each) for each, (serial, _) in posted.items() if serial > since)
            assert board.find_later_than(since) == [each for _, each in later]


def test_an_interrupted_post_leaves_no_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process is killed between any two writes of a post, the board has the whole forecast or none."""
    arrays = make_arrays()
    order: list[str] = []

    class Column:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, index: int) -> object:
            return arrays[self.name][index]

        def __len__(self) -> int:
            return SLOTS

        def __setitem__(self, index: int, value: int) -> None:
            order.append(self.name if self.name != "serial" or value > 0 else "taken down")
            arrays[self.name][index] = value

        def __array__(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
            return arrays[self.name]

    monkeypatch.setattr("streamd.core.state.board.make_scalar_view", lambda column: column)
    watched: NamedArrays = {name: Column(name) for name in arrays}  # type: ignore[misc]
    ForecastBoard(watched).post(1, 5, 5, b"model_5", values_of(5))
    assert order[0] == "taken down"
    assert order[-1] == "serial"
    assert set(order[1:-1]) == {"step", "context", "model", "values", "seal"}
    assert same(ForecastBoard(arrays).get_forecast(1), 1, 5)


def test_each_damaged_byte_of_a_forecast_takes_it_down() -> None:
    layout = Layout(make_board_columns(CONTRACT), SLOTS, {})
    sound = bytearray(layout.nbytes)
    seeds = [7] * SLOTS
    ForecastBoard(layout.make_views(sound), seeds).post(1, 5, 5, b"model_5", values_of(5))
    for column in layout.columns:
        size = column.count_bytes(1)
        for place in range(layout.offsets[column.name] + size, layout.offsets[column.name] + 2 * size):
            for bits in (1 << place % 8, 0xFF):
                content = bytearray(sound)
                content[place] ^= bits
                board = ForecastBoard(layout.make_views(content), seeds)
                board.drop_impossible(1, 5, 8)
                assert board.get_forecast(1) is None, (column.name, place)
                assert board.unreadable == 1 or column.name == "serial"


def test_the_forecast_of_a_former_server_of_the_slot_is_taken_down() -> None:
    arrays = make_arrays()
    ForecastBoard(arrays, [1] * SLOTS).post(1, 5, 5, b"model_5", values_of(5))
    board = ForecastBoard(arrays, [2] * SLOTS)
    board.drop_impossible(1, 5, 8)
    assert board.get_forecast(1) is None
