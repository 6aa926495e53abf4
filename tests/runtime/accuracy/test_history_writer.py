"""Tests `streamd/runtime/accuracy/history_writer.py`: order, failures of the disk, and what is dropped."""

from pathlib import Path

import numpy as np
import pytest

from streamd.core.accuracy.history_scores import HistoryForm
from streamd.runtime.accuracy import history_writer
from streamd.runtime.accuracy.history_records import Change, DroppedHistory, KeptForecast
from streamd.runtime.accuracy.history_writer import HistoryWriter
from tests.support.contracts import make_contract


def make_writer(folder: Path) -> HistoryWriter:
    return HistoryWriter(folder / "history.sqlite", HistoryForm(make_contract()), 100)


def make_forecast(server: str, step: int) -> Change:
    return KeptForecast(server, step, "v1", np.zeros((2, 4, 3), np.float32))


async def list_steps(writer: HistoryWriter, server: str) -> list[int]:
    return [each.step for each in (await writer.read_history(server, 0, 2**53, 100)).forecasts]


async def test_what_was_given_before_is_read(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    for step in (1, 2, 3):
        writer.write_changes([make_forecast("a", step)])
    assert await list_steps(writer, "a") == [1, 2, 3]
    assert list(await writer.read_servers()) == ["a"]
    assert writer.forecasts == 3
    writer.close(10.0)


async def test_closing_writes_what_was_given(tmp_path: Path) -> None:
    first = make_writer(tmp_path)
    first.write_changes([make_forecast("a", 1)])
    first.close(10.0)
    second = make_writer(tmp_path)
    assert await list_steps(second, "a") == [1]
    second.close(10.0)


def test_without_changes_there_is_no_file(tmp_path: Path) -> None:
    make_writer(tmp_path).close(10.0)
    assert list(tmp_path.iterdir()) == []


async def test_changes_wait_for_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    (tmp_path / "history.sqlite").mkdir()
    writer.write_changes([make_forecast("a", 1)])
    with pytest.raises(Exception, match="Is a directory"):
        await writer.read_servers()
    assert (writer.write_errors, writer.has_unwritten) == (1, True)
    assert "Is a directory" in writer.problem
    (tmp_path / "history.sqlite").rmdir()
    writer.write_changes([])
    assert await list_steps(writer, "a") == [1]
    assert (writer.problem, writer.has_unwritten, writer.dropped) == ("", False, 0)
    writer.close(10.0)


async def test_the_oldest_forecasts_are_dropped_and_a_forgotten_server_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_writer, "MAX_UNWRITTEN", 3)
    writer = make_writer(tmp_path)
    writer.write_changes([make_forecast("gone", 1)])
    assert await list_steps(writer, "gone") == [1]
    writer.close(10.0)
    (tmp_path / "history.sqlite").rename(tmp_path / "away")
    (tmp_path / "history.sqlite").mkdir()
    again = make_writer(tmp_path)
    again.write_changes([DroppedHistory("gone"), *(make_forecast("a", step) for step in range(5))])
    with pytest.raises(Exception, match="Is a directory"):
        await again.read_servers()
    assert again.dropped == 3
    (tmp_path / "history.sqlite").rmdir()
    (tmp_path / "away").rename(tmp_path / "history.sqlite")
    again.write_changes([])
    assert await list_steps(again, "a") == [3, 4]
    assert await list_steps(again, "gone") == []
    again.close(10.0)
