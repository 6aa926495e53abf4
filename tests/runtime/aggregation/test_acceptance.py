"""Tests `streamd/runtime/aggregation/acceptance.py` and `slot_check.py`: which points of a body are taken."""

import asyncio
import math
from pathlib import Path

import pytest

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.mapping.series import SourceSeries
from streamd.runtime.aggregation import acceptance
from streamd.runtime.aggregation.series_table import NOT_UTF8
from streamd.runtime.aggregation.slot_check import MAX_NEW_SHARE
from tests.support.collector_rig import BEGIN, collecting
from tests.support.state_files import LIMITS


async def test_points_outside_the_limits_are_rejected_and_the_others_taken(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", 0, 1.0))
        result = await rig.send(
            ("a", "load", -601, 1.0), ("a", "load", 301, 1.0), ("a", "load", 1, 1.0), ("b", "load", math.inf, 1.0)
        )
        assert (result.taken, result.rejected) == (1, 3)
        assert sorted({error.code for error in result.errors}) == ["too_far_ahead", "too_old"]
        assert rig.collector.counts["test"].rejected == {"too_old": 1, "too_far_ahead": 2}
        assert "b" not in rig.state.directory.slots


async def test_a_name_that_is_no_server_costs_only_its_own_points(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        result = await rig.send(("x" * 257, "load", 0, 1.0), ("a", "load", 0, 1.0), ("\ud800", "load", 0, 1.0))
        assert (result.taken, result.rejected, result.ignored) == (1, 1, 1)
        assert {error.code for error in result.errors} == {"invalid_server"}
        assert rig.collector.counts["test"].ignored == {NOT_UTF8: 1}


async def test_a_new_server_gets_no_slot_of_servers_that_were_seen_lately(tmp_path: Path) -> None:
    with collecting(tmp_path, evict_after_seconds=3_600.0) as rig:
        for name in "abcd":
            await rig.send((name, "load", 0, 1.0))
        result = await rig.send(*((f"new-{number}", "load", 1, 1.0) for number in range(50)), ("a", "load", 1, 2.0))
        assert (result.taken, result.rejected) == (1, 50)
        assert {error.code for error in result.errors} == {"no_capacity"}
        assert sorted(rig.state.directory.slots) == list("abcd")
        for _ in range(3):
            rig.collector.close_overdue_rows()
            await asyncio.sleep(0)
        assert rig.collector.table.series == 4, "the series of the new servers are removed"


async def test_servers_that_never_get_a_slot_leave_nothing_behind(tmp_path: Path) -> None:
    with collecting(tmp_path, max_series=4) as rig:
        await rig.send(("x" * 257, "load", 0, 1.0), ("ahead", "load", 1e9, 1.0))
        batch = rig.collector.start_batch("test")
        batch.add_point(SourceSeries("load", {"host": "never committed"}), BEGIN, 1.0)
        assert rig.collector.table.series == 1, "the servers of the first body are forgotten with it"
        for _ in range(3):
            rig.collector.close_overdue_rows()
        assert (rig.collector.table.series, len(rig.collector.table.servers)) == (0, 0)
        assert (await rig.collector.commit(batch)).taken == 1, "its points may still come"
        assert rig.collector.table.series == 1


async def test_series_of_servers_without_a_slot_are_neither_kept_nor_mapped_again(tmp_path: Path) -> None:
    with collecting(tmp_path, evict_after_seconds=100.0) as rig:
        await rig.send(*((name, "load", 0, 1.0) for name in "abcd"))
        table, many = rig.collector.table, [f"new-{number}" for number in range(50)]
        for _ in range(2):
            result = await rig.send(*((name, metric, 1, 1.0) for name in many for metric in ("load", "cpu")))
            assert (result.taken, result.rejected, len(result.errors)) == (0, 100, 20)
            assert (table.series, len(table.servers), len(table.refused)) == (4, 4, 100)
        batch = rig.collector.start_batch("test")
        key = ("load", SourceSeries("load", {}).kind, ("host", "new-0"))
        assert batch.find(key) is not None, "so it is not mapped again"
        rig.wall += 101
        await rig.send(*((name, "load", 101, 1.0) for name in "abc"))
        assert rig.collector.start_batch("test").find(key) is None, "a slot can be had now"
        result = await rig.send(("new-0", "load", 2, 1.0), ("new-1", "load", 2, 1.0))
        assert (result.taken, result.rejected) == (1, 1)
        assert sorted(rig.state.directory.slots) == ["a", "b", "c", "new-0"]
        assert (table.series, len(table.refused)) == (4, 99)


async def test_a_sender_that_may_evict_gets_a_slot_for_series_that_were_refused_to_others(tmp_path: Path) -> None:
    with collecting(tmp_path, evict_after_seconds=100.0) as rig:
        await rig.send(*((name, "load", 0, 1.0) for name in "abcd"))
        assert (await rig.send(("new", "load", 1, 1.0))).rejected == 1
        every = dict.fromkeys(Scope, ("*",))
        batch = rig.collector.start_batch("test", Caller("ops", every))
        batch.add_point(SourceSeries("load", {"host": "new"}), BEGIN + 1, 1.0)
        assert (await rig.collector.commit(batch)).taken == 1
        assert "new" in rig.state.directory.slots


async def test_a_sender_learns_nothing_of_capacity_about_servers_that_it_may_not_write(tmp_path: Path) -> None:
    with collecting(tmp_path, evict_after_seconds=100.0) as rig:
        await rig.send(*((name, "load", 0, 1.0) for name in "abcd"), ("db-01", "load", 0, 1.0))
        batch = rig.collector.start_batch("test", Caller("web", {Scope.INGEST: ("web-*",)}))
        for name in ("a", "db-01", "db-02"):
            batch.add_point(SourceSeries("load", {"host": name}), BEGIN + 1, 1.0)
        result = await rig.collector.commit(batch)
        assert [error.code for error in result.errors] == ["forbidden"] * 3


async def test_a_body_of_ever_new_servers_takes_little_memory_before_it_is_refused(tmp_path: Path) -> None:
    with collecting(tmp_path, evict_after_seconds=100.0) as rig:
        batch = rig.collector.start_batch("test")
        for number in range(100):
            batch.add_point(SourceSeries("load", {"host": f"s{number}"}), BEGIN, 1.0)
        assert rig.collector.table.series == MAX_NEW_SHARE * LIMITS.capacity
        result = await rig.collector.commit(batch)
        assert (result.taken, result.rejected) == (LIMITS.capacity, 100 - LIMITS.capacity)
        assert rig.collector.table.series == LIMITS.capacity


async def test_the_points_of_a_step_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "MAX_STEP_POINTS", 3)
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        result = await rig.send(*(("a", "load", second, 1.0) for second in (0, 1, 2, 3, 4, 300)))
        assert (result.taken, result.rejected) == (4, 2)
        assert rig.collector.counts["test"].rejected == {"too_large": 2}
