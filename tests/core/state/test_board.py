"""Tests `streamd/core/state/board.py`: the latest forecast of each server, over restarts and a kill in between."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.board import Forecast, ForecastBoard, make_board_columns
from streamd.core.state.forecast_seals import compute_checks
from streamd.core.state.layout import Layout, NamedArrays
from streamd.core.state.window_columns import NO_STEP
from streamd.core.unknown_targets import read_unknown
from tests.support.contracts import make_contract

CONTRACT = make_contract()
SLOTS = 4


def make_arrays() -> NamedArrays:
    layout = Layout(make_board_columns(CONTRACT), SLOTS, {})
    return layout.make_views(bytearray(layout.nbytes))


def values_of(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    size = int(np.prod(CONTRACT.forecast_shape))
    return np.arange(number, number + size, dtype=np.float32).reshape(CONTRACT.forecast_shape)


def same(found: Forecast | None, serial: int, step: int, model: int) -> bool:
    if found is None:
        return False
    stored = (found.serial, found.step, found.context, found.model)
    return stored == (serial, step, step % 7, f"model_{model}") and np.array_equal(found.values, values_of(step))


Posted = tuple[str, list[int]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["post", "post many", "post many", "reset", "restart"]),
        st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=SLOTS, unique=True),
    )
)


def post_many(board: ForecastBoard, slots: list[int], number: int) -> list[int]:
    """Post a forecast of each slot, from steps that begin with `number`; returns the serials."""
    steps = np.arange(number, number + len(slots))
    values = np.stack([values_of(step) for step in steps.tolist()])
    model = f"model_{number}".encode()
    serials = board.post_many(np.array(slots), steps, steps % 7, model, values, compute_checks(values))
    return [int(serial) for serial in serials]


@given(STEPS)
def test_the_board_is_a_dict_of_the_latest_forecasts(steps: list[Posted]) -> None:
    arrays = make_arrays()
    board = ForecastBoard(arrays)
    posted: dict[int, tuple[int, int, int]] = {}
    """By slot: serial, step, and the number in the model's name."""
    last = 0
    for number, (kind, slots) in enumerate(steps):
        if kind == "post":
            assert board.post(slots[0], number, number % 7, f"model_{number}".encode(), values_of(number)) == last + 1
            posted[slots[0]] = (last + 1, number, number)
            last += 1
        elif kind == "post many":
            serials = post_many(board, slots, number)
            assert serials == list(range(last + 1, last + 1 + len(slots)))
            for place, slot in enumerate(slots):
                posted[slot] = (serials[place], number + place, number)
            last += len(slots)
        elif kind == "reset":
            board.take_down(slots[0])
            posted.pop(slots[0], None)
        else:
            board = ForecastBoard(arrays)
        assert board.last_serial == last, "a serial that a reader may have seen is never another forecast's"
        check_board(board, posted)
    board.drop_impossible(np.arange(SLOTS), np.full(SLOTS, 10**6), 8)
    whole = {slot: found for slot, found in posted.items() if found[1] % 7}  # without rows, a context is impossible
    check_board(board, whole)
    assert board.unreadable == len(posted) - len(whole)


def check_board(board: ForecastBoard, posted: dict[int, tuple[int, int, int]]) -> None:
    """Check every way to read a board against a dict."""
    everything = np.arange(SLOTS)
    expected = [posted.get(slot, (0, NO_STEP, 0)) for slot in range(SLOTS)]
    assert list(zip(board.get_serials(everything).tolist(), board.get_steps(everything).tolist(), strict=True)) == [
        (serial, step) for serial, step, _ in expected
    ]
    for slot, (serial, step, model) in enumerate(expected):
        assert (board.get_serial(slot), board.get_step(slot)) == (serial, step)
        assert same(board.get_forecast(slot), serial, step, model) == (slot in posted)
        assert (board.get_forecast(slot) is None) == (slot not in posted)
    assert board.find_lowest_serial(everything[:0]) == board.last_serial + 1
    assert board.find_lowest_serial(everything) == min(serial for serial, _, _ in expected)
    for since in range(-1, board.last_serial + 3):
        after = since if since <= board.last_serial else 0  # a serial of another board: all are new to its reader
        later = sorted((serial, slot) for slot, (serial, _, _) in posted.items() if serial > after)
        assert list(board.find_later_than(since)) == [slot for _, slot in later]


def test_an_unknown_target_is_stored_and_proved_by_its_seal() -> None:
    arrays = make_arrays()
    values = np.stack([values_of(1), values_of(2)])
    values[0, 1] = np.nan
    board = ForecastBoard(arrays)
    board.post_many(np.array([2, 0]), np.array([5, 6]), np.array([3, 3]), b"m", values, compute_checks(values))
    board = ForecastBoard(arrays)  # a restart
    board.drop_impossible(np.arange(SLOTS), np.full(SLOTS, 10), 8)
    assert board.unreadable == 0
    found = board.get_forecast(2)
    assert found is not None
    assert read_unknown(found.values).tolist() == [False, True]
    np.testing.assert_array_equal(found.values, values[0])
    arrays["values"].view(np.uint32)[2, 1, 0, 1] ^= 1  # still NaN, but not what was posted
    board.drop_impossible(np.arange(SLOTS), np.full(SLOTS, 10), 8)
    assert board.get_forecast(2) is None
    assert board.get_forecast(0) is not None


