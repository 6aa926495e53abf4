"""Tests `streamd/core/state/forecast_copies.py`: what is copied, and that no torn forecast is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.state.board import ForecastBoard
from streamd.core.state.forecast_copies import copy_forecasts
from tests.support.state_files import opened

SHAPE = (2, 4, 3)
ALL = np.array([0, 1])


def post(board: ForecastBoard, slot: int, value: float, step: int = 100, model: bytes = b"a") -> None:
    """Post a forecast of one value."""
    board.post(slot, step, 5, model, np.full(SHAPE, value, np.float32))


def test_forecasts_are_copied_with_what_they_were_made_from(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        post(state.board, 0, 1.0, step=100)
        post(state.board, 2, 3.0, step=102, model=b"b")
        copied = copy_forecasts(state.board, np.array([0, 1, 2]), ALL)
        assert copied.slots.tolist() == [0, 2], "slot 1 has none"
        assert (copied.steps.tolist(), copied.contexts.tolist()) == ([100, 102], [5, 5])
        assert [copied.get_model(0), copied.get_model(1)] == ["a", "b"]
        assert copied.values.shape == (2, *SHAPE)
        assert copied.values[:, 0, 0, 0].tolist() == [1.0, 3.0]


def test_only_the_requested_targets_are_copied(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        values = np.arange(24, dtype=np.float32).reshape(SHAPE)
        state.board.post(0, 100, 5, b"a", values)
        copied = copy_forecasts(state.board, np.array([0]), np.array([1]))
        assert (copied.values[0] == values[1:]).all()
        assert copied.get_model(0) == "a"


def test_a_copy_is_no_view(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        post(state.board, 0, 1.0)
        copied = copy_forecasts(state.board, np.array([0]), ALL)
        post(state.board, 0, 2.0)
        assert (copied.values == 1.0).all()


@pytest.mark.parametrize("ends", ["taken down", "posted again", "being posted"])
def test_a_forecast_that_changes_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    with opened(tmp_path) as state:
        board = state.board
        post(board, 0, 1.0)
        post(board, 1, 1.0, model=b"b")
        read_sources = board.read_sources

        def change(slots: Any) -> Any:
            found = read_sources(slots)
            if ends == "posted again":
                post(board, 0, 2.0)
            else:  # the old one is taken down before the new one is written
                board.take_down(0)
            return found

        monkeypatch.setattr(board, "read_sources", change)
        copied = copy_forecasts(board, np.array([0, 1]), ALL)
        assert copied.slots.tolist() == [1]
        assert copied.get_model(0) == "b"


def test_no_forecasts_are_copied_of_no_slots(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        assert copy_forecasts(state.board, np.array([0, 1]), ALL).values.shape == (0, *SHAPE)
