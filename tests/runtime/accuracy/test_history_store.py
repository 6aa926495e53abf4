"""Tests `streamd/runtime/accuracy/history_store.py`: what is stored is read again, also after damage."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamd.core.accuracy.history_scores import HistoryForm
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.runtime.accuracy.history_records import DroppedHistory, KeptForecast, KnownTruth, StoredServer
from streamd.runtime.accuracy.history_store import HistoryStore
from tests.support.contracts import make_contract

CONTRACT = make_contract()
FORM = HistoryForm(CONTRACT)
EVERYTHING = (0, 2**53, 100)
RETENTION_STEPS = 50


def make_values(number: float) -> Float32:
    return np.arange(24, dtype=np.float32).reshape(2, 4, 3) + np.float32(number)


def make_truth(number: float) -> Float32:
    truth = np.full((2, 4), number, np.float32)
    truth[1, 3] = np.nan
    return truth


def make_forecast(server: str, step: int, model: str = "v1") -> KeptForecast:
    return KeptForecast(server, step, model, make_values(step))


def make_known(server: str, step: int) -> KnownTruth:
    return KnownTruth(server, step, make_truth(step))


def open_store(folder: Path, contract: ModelContract = CONTRACT) -> HistoryStore:
    return HistoryStore(folder / "history.sqlite", HistoryForm(contract), RETENTION_STEPS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HistoryStore]:
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def list_steps(store: HistoryStore, server: str) -> tuple[list[int], list[int]]:
    """Return the steps of the stored forecasts and scores of a server."""
    history = store.read_history(server, *EVERYTHING)
    return [each.step for each in history.forecasts], [each.step for each in history.scores]


def test_a_forecast_is_read_as_it_was_kept(store: HistoryStore) -> None:
    store.apply_changes([make_forecast("a", 100), make_forecast("b", 100)])
    (forecast,) = store.read_history("a", *EVERYTHING).forecasts
    assert (forecast.step, forecast.model, forecast.is_complete) == (100, "v1", False)
    np.testing.assert_array_equal(forecast.values, make_values(100))
    assert np.isnan(forecast.truth).all()
    assert (store.forecasts, store.scored) == (2, 0)


def test_truth_completes_a_forecast_and_scores_it(store: HistoryStore) -> None:
    store.apply_changes([make_forecast("a", 100), make_known("a", 100)])
    history = store.read_history("a", *EVERYTHING)
    (forecast,), (scores,) = history.forecasts, history.scores
    assert forecast.is_complete
    np.testing.assert_array_equal(forecast.truth, make_truth(100))
    np.testing.assert_array_equal(scores.sums, FORM.compute_sums(make_values(100), make_truth(100)))
    np.testing.assert_array_equal(history.total, scores.sums)
    assert (scores.step, scores.model, history.scored, store.scored) == (100, "v1", 1, 1)


def test_a_forecast_whose_truth_is_missing_has_no_scores(store: HistoryStore) -> None:
    store.apply_changes([make_forecast("a", 100), KnownTruth("a", 100, np.full((2, 4), np.nan, np.float32))])
    history = store.read_history("a", *EVERYTHING)
    assert (history.forecasts[0].is_complete, history.scores) == (True, [])


def test_truth_without_its_forecast_is_ignored(store: HistoryStore) -> None:
    store.apply_changes([make_known("a", 100)])
    assert list_steps(store, "a") == ([], [])


def test_the_newest_are_read_and_all_are_summed(store: HistoryStore) -> None:
    steps = range(100, 110)
    store.apply_changes([each for step in steps for each in (make_forecast("a", step), make_known("a", step))])
    history = store.read_history("a", 102, 108, 3)
    assert [each.step for each in history.forecasts] == [each.step for each in history.scores] == [106, 107, 108]
    assert history.scored == 7
    expected = sum(FORM.compute_sums(make_values(step), make_truth(step)).astype(float) for step in range(102, 109))
    np.testing.assert_allclose(history.total, expected, rtol=1e-6)


def test_old_forecasts_and_scores_of_a_server_are_deleted(store: HistoryStore) -> None:
    store.apply_changes(
        [each for step in (100, 140, 150) for each in (make_forecast("a", step), make_known("a", step))]
    )
    store.apply_changes([make_forecast("b", 100), make_known("b", 100)])
    store.apply_changes([make_forecast("a", 151)])
    assert list_steps(store, "a") == ([140, 150, 151], [140, 150]), "two windows are 16 steps"
    assert list_steps(store, "b") == ([100], [100]), "its own newest forecast is its clock"


def test_a_forgotten_server_has_nothing_left(store: HistoryStore) -> None:
    store.apply_changes([each for name in "ab" for each in (make_forecast(name, 100), make_known(name, 100))])
    store.apply_changes([DroppedHistory("a"), DroppedHistory("unknown")])
    assert list_steps(store, "a") == ([], [])
    assert list_steps(store, "b") == ([100], [100])
    assert list(store.read_servers()) == ["b"]


def test_what_came_from_dropped_rows_is_deleted(store: HistoryStore) -> None:
    for step in (100, 104, 108, 109):
        store.apply_changes([make_forecast("a", step)])
    store.apply_changes([make_known("a", 100), make_known("a", 104)])
    store.apply_changes([DroppedHistory("a", after=107)])
    # The truth of 104 has row 108; 100 ends at row 104.
    assert list_steps(store, "a") == ([100], [100])
    store.apply_changes([make_forecast("a", 106), DroppedHistory("a", after=107)])
    assert list_steps(store, "a") == ([100, 106], [100])


def test_servers_are_read_with_the_forecasts_that_wait(store: HistoryStore) -> None:
    store.apply_changes([make_forecast("a", step) for step in (104, 100, 102)])
    store.apply_changes([make_known("a", 100), make_forecast("b\x00\n/é", 7)])
    assert store.read_servers() == {"a": StoredServer(104, [102, 104]), "b\x00\n/é": StoredServer(7, [7])}


def test_changes_are_applied_as_a_whole_or_not_at_all(store: HistoryStore) -> None:
    wrong = KeptForecast("a", 2**70, "v1", make_values(0))
    with pytest.raises(OverflowError):
        store.apply_changes([make_forecast("a", 100), wrong])
    assert list_steps(store, "a") == ([], [])
    store.apply_changes([make_forecast("a", 101)])
    assert list_steps(store, "a") == ([101], [])


def test_what_was_stored_is_there_after_the_next_opening(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    first.apply_changes([make_forecast("a", 100), make_known("a", 100)])
    second = open_store(tmp_path)  # the first one was killed: it is not closed
    assert list_steps(second, "a") == ([100], [100])
    assert (second.forecasts, second.scored) == (1, 1)
    first.close()
    second.close()


@pytest.mark.parametrize(
    "contract",
    [
        make_contract(targets=("mem",)),
        make_contract(horizon=5),
        make_contract(quantiles=(0.1, 0.5, 0.8)),
        make_contract(step_seconds=60),
    ],
)
def test_another_contract_begins_anew(tmp_path: Path, contract: ModelContract) -> None:
    first = open_store(tmp_path)
    first.apply_changes([make_forecast("a", 100), make_known("a", 100)])
    first.close()
    second = open_store(tmp_path, contract)
    assert (second.read_servers(), second.forecasts) == ({}, 0)
    second.close()


def test_another_context_length_continues(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    first.apply_changes([make_forecast("a", 100)])
    first.close()
    second = open_store(tmp_path, make_contract(context_length=16, features=("cpu", "mem", "net", "disk")))
    assert list(second.read_servers()) == ["a"]
    second.close()


def damage_tables(path: Path) -> None:
    """Overwrite all pages but the first."""
    content = path.read_bytes()
    path.write_bytes(content[:4_096] + b"\xa5" * (len(content) - 4_096))


def test_damage_that_is_found_later_is_set_aside_and_the_changes_are_kept(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    first.apply_changes([make_forecast("a", 100)])
    first.close()
    second = open_store(tmp_path)
    damage_tables(tmp_path / "history.sqlite")
    second.apply_changes([make_forecast("a", 101)])
    assert list_steps(second, "a") == ([101], [])
    assert len(list(tmp_path.glob("*.old"))) == 1
    second.close()


def test_damage_that_is_read_is_set_aside(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    first.apply_changes([make_forecast("a", 100)])
    first.close()
    second = open_store(tmp_path)
    damage_tables(tmp_path / "history.sqlite")
    assert list_steps(second, "a") == ([], [])
    second.close()


def test_a_blob_of_another_size_is_passed_over(store: HistoryStore, tmp_path: Path) -> None:
    store.apply_changes([make_forecast("a", step) for step in (100, 101)])
    store.apply_changes([make_known("a", 100), make_known("a", 101)])
    other = sqlite3.connect(tmp_path / "history.sqlite")
    other.execute("UPDATE forecasts SET quantiles = x'00' WHERE step = 100")
    other.execute("UPDATE scores SET sums = x'00' WHERE step = 101")
    other.commit()
    other.close()
    assert list_steps(store, "a") == ([101], [100])


@pytest.mark.parametrize("script", ["PRAGMA user_version = 9", "CREATE TABLE scores (step); PRAGMA user_version = 1"])
def test_a_file_of_another_layout_is_set_aside(tmp_path: Path, script: str) -> None:
    other = sqlite3.connect(tmp_path / "history.sqlite")
    other.executescript(script)
    other.close()
    store = open_store(tmp_path)
    store.apply_changes([make_forecast("a", 100)])
    assert list_steps(store, "a") == ([100], [])
    assert len(list(tmp_path.glob("*.old"))) == 1
    store.close()