class KilledError(Exception):
    """The process is killed."""


class WrittenColumn:
    """A column whose rows are written one by one, until no write is left."""

    def __init__(self, column: np.ndarray[tuple[int, ...], np.dtype[Any]], writes_left: list[int]) -> None:
        self._column = column
        self._writes_left = writes_left

    def __getitem__(self, index: Any) -> Any:
        return self._column[index]

    def __len__(self) -> int:
        return SLOTS

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
        return self._column

    def reshape(self, *shape: int) -> "WrittenColumn":
        return WrittenColumn(self._column.reshape(*shape), self._writes_left)

    def __setitem__(self, index: Any, value: Any) -> None:
        rows = np.arange(SLOTS)[index]
        for row, each in zip(rows, np.broadcast_to(np.asarray(value), self._column[rows].shape), strict=True):
            if not self._writes_left[0]:
                raise KilledError
            self._writes_left[0] -= 1
            self._column[row] = each


@pytest.mark.parametrize("slots", [[1, 2, 3], [3, 0, 2]], ids=["neighbours", "scattered"])
def test_an_interrupted_post_leaves_no_half_forecast(slots: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process is killed between any two writes of a post, each slot has a whole forecast or none."""
    monkeypatch.setattr("streamd.core.state.board.make_scalar_view", lambda column: column)
    arrays = make_arrays()
    post_many(ForecastBoard(arrays), slots, 4)
    writes, is_killed, seen = 0, True, set()
    while is_killed:
        trial = {name: column.copy() for name, column in arrays.items()}
        left = [writes]
        board = ForecastBoard({name: WrittenColumn(column, left) for name, column in trial.items()})  # type: ignore[misc]
        try:
            post_many(board, slots, 8)
        except KilledError:
            writes += 1
        else:
            is_killed = False
        found = describe_forecasts(ForecastBoard(trial), slots)
        assert set(found) <= {"before", "none", "after"}
        seen.update(found)
    assert found == ["after"] * len(slots)
    assert seen == {"before", "none", "after"}
    assert writes == 7 * len(slots), "each column of each slot is written once, the serial twice"


def test_forecasts_with_the_serials_of_another_node_are_published_in_any_order() -> None:
    board = ForecastBoard(make_arrays())
    values = np.stack([values_of(number) for number in (1, 2)])
    steps, given = np.array([5, 5]), np.array([900, 700])
    kept = board.post_many(np.array([0, 1]), steps, steps, b"made", values, compute_checks(values), given)
    assert kept.tolist() == given.tolist()
    assert board.find_published(board.get_serials(np.array([0, 1]))).all()
    assert post_many(board, [0], 3) == [901]


def describe_forecasts(board: ForecastBoard, slots: list[int]) -> list[str]:
    """Return for each slot whether it has no forecast, that of the first post, that of the second, or another."""
    states = []
    for place, slot in enumerate(slots):
        found = board.get_forecast(slot)
        if same(found, 1 + place, 4 + place, 4):
            states.append("before")
        elif same(found, 4 + place, 8 + place, 8):
            states.append("after")
        else:
            states.append("none" if found is None else "other")
    return states


def test_each_damaged_byte_of_a_forecast_takes_it_down() -> None:
    layout = Layout(make_board_columns(CONTRACT), SLOTS, {})
    sound = bytearray(layout.nbytes)
    seeds = np.full(SLOTS, 7, np.uint32)
    ForecastBoard(layout.make_views(sound), seeds).post(1, 5, 5, b"model_5", values_of(5))
    for column in layout.columns:
        size = column.count_bytes(1)
        for place in range(layout.offsets[column.name] + size, layout.offsets[column.name] + 2 * size):
            for bits in (1 << place % 8, 0xFF):
                content = bytearray(sound)
                content[place] ^= bits
                board = ForecastBoard(layout.make_views(content), seeds)
                board.drop_impossible(np.array([1]), np.array([5]), 8)
                assert board.get_forecast(1) is None, (column.name, place)
                assert board.unreadable == 1 or column.name == "serial"


def test_the_forecast_of_a_former_server_of_the_slot_is_taken_down() -> None:
    arrays = make_arrays()
    ForecastBoard(arrays, np.full(SLOTS, 1, np.uint32)).post(1, 5, 5, b"model_5", values_of(5))
    board = ForecastBoard(arrays, np.full(SLOTS, 2, np.uint32))
    board.drop_impossible(np.array([1]), np.array([5]), 8)
    assert board.get_forecast(1) is None
