"""Tests `streamd/cluster/forecasts/reader_ids.py`: no reader passes what this node has not heard of."""

import time
from pathlib import Path

import pytest

from streamd.cluster.forecasts import forecasts
from streamd.cluster.forecasts.reader_ids import ID_CALM_SECONDS, ID_CHECK_SECONDS, ID_LATE_SECONDS, ReaderIds
from streamd.core.cluster.log_clock import LogClock, make_serial
from tests.support.forecast_rig import RigNode, make_servers, run_forecast_rig

HERE, ELSEWHERE = make_servers(0, 2), make_servers(1, 2)
BEHIND = 2.5
HIGH = 10**18


class Checked:
    """The ids of a node whose clock a test moves; the log's time is 1,000 s ahead of it."""

    def __init__(self) -> None:
        self.now = 50.0
        self.is_calm = True
        self.ids = ReaderIds(LogClock(1_000.0), lambda: self.is_calm, lambda: self.now)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a check at each interval."""
        for _ in range(round(seconds / ID_CHECK_SECONDS)):
            self.now += ID_CHECK_SECONDS
            self.ids.check()

    @property
    def bound(self) -> float:
        """The bound, as the seconds that it lies behind the present."""
        return 1_000.0 + self.now - self.ids.limit(HIGH) / 1e6


def pass_time(node: RigNode, seconds: float) -> None:
    """Let the log's clock be later at a node."""
    node.forecasts.log_clock.note(time.time() + seconds, time.monotonic())


def begin() -> Checked:
    checked = Checked()
    checked.ids.begin(BEHIND)
    return checked


def test_without_a_start_there_is_no_bound() -> None:
    assert Checked().ids.limit(HIGH) == HIGH


def test_the_bound_follows_the_present_and_lower_ids_stay() -> None:
    checked = begin()
    checked.pass_time(10.0)
    assert checked.bound == BEHIND
    low = make_serial(1_000.0)
    assert checked.ids.limit(low) == low


def test_the_bound_stands_while_something_hides_and_until_all_is_read_again() -> None:
    checked = begin()
    checked.is_calm = False
    checked.pass_time(20.0)
    assert checked.bound == BEHIND + 20.0
    checked.is_calm = True
    checked.pass_time(ID_CALM_SECONDS)
    assert checked.bound == BEHIND + 20.0 + ID_CALM_SECONDS
    checked.pass_time(ID_CHECK_SECONDS)
    assert checked.bound == BEHIND


def test_a_process_that_stood_still_waits_too() -> None:
    checked = begin()
    checked.now += ID_LATE_SECONDS + 60.0
    checked.ids.check()
    assert checked.bound == BEHIND + ID_LATE_SECONDS + 60.0
    checked.pass_time(ID_CALM_SECONDS + ID_CHECK_SECONDS)
    assert checked.bound == BEHIND


def test_the_bound_never_falls() -> None:
    checked = begin()
    checked.pass_time(5.0)
    before = checked.ids.limit(HIGH)
    checked.ids.begin(60.0)
    assert checked.ids.limit(HIGH) == before


async def test_a_reader_of_a_node_that_was_cut_off_gets_at_another_one_what_was_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasts, "OVERLAP_SECONDS", 0.0)
    async with run_forecast_rig(tmp_path) as rig:
        cut, other = rig.start("a"), rig.start("b")
        await cut.own(0, 1)
        await other.own(1, 2)
        cut.forecasts.reader_ids.begin(0.0)
        reader = await cut.subscribe()
        await rig.send([*HERE, *ELSEWHERE], 10, 11)
        await rig.wait_until(lambda: all(reader.steps.get(name) == [11] for name in [*HERE, *ELSEWHERE]))
        pass_time(other, 10.0)
        pass_time(cut, 20.0)  # what it forecasts from here on has a higher id than what is forecast elsewhere
        await rig.send(HERE, 12)
        await rig.wait_until(lambda: all(reader.steps[name] == [11, 12] for name in HERE))
        cut.made_log.cut()
        await rig.send(ELSEWHERE[:1], 12)
        await rig.wait_forecast(other, ELSEWHERE[:1], 12)
        pass_time(other, 30.0)
        await rig.send(ELSEWHERE[1:], 12)
        await rig.wait_forecast(other, ELSEWHERE, 12)
        cut.forecasts.reader_ids.check()
        assert reader.steps[ELSEWHERE[0]] == [11]
        then = await other.subscribe(since=reader.last_id)
        await rig.wait_until(lambda: all(then.steps.get(name, [0])[-1] == 12 for name in ELSEWHERE))
