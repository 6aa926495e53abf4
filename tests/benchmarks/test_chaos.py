"""Tests `benchmarks/chaos/*`: each broken promise is found, and a short run with one fault of each kind finds none."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos.faults import EXCLUSIVE, FAULTS, list_conflicts, orders_are_clear
from benchmarks.chaos.history import CELLS, ServerHistory
from benchmarks.chaos.journal import Journal
from benchmarks.chaos.model import CONTRACT, LARGEST_VALUE, MISSING, OFFSETS, make_forecasts, make_value
from benchmarks.chaos.process import find_faketime
from benchmarks.chaos.run import ChaosPlan, ChaosRun
from benchmarks.chaos.subscriber import ChaosSubscriber, ForecastChecker, SubscriberPlan
from benchmarks.chaos.watch import LifeWatch

LENGTH, NEWEST = CONTRACT.context_length, 1_000
FIRST, SECOND = OFFSETS


@pytest.fixture
def journal() -> Journal:
    return Journal(io.StringIO())


@pytest.fixture
def history() -> ServerHistory:
    """A server whose rows up to `NEWEST` were sent one after the other until 10.5, and acknowledged one by one."""
    history = ServerHistory("web-000")
    for step in range(NEWEST - 2 * LENGTH, NEWEST + 1):
        send_row(history, step, sent_at=10.0 + step - NEWEST, acked_at=10.5 + step - NEWEST)
    return history


def send_row(
    history: ServerHistory,
    step: int,
    *,
    sent_at: float,
    acked_at: float | None,
    features: range = CELLS,
    variant: int = 0,
) -> None:
    values = {feature: make_value(0, step, feature, variant) for feature in features}
    for write in history.begin_write(step, values, sent_at):
        write.acked_at = acked_at


def make_rows(newest: int = NEWEST) -> list[list[float]]:
    steps = range(newest - LENGTH + 1, newest + 1)
    return [[make_value(0, step, feature, 0) for feature in CELLS] for step in steps]


# ---------------------------------------------------------------- windows
def test_a_window_of_what_was_acknowledged_is_right(history: ServerHistory) -> None:
    assert history.find_wrong_cells(NEWEST, make_rows(), 12.0, 13.0) == []
    assert history.closed_step == NEWEST
    assert history.count_rows(NEWEST, 12.0, 13.0) == (LENGTH, LENGTH)


@pytest.mark.parametrize("wrong", [MISSING, 12.0])
@pytest.mark.parametrize("place", [0, LENGTH - 1])
def test_one_lost_or_wrong_cell_is_found(history: ServerHistory, wrong: float, place: int) -> None:
    rows = make_rows()
    rows[place][2] = wrong
    (found,) = history.find_wrong_cells(NEWEST, rows, 12.0, 13.0)
    assert f"step {NEWEST - LENGTH + 1 + place} feature 2" in found
    assert history.find_wrong_forecast(NEWEST, [sorted(row) for row in rows], 12.0, 13.0)


def test_a_window_moved_by_one_row_is_found(history: ServerHistory) -> None:
    assert len(history.find_wrong_cells(NEWEST, make_rows(NEWEST - 1), 12.0, 13.0)) == LENGTH * len(CELLS)


def test_an_amendment_may_be_there_once_it_was_sent_and_must_be_once_it_was_acknowledged(
    history: ServerHistory,
) -> None:
    send_row(history, NEWEST - 3, sent_at=20.0, acked_at=21.0, features=range(1, 2), variant=1)
    old, new = make_rows(), make_rows()
    new[-4][1] = make_value(0, NEWEST - 3, 1, 1)
    for begin, end, is_old_right, is_new_right in (
        (12.0, 19.0, True, False),
        (20.2, 20.5, True, True),
        (22.0, 23.0, False, True),
    ):
        assert (history.find_wrong_cells(NEWEST, old, begin, end) == []) is is_old_right
        assert (history.find_wrong_cells(NEWEST, new, begin, end) == []) is is_new_right


def test_a_row_that_was_not_acknowledged_may_be_there_or_not(history: ServerHistory) -> None:
    send_row(history, NEWEST + 1, sent_at=20.0, acked_at=None)
    there, not_there = make_rows(NEWEST + 1), make_rows(NEWEST + 1)
    not_there[-1] = [MISSING] * len(CELLS)
    for rows in (there, not_there):
        assert history.find_wrong_cells(NEWEST + 1, rows, 30.0, 31.0) == []
    assert history.closed_step == NEWEST
    send_row(history, NEWEST + 2, sent_at=22.0, acked_at=23.0)
    assert history.count_rows(NEWEST + 2, 30.0, 31.0) == (LENGTH - 1, LENGTH)


def test_a_row_of_which_half_was_sent_is_open_until_a_later_row_was_acknowledged(history: ServerHistory) -> None:
    send_row(history, NEWEST + 1, sent_at=20.0, acked_at=21.0, features=CELLS[:2])
    assert history.closed_step == NEWEST
    send_row(history, NEWEST + 2, sent_at=22.0, acked_at=23.0, features=CELLS[:1])
    assert history.closed_step == NEWEST + 1


def test_rows_long_past_are_forgotten_and_not_judged(history: ServerHistory) -> None:
    send_row(history, NEWEST + 10_000, sent_at=20.0, acked_at=21.0)
    assert not history.can_check(NEWEST)
    assert history.can_check(NEWEST + 10_000)


@given(st.integers(0, 2**20), st.integers(0, 2**26), st.integers(0, 3), st.integers(0, 50))
def test_values_are_exact_with_the_offset_of_each_version(server: int, step: int, feature: int, variant: int) -> None:
    value = make_value(server, step, feature, variant)
    assert 0 <= value < LARGEST_VALUE
    for offset in OFFSETS.values():
        assert float(np.float32(value + offset)) == value + offset


# ---------------------------------------------------------------- forecasts
@pytest.fixture
def checker(history: ServerHistory, journal: Journal) -> ForecastChecker:
    return ForecastChecker({history.name: history}, journal)


@pytest.fixture
def subscriber(checker: ForecastChecker, journal: Journal) -> ChaosSubscriber:
    subscriber = ChaosSubscriber(SubscriberPlan(name="one", allowed=("web-*",)), "", checker, journal)
    subscriber._begin_connection()
    return subscriber


def make_message(step: int = NEWEST, model: str = FIRST, **changed: Any) -> dict[str, Any]:
    """Return a right forecast as a frame of the wire, but for what is changed."""
    window = np.array(make_rows(step), np.float32)[None]
    values = np.sort(make_forecasts(window, OFFSETS[model])[0].transpose(1, 0, 2), axis=-1)
    message = {"type": "forecast", "server": "web-000", "origin": (step + 1) * CONTRACT.step_seconds, "model": model}
    return {**message, "context": LENGTH, "values": values.tolist(), **changed}


def test_right_forecasts_of_rising_rows_and_of_both_versions_are_no_finding(
    subscriber: ChaosSubscriber, journal: Journal
) -> None:
    for message in (make_message(NEWEST - 1), make_message(), make_message(model=SECOND)):
        subscriber._take(message)
    assert not journal.findings
    assert journal.checked["forecasts_checked"] == 3


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([make_message(), make_message()], "doubled"),
        ([make_message(), make_message(NEWEST - 1)], "out_of_order"),
        ([make_message(context=LENGTH - 1)], "wrong_context"),
        ([make_message(model=SECOND, values=make_message()["values"])], "wrong_forecast"),
        ([make_message(values=make_message(NEWEST - 1)["values"])], "wrong_forecast"),
        ([{**make_message(), "model": "another"}], "wrong_forecast"),
        ([make_message(NEWEST + 1)], "wrong_forecast"),
        ([make_message(server="db-001")], "not_allowed"),
    ],
)
def test_each_wrong_forecast_is_found(
    subscriber: ChaosSubscriber, journal: Journal, messages: list[dict[str, Any]], kind: str
) -> None:
    for message in messages:
        subscriber._take(message)
    assert kind in journal.findings


def test_a_new_connection_may_get_a_forecast_again(subscriber: ChaosSubscriber, journal: Journal) -> None:
    subscriber._take(make_message())
    subscriber._begin_connection()
    subscriber._take(make_message())
    assert not journal.findings


# ---------------------------------------------------------------- slopes
@pytest.mark.parametrize("growth", [0.0, 50_000.0])
def test_a_slope_is_flat_only_without_growth(growth: float) -> None:
    watch, random = LifeWatch(), np.random.default_rng(1)
    for life in range(6):
        watch.starts[life] = 90.0 * life
        watch.samples[life] = [
            (age, int(1e8 + growth * (age + 90 * life) + random.normal(0, 1e5)), 20) for age in np.arange(0, 90, 0.5)
        ]
    for slope in (watch.fit_within_lives(1), watch.fit_over_lives(1)):
        assert slope.is_flat(2**20) is (growth == 0)
        assert abs(slope.per_minute - 60 * growth) < 5e5
    assert watch.fit_within_lives(2).is_flat(1.0)


# ---------------------------------------------------------------- the run
SHORT = ("torn_frames", "lane_lost", "kill", "promotion", "disk_full", "stalled_subscriber", "token_revoked")
"""Faults of the short form, in this order."""


def test_every_fault_is_drawn_and_none_beside_itself() -> None:
    assert all(fault.weight > 0 for fault in FAULTS.values())
    assert all(name in list_conflicts(name) for name in FAULTS)
    assert all(each <= FAULTS.keys() for each in EXCLUSIVE)
    assert set(SHORT) <= FAULTS.keys()


def test_a_short_run_loses_no_row_and_delivers_no_wrong_or_doubled_forecast(tmp_path: Path) -> None:
    plan = ChaosPlan(
        seed=14, faults=SHORT, servers=12, senders=4, send_pause_seconds=0.1, gap_seconds=0.1, fault_seconds=(0.3, 0.3)
    )
    with (tmp_path / "chaos.jsonl").open("w", encoding="ascii") as file:
        journal = Journal(file)
        run = ChaosRun(tmp_path, plan, journal)
        asyncio.run(run.run())
    assert journal.examples == []
    assert run.process.lives == 2
    assert orders_are_clear(run.orders)
    checked = journal.checked
    assert checked["states_checked"] == 2
    assert checked["windows_checked"] >= 2 * plan.servers
    assert checked["rows_acked"] > 50
    assert checked["forecasts_checked"] > 100
    assert checked["subscribers_complete"] == len(run.subscribers)
    events = [json.loads(line) for line in (tmp_path / "chaos.jsonl").read_text(encoding="ascii").splitlines()]
    made = {event["name"] for event in events if event["event"] == "fault"}
    skipped = {event["fault"] for event in events if event["event"] == "fault_skipped"}
    assert made == set(SHORT) - skipped
    assert "clock_shifted" in skipped or find_faketime() is not None
