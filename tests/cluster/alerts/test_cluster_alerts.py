"""Tests `streamd/cluster/alerts/cluster_alerts.py`: alerts of two nodes over a made log, while their shard changes
hands.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamd.runtime.alerts.alert import AlertState
from streamd.runtime.alerts.store import DeliveryMark
from tests.support.alert_nodes import HIGH, LOW, AlertNode, make_log, wait_until
from tests.support.alert_rig import CPU_RULE, Table
from tests.support.silence_rig import make_silence

SHARDS = 1
ONCE: dict[str, Table] = {"r": {**CPU_RULE, "for": 1}}
TWICE: dict[str, Table] = {"r": {**CPU_RULE, "for": 2}}


@pytest.fixture(autouse=True)
def _turns_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.alerts.thread.EVALUATION_SECONDS", 0.002)


@asynccontextmanager
async def run_nodes(folder: Path, rules: dict[str, Table]) -> AsyncIterator[tuple[AlertNode, AlertNode]]:
    """Run two nodes, the first of which owns the only shard under the fence 1."""
    log = make_log()
    a, b = (AlertNode(folder / name, log.connect(), SHARDS, rules) for name in ("a", "b"))
    try:
        for node in (a, b):
            await node.start()
        a.keeper.shard_gained(0, 1)
        yield a, b
    finally:
        for node in (a, b):
            await node.close()


async def fire(node: AlertNode, server: str = "db-1") -> None:
    node.forecast(server, HIGH)
    await wait_until(lambda: (server, "firing") in node.list_active(), "the alert fires")


# ---------------------------------------------------------------- read anywhere
async def test_all_nodes_show_an_alert_and_its_owner_alone_notifies(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        await wait_until(lambda: b.list_active() == [("db-1", "firing")], "the other node shows it")
        assert next(iter(b.monitor.active.values())) == next(iter(a.monitor.active.values()))
        a.forecast("db-1", LOW)
        for node in (a, b):
            await wait_until(lambda node=node: len(node.monitor.resolved) == 1, "both show its end")  # type: ignore[misc]
        assert (a.list_active(), b.list_active()) == ([], [])
        assert a.receivers.changes == [("fired", "db-1"), ("resolved", "db-1")]
        assert b.receivers.changes == []
        assert a.reader.changes == b.reader.changes == [("fired", "db-1"), ("resolved", "db-1")]


async def test_a_node_that_does_not_own_a_server_evaluates_nothing_for_it(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        b.forecast("db-1", HIGH)  # as a relayed forecast
        await fire(a, "db-2")
        await wait_until(lambda: b.list_active() == [("db-2", "firing")])
        assert b.monitor.describe()["firing"] == 1
        assert a.list_active() == [("db-2", "firing")]


async def test_a_node_that_joins_shows_what_is_active_and_what_was_resolved(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, _):
        for server in ("db-1", "db-2", "db-3"):
            await fire(a, server)
        for number, server in enumerate(("db-2", "db-1"), 1):
            a.forecast(server, LOW)
            await wait_until(lambda number=number: len(a.monitor.resolved) == number)  # type: ignore[misc]
        late = AlertNode(tmp_path / "late", a.log.connect(), SHARDS, ONCE)
        await late.start()
        assert late.list_active() == [("db-3", "firing")]
        assert {alert.server for alert in late.monitor.resolved} == {"db-1", "db-2"}
        await late.close()


# ---------------------------------------------------------------- a shard changes hands
async def test_an_alert_goes_on_at_the_next_owner_and_fires_once(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        b.row("db-1")
        before = next(iter(a.monitor.active.values()))
        a.keeper.shard_lost(0)
        b.keeper.shard_gained(0, 2)
        await wait_until(lambda: bool(b.receivers.adopted), "the successor takes the alert over")
        assert (a.receivers.released, b.receivers.adopted) == (["db-1"], ["db-1"])
        assert (len(a.monitor.own_active), len(b.monitor.own_active)) == (0, 1)
        b.forecast("db-1", LOW)
        await wait_until(lambda: b.receivers.changes == [("resolved", "db-1")], "its receivers get the end")
        await wait_until(lambda: not a.list_active(), "the former owner shows the end")
        assert a.receivers.changes == [("fired", "db-1")]
        assert b.monitor.resolved[0].starts_at == before.starts_at
        assert a.reader.changes == b.reader.changes == [("fired", "db-1"), ("resolved", "db-1")]


async def test_forecasts_in_a_row_count_over_a_change_of_owners(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, TWICE) as (a, b):
        a.forecast("db-1", HIGH)
        b.row("db-1")
        await wait_until(lambda: b.list_active() == [("db-1", "pending")])
        a.log.kill()  # without a word
        b.keeper.shard_gained(0, 2)
        b.forecast("db-1", HIGH)
        await wait_until(lambda: b.receivers.changes == [("fired", "db-1")], "the second forecast fires")
        assert b.reader.changes == [("pending", "db-1"), ("fired", "db-1")]


async def test_a_forecast_that_the_former_owner_did_not_judge_is_judged_by_the_next(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        a.log.cut()
        b.forecast("db-1", HIGH)  # as it came from the log: no rule was evaluated for it here
        b.keeper.shard_gained(0, 2)
        await wait_until(lambda: b.receivers.changes == [("fired", "db-1")])


async def test_a_node_that_was_cut_off_changes_nothing_and_notifies_nobody(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        b.row("db-1")
        a.log.cut()
        a.forecast("db-1", LOW)
        a.forecast("db-2", HIGH)
        await wait_until(lambda: a.count_waiting() == 2, "it has found both")
        b.keeper.shard_gained(0, 2)
        await wait_until(lambda: bool(b.receivers.adopted))
        a.log.heal()
        b.forecast("db-3", HIGH)
        await wait_until(lambda: ("db-3", "firing") in a.list_active(), "it follows again")
        await wait_until(lambda: ("db-3", "firing") in b.list_active(), "its owner shows it")
        await wait_until(lambda: not a.monitor.own_active, "it owns nothing")
        assert a.list_active() == b.list_active() == [("db-1", "firing"), ("db-3", "firing")]
        assert a.receivers.changes == [("fired", "db-1")]
        assert b.receivers.changes == [("fired", "db-3")]


async def test_windows_that_are_dropped_after_the_loss_end_no_alert(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        b.row("db-1")
        a.keeper.shard_lost(0)
        slot = a.state.directory.slots["db-1"]
        a.state.forget(slot)
        a.monitor.forget(slot)
        b.keeper.shard_gained(0, 2)
        await wait_until(lambda: bool(b.receivers.adopted))
        b.forecast("db-2", HIGH)
        await wait_until(lambda: ("db-2", "firing") in a.list_active())
        assert ("db-1", "firing") in a.list_active()
        assert a.receivers.changes == [("fired", "db-1")]


async def test_an_alert_whose_server_was_forgotten_meanwhile_is_resolved(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        a.keeper.shard_lost(0)
        b.keeper.shard_gained(0, 2)
        await wait_until(lambda: b.receivers.changes == [("resolved", "db-1")])
        assert b.monitor.resolved[0].reason == "forgotten"


async def test_an_owner_that_comes_back_knows_nothing_of_what_ended_meanwhile(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        b.row("db-1")
        a.keeper.shard_lost(0)
        b.keeper.shard_gained(0, 2)
        await wait_until(lambda: bool(b.receivers.adopted))
        b.forecast("db-1", LOW)
        await wait_until(lambda: not a.list_active())
        b.keeper.shard_lost(0)
        a.row("db-1")
        a.keeper.shard_gained(0, 3)
        await fire(a, "db-2")
        a.forecast("db-1", LOW)
        await fire(a, "db-3")
        assert a.receivers.changes == [("fired", name) for name in ("db-1", "db-2", "db-3")]
        assert len(a.monitor.resolved) == 1


async def test_marks_of_deliveries_go_to_the_next_owner(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        b.row("db-1")
        alert = next(iter(a.monitor.active.values()))
        a.keeper.mark_delivered("webhook", alert.key, alert.starts_at or 0.0, AlertState.FIRING)
        mark = DeliveryMark("webhook", alert.key, alert.starts_at or 0.0, AlertState.FIRING)
        await wait_until(lambda: b.list_marks() == {mark}, "it is in the table")
        a.keeper.shard_lost(0)
        b.keeper.shard_gained(0, 2)
        await wait_until(lambda: bool(b.receivers.adopted))
        assert b.keeper.read_marks() == {mark}
        assert a.keeper.read_marks() == frozenset()


# ---------------------------------------------------------------- the log is away
async def test_a_change_is_shown_once_it_is_stored(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        a.log.lose_answers = 1  # stored, and not known to be
        a.forecast("db-2", HIGH)
        await wait_until(lambda: ("db-2", "firing") in b.list_active())
        await wait_until(lambda: ("db-2", "firing") in a.list_active())
        a.log.cut()
        a.forecast("db-3", HIGH)
        await wait_until(lambda: a.count_waiting() == 1)
        assert ("db-3", "firing") not in a.list_active()
        a.log.heal()
        for node in (a, b):
            await wait_until(lambda node=node: ("db-3", "firing") in node.list_active())  # type: ignore[misc]
        assert a.receivers.changes == [("fired", name) for name in ("db-1", "db-2", "db-3")]


async def test_while_the_log_is_away_long_a_change_is_shown_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.cluster.alerts.owned_record.HELD_SECONDS", 0.0)
    async with run_nodes(tmp_path, ONCE) as (a, _):
        await fire(a)
        a.log.cut()
        a.forecast("db-2", HIGH)
        await wait_until(lambda: ("fired", "db-2") in a.receivers.changes)


# ---------------------------------------------------------------- silences
async def test_a_silence_holds_at_all_nodes_until_it_is_ended_at_another(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        start = float(a.state.contract.to_origin(100))
        silence = make_silence(starts_at=start, ends_at=start + 60)
        await b.monitor.add_silence(silence)
        await wait_until(lambda: [each.id for each in a.monitor.silences] == [silence.id])
        await wait_until(lambda: [each.silenced_until for each in b.monitor.active.values()] == [start + 60])
        a.forecast("db-2", HIGH)
        await wait_until(lambda: ("db-2", "firing") in b.list_active())
        assert [alert.is_withheld for alert in b.monitor.active.values() if alert.server == "db-2"] == [True]
        await a.monitor.end_silence(silence.id)
        await wait_until(lambda: not b.monitor.silences)
        await wait_until(lambda: all(alert.silenced_until is None for alert in b.monitor.active.values()))


async def test_a_silence_marks_alerts_that_a_node_takes_over_later(tmp_path: Path) -> None:
    async with run_nodes(tmp_path, ONCE) as (a, b):
        await fire(a)
        b.row("db-1")
        start = float(a.state.contract.to_origin(100))
        await a.monitor.add_silence(make_silence(starts_at=start, ends_at=start + 60))
        a.keeper.shard_lost(0)
        b.keeper.shard_gained(0, 2)
        await wait_until(lambda: [each.silenced_until for each in b.monitor.own_active.values()] == [start + 60])


async def test_a_reader_waits_until_the_alerts_of_the_cluster_are_known(tmp_path: Path) -> None:
    log = make_log()
    log.cut()
    node = AlertNode(tmp_path / "a", log, SHARDS, ONCE)
    await node.monitor.start()
    node.keeper.start()
    await asyncio.sleep(0)
    assert not node.ready.is_set()
    log.heal()
    await node.ready.wait()
    await node.close()
