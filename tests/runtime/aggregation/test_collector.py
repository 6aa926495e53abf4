"""Tests `streamd/runtime/aggregation/collector.py`: points in, rows out, and what survives a restart."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.errors import DrainingError, StorageError, TooBusyError
from streamd.core.mapping.mapping import NO_RULE, NO_SERVER
from streamd.core.mapping.series import Kind, SourceSeries
from streamd.runtime.aggregation import slicing
from streamd.runtime.aggregation.series_table import TOO_MANY_SERIES
from tests.support.collector_rig import BEGIN, STEP, CollectorRig, Sent, collecting
from tests.support.state_files import LIMITS, opened, rows_of


async def test_a_body_of_many_points_may_have_them_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slicing, "COMMIT_SLICE_POINTS", 5)
    with collecting(tmp_path, wall=BEGIN + 100 * STEP) as rig:
        by_series = [("a", metric, step * STEP, float(step)) for metric in ("load", "cpu") for step in range(8, -1, -1)]
        result = await rig.send(*by_series)
        assert (result.taken, result.rejected) == (18, 0)
        assert rig.rows("a") == {step: {"mem": float(step), "cpu": pytest.approx(1 / STEP)} for step in range(8)}


async def test_a_backlog_in_one_body_makes_all_its_rows(tmp_path: Path) -> None:
    with collecting(tmp_path, wall=BEGIN + 100 * STEP) as rig:
        await rig.send(("a", "load", 0, 0.0))
        await rig.send(*(("a", "load", step * STEP, float(step)) for step in range(1, 9)))
        assert rig.rows("a") == {step: {"mem": float(step)} for step in range(8)}


async def test_servers_that_were_evicted_leave_nothing_behind(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        servers = []
        for number in range(1_000):
            await rig.send((f"server-{number}", "load", 0, 1.0))
            servers += [weakref.ref(each) for each in rig.collector.table.servers.values()][-1:]
        gc.collect()
        assert rig.collector.table.series == 4
        assert sum(each() is not None for each in servers) < 200


async def test_what_is_not_used_is_counted_with_its_reason(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        result = await rig.send(("a", "disk", 0, 1.0), ("", "load", 0, 1.0), ("", "load", 1, 1.0))
        assert (result.taken, result.ignored, result.without_server) == (0, 3, 2)
        assert rig.collector.counts["test"].ignored == {NO_RULE: 1, NO_SERVER: 2}
        assert len(rig.state.directory) == 0


async def test_the_number_of_series_is_bounded(tmp_path: Path) -> None:
    with collecting(tmp_path, max_series=2) as rig:
        result = await rig.send(("a", "load", 0, 1.0), ("b", "load", 0, 1.0), ("c", "load", 0, 1.0))
        assert (result.taken, result.ignored) == (2, 1)
        assert rig.collector.counts["test"].ignored == {TOO_MANY_SERIES: 1}
        rig.forget(rig.state.directory.slots["a"])
        result = await rig.send(("c", "load", 0, 1.0))
        assert result.taken == 1, "there is room again"


async def test_too_many_points_are_said_before_a_body_is_read(tmp_path: Path) -> None:
    with collecting(tmp_path, max_points=2) as rig:
        rig.collector.check_open()
        await rig.send(("a", "load", 0, 1.0), ("a", "load", 1, 1.0))
        with pytest.raises(TooBusyError, match="max_points"):
            rig.collector.check_open()
        rig.wall = BEGIN + 100_000
        await rig.send(("a", "load", 99_999, 1.0))
        rig.collector.check_open()
        rig.collector.is_draining = True
        with pytest.raises(DrainingError):
            rig.collector.check_open()


async def test_a_server_that_is_evicted_takes_its_points_with_it(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 200
        for name in "abcd":
            rig.wall += 1
            await rig.send((name, "load", 0, 1.0))
        rig.wall += 1
        await rig.send(("e", "load", 1, 5.0))
        assert "a" not in rig.state.directory.slots
        assert rig.collector.points_kept == 4
        rig.wall += 1
        await rig.send(("a", "load", 2, 7.0), ("a", "load", 301, 7.0))
        assert rig.rows("a") == {0: {"mem": 7.0}}, "what it sent before was forgotten"


async def test_the_same_series_under_two_protocols_is_one(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", 0, 1.0))
        await rig.send(("a", "load", 0, 1.0), ("a", "load", 1, 3.0), protocol="other")
        rig.wall = BEGIN + 310
        await rig.send(("a", "load", 300, 9.0))
        assert rig.rows("a") == {0: {"mem": 2.0}}
        assert rig.collector.table.series == 1


async def test_a_kind_that_the_protocol_says_wins(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        batch = rig.collector.start_batch("test")
        for seconds in (0, 10, 301):
            batch.add_point(SourceSeries("cpu", {"host": "a"}, Kind.GAUGE), BEGIN + seconds, 6.0)
        await rig.collector.commit(batch)
        assert rig.rows("a") == {0: {"cpu": 6.0}}


async def test_half_filled_rows_survive_a_restart(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "cpu", -60, 0.0), ("a", "cpu", 0, 60.0), ("a", "load", 0, 1.0))
        rig.wall = BEGIN + 60
        await rig.send(("a", "cpu", 60, 120.0), ("a", "load", 60, 2.0), ("b", "load", 60, 4.0))
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        assert rig.collector.restored_points == 6
        await rig.send(("a", "cpu", 300, 600.0), ("a", "load", 300, 9.0), ("b", "load", 300, 9.0))
        assert rig.rows("a")[0] == {"cpu": pytest.approx(1.8), "mem": 1.5}
        assert rig.rows("b") == {0: {"mem": 4.0}}


async def test_half_filled_rows_survive_however_long_the_daemon_is_away_and_further_restarts(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", 0, 1.0), ("b", "load", 0, 1.0))
    for away in (86_400, 2 * 86_400):
        with collecting(tmp_path, wall=BEGIN + away) as rig:
            await rig.send(("b", "load", away, 1.0))
    with collecting(tmp_path, wall=BEGIN + 3 * 86_400) as rig:
        await rig.send(("a", "load", 60, 3.0), ("a", "load", 301, 9.0))
        assert rig.rows("a") == {0: {"mem": 2.0}}


async def test_a_log_of_which_no_row_needs_a_point_is_deleted_at_start(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 10 * STEP
        await rig.send(("a", "load", 0, 1.0))
        rig.wall += STEP
        await rig.send(("a", "load", 10 * STEP, 1.0))
    with collecting(tmp_path, wall=BEGIN + 11 * STEP) as rig:
        assert [path.name for path in (tmp_path / "points").iterdir()] == ["points-000000000002.log"]
        rig.state.forget(rig.state.directory.slots["a"])
    with collecting(tmp_path, wall=BEGIN + 11 * STEP) as rig:
        assert list((tmp_path / "points").iterdir()) == []


async def test_what_was_sent_before_a_server_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", 0, 100.0))
        slot = rig.state.directory.slots["a"]
        rig.state.forget(slot)
        rig.forget(slot)
        await rig.send(("a", "load", 1, 1.0))
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        await rig.send(("a", "load", 300, 9.0))
        assert rig.rows("a") == {0: {"mem": 1.0}}


async def test_a_full_disk_refuses_a_body_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(records: object) -> None:
        raise StorageError("the disk is full")

    with collecting(tmp_path) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(rig.collector.point_log, "append", refuse)
            with pytest.raises(StorageError):
                await rig.send(("a", "load", 0, 100.0))
        assert rig.collector.counts["test"].refused == {"storage": 1}
        await rig.send(("a", "load", 1, 1.0))
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        await rig.send(("a", "load", 300, 9.0))
        assert rig.rows("a") == {0: {"mem": 1.0}}


bodies = st.lists(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["cpu", "load"]), st.integers(0, 1_500), st.integers(0, 99)),
        max_size=6,
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(bodies, st.sets(st.integers(0, 11)))
async def test_restarts_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    bodies: list[list[tuple[str, str, int, int]]],
    restarts: set[int],
) -> None:
    results = []
    for ends in (restarts, set[int]()):
        folder = tmp_path_factory.mktemp("state")
        sent = [[(host, metric, float(at), float(value)) for host, metric, at, value in body] for body in bodies]
        with opened(folder, limits=replace(LIMITS, need=1)) as state:
            rig = CollectorRig(state)
            rig.wall = BEGIN + 1_500
            for number, body in enumerate(sent):
                await rig.send(*body)
                if number in ends:
                    rig.collector.close()
                    rig = CollectorRig(state)
                    rig.wall = BEGIN + 1_500
                    rig.collector.restore()
            rig.collector.close()
            results.append({name: rows_of(state, name) for name in state.directory.slots})
    assert results[0] == results[1]


# ---------------------------------------------------------------- what happens between decoding and taking
async def test_a_series_that_begins_late_in_a_backlog_is_not_mistaken_for_another(tmp_path: Path) -> None:
    """The rows before it remove series without points, and so its index changes."""
    with collecting(tmp_path, wall=BEGIN + 100 * STEP) as rig:
        sent: list[Sent] = []
        for step in range(40):
            sent += [("a", "load", step * STEP + second, 1.0) for second in range(100)]
            sent += [("a", "cpu", step * STEP + 3.0 * second, 0.0) for second in range(100) if step >= 30]
        result = await rig.send(*sent)
        assert (result.taken, result.rejected) == (5_000, 0)
        assert rig.rows("a")[32] == {"mem": 1.0, "cpu": 0.0}


async def test_a_series_that_ended_while_its_point_waited_is_the_same_again(tmp_path: Path) -> None:
    with collecting(tmp_path, wall=BEGIN + 100 * STEP) as rig:
        await rig.send(("a", "cpu", 0, 0.0), ("a", "load", 0, 1.0))
        waiting = rig.collector.start_batch("test")
        for seconds, value in ((19 * STEP, 0.0), (19 * STEP + 10, 20.0)):
            waiting.add_point(SourceSeries("cpu", {"host": "a"}), BEGIN + seconds, value)
        for step in range(1, 20):
            await rig.send(("a", "load", step * STEP, 5.0))
        assert rig.collector.table.series == 1
        await rig.collector.commit(waiting)
        assert rig.collector.table.series == 2
        await rig.send(("a", "load", 20 * STEP, 5.0), ("a", "cpu", 20 * STEP - 1, 598.0))
        assert rig.rows("a")[19] == {"mem": 5.0, "cpu": pytest.approx(2.0)}


async def test_points_that_waited_while_their_server_was_deleted_join_the_new_one(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", 0, 1.0))
        waiting = rig.collector.start_batch("test")
        waiting.add_point(SourceSeries("load", {"host": "a"}), BEGIN + 1, 3.0)
        slot = rig.state.directory.slots["a"]
        rig.state.forget(slot)
        rig.forget(slot)
        await rig.send(("a", "load", 2, 5.0))
        await rig.collector.commit(waiting)
        await rig.send(("a", "load", 3, 7.0))
        assert (rig.collector.table.series, rig.collector.points_kept) == (1, 3)
        rig.wall = BEGIN + 310
        await rig.send(("a", "load", 301, 9.0))
        assert rig.rows("a") == {0: {"mem": 5.0}}
    with collecting(tmp_path, wall=BEGIN + 310) as rig:
        assert rig.collector.points_kept == 4


async def test_a_server_that_is_evicted_by_its_own_body_writes_no_row_for_another(tmp_path: Path) -> None:
    with collecting(tmp_path, wall=BEGIN + 100) as rig:
        for name in "abcd":
            rig.wall += 1
            await rig.send((name, "load", 0, 100.0))
        rig.wall = BEGIN + 310
        result = await rig.send(*((name, "load", 300, 1.0) for name in "aefghi"))
        assert (result.taken, result.rejected) == (6, 0)
        present = sorted(rig.state.directory.slots)
        assert "a" not in present
        assert [rig.rows(name) for name in present] == [{}] * 4
        assert rig.collector.points_kept == rig.collector.table.series == 4


# ---------------------------------------------------------------- bounds


async def test_a_server_with_many_series_makes_few_rows_in_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slicing, "SLICE_WORK", 120)
    turns: list[int] = []
    with collecting(tmp_path, wall=BEGIN + 100 * STEP) as rig:
        take = rig.collector._take_slice

        def count_rows(*work: object) -> None:
            before = rig.collector.rows
            take(*work)  # type: ignore[arg-type]
            turns.append(rig.collector.rows - before)

        monkeypatch.setattr(rig.collector, "_take_slice", count_rows)
        await rig.send(*(("a", "load", step * STEP, float(step)) for step in range(9, -1, -1)))
        assert (sum(turns), max(turns)) == (9, 2)
        assert rig.rows("a") == {step: {"mem": float(step)} for step in range(1, 9)}


async def test_the_kind_that_was_stated_last_is_restored(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        for key, kind, seconds, value in ((1, Kind.COUNTER, 0, 5.0), (2, Kind.GAUGE, 1, 7.0), (2, Kind.GAUGE, 2, 9.0)):
            batch = rig.collector.start_batch("test")
            entry = batch.find(key) or batch.bind(key, SourceSeries("load", {"host": "a"}, kind))
            batch.add(entry, BEGIN + seconds, value)
            await rig.collector.commit(batch)
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 330
        rig.collector.close_overdue_rows()
        assert rig.rows("a") == {0: {"mem": 7.0}}


async def test_a_backlog_s_old_steps_are_not_kept_while_the_log_is_read(tmp_path: Path) -> None:
    with collecting(tmp_path, wall=BEGIN + 100 * STEP) as rig:
        await rig.send(*(("a", "load", step * STEP + second, 1.0) for step in range(50) for second in range(300)))
    with collecting(tmp_path, wall=BEGIN + 100 * STEP) as rig:
        assert rig.collector.restored_points == 15_000
        assert rig.collector.points_kept == 4 * 300
        await rig.send(("a", "load", 50 * STEP, 1.0))
        assert rig.rows("a")[49] == {"mem": 1.0}


@pytest.mark.parametrize("stepped", [7_200.0, -7_200.0])
async def test_a_clock_that_is_set_makes_no_segment_of_the_log_old(tmp_path: Path, stepped: float) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", -7_200, 1.0), ("b", "load", -7_200, 1.0))
        rig.stepped = stepped
        assert (await rig.send(("b", "load", -7_199, 3.0))).taken == 1
        assert len(list((tmp_path / "points").iterdir())) == 1
        rig.wall += STEP
        assert (await rig.send(("b", "load", -7_198, 3.0))).taken == 1
        assert len(list((tmp_path / "points").iterdir())) == 2
    with collecting(tmp_path) as rig:
        assert rig.collector.points_kept == 4
