"""Tests `streamd/runtime/aggregation/open_rows.py`: rows are written, amended and closed."""

from dataclasses import replace
from pathlib import Path

import pytest

from streamd.core.errors import StorageError
from streamd.core.mapping.series import SourceSeries
from streamd.runtime.aggregation import open_rows
from tests.support.collector_rig import BEGIN, STEP, CollectorRig, collecting
from tests.support.state_files import LIMITS, last_status, opened


async def test_a_row_is_the_mean_and_closes_with_the_next_step(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        result = await rig.send(("a", "load", 0, 1.0), ("a", "load", 60, 3.0))
        assert (result.taken, rig.due) == (2, [])
        await rig.send(("a", "load", 301, 9.0))
        assert rig.rows("a") == {0: {"mem": 2.0}}
        assert rig.due == [("a", 1)]


async def test_a_late_point_amends_its_row(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        await rig.send(("a", "load", 0, 1.0), ("a", "load", 301, 9.0))
        await rig.send(("a", "load", 60, 3.0), ("a", "load", 60, 3.0))
        assert rig.rows("a") == {0: {"mem": 2.0}}
        assert rig.due == [("a", 1)], "an amended row does not run again"


async def test_a_row_closes_when_its_grace_is_over(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", 0, 1.0))
        for seconds, rows in ((309, {}), (310, {0: {"mem": 1.0}})):
            rig.wall = BEGIN + seconds
            rig.collector.close_overdue_rows()
            assert rig.due == ([("a", 1)] if rows else [])
        assert rig.rows("a") == {0: {"mem": 1.0}}


async def test_a_row_of_the_past_closes_a_grace_after_its_first_point(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 100_000
        await rig.send(("a", "load", 0, 1.0))
        rig.collector.close_overdue_rows()
        assert rig.due == [], "the rest of a backlog may follow"
        rig.wall += 10
        rig.collector.close_overdue_rows()
        assert rig.due == [("a", 1)]


async def test_more_overdue_rows_than_a_turn_takes_are_closed_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_rows, "SLICE_ROWS", 2)
    with collecting(tmp_path) as rig:
        await rig.send(*((name, "load", 0, 1.0) for name in "abc"))
        rig.wall = BEGIN + 311
        rig.collector.close_overdue_rows()
        assert len(rig.due) == 2
        rig.collector.close_overdue_rows()
        assert len(rig.due) == 3


async def test_a_status_is_the_last_one_of_its_step(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        await rig.send(("a", "status", 0, 3.0), ("a", "load", 0, 1.0), ("a", "status", 9, 2.0), ("a", "load", 301, 1.0))
        assert last_status(rig.state, "a") == 2


async def test_series_that_have_ended_are_removed_in_time(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 100 * STEP
        batch = rig.collector.start_batch("test")
        batch.add_point(SourceSeries("load", {"host": "a", "pod": "gone"}), BEGIN, 1.0)
        await rig.collector.commit(batch)
        for step in range(20):
            await rig.send(("a", "load", step * STEP, float(step)))
        assert rig.collector.table.series == 1
        assert rig.rows("a")[18] == {"mem": 18.0}


async def test_a_row_that_its_grace_closed_stays_closed_after_a_restart(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", 0, 1.0))
        rig.wall = BEGIN + 311
        rig.collector.close_overdue_rows()
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 700
        rig.collector.close_overdue_rows()
        assert rig.due == []
        await rig.send(("a", "load", 1, 3.0))
        assert rig.rows("a") == {0: {"mem": 2.0}}, "a late point still amends it"
        assert rig.due == []


async def test_a_row_whose_step_ended_while_the_daemon_was_away_closes_after_its_grace(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", 0, 1.0))
    with opened(tmp_path, limits=replace(LIMITS, need=1)) as state:
        rig = CollectorRig(state)
        rig.wall = BEGIN + 400
        rig.collector.restore()
        rig.wall += 10
        rig.collector.close_overdue_rows()
        assert rig.due == [("a", 1)]
        rig.collector.close()


async def test_rows_that_are_written_at_start_are_left_to_the_service_to_mark_as_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        monkeypatch.setattr(rig.collector.open_rows, "add_points", lambda *_: None)  # killed before its rows
        await rig.send(("a", "load", 0, 1.0), ("a", "load", 301, 9.0))
        assert rig.rows("a") == {}
    with collecting(tmp_path, rig.wall) as rig:
        assert (rig.rows("a"), rig.due) == ({0: {"mem": 1.0}}, [])


async def test_no_row_is_written_while_the_disk_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full btrfs needs new space even for rows of known servers."""
    with collecting(tmp_path) as rig:
        await rig.send(("a", "load", 0, 1.0))
        rig.wall = BEGIN + 310
        with monkeypatch.context() as patch:
            patch.setattr(rig.state, "find_shortage", lambda: StorageError("full"))
            rig.collector.close_overdue_rows()
            with pytest.raises(StorageError):
                await rig.send(("a", "load", 301, 1.0))
        assert rig.due == []
        rig.collector.close_overdue_rows()
        assert rig.due == [("a", 1)]


async def test_silent_servers_give_their_space_to_others(tmp_path: Path) -> None:
    with collecting(tmp_path, max_series=2, max_points=2) as rig:
        await rig.send(("a", "load", 0, 1.0), ("a", "cpu", 0, 1.0))
        rig.wall = BEGIN + 6 * STEP + 20
        rig.collector.close_overdue_rows()
        rig.collector.close_overdue_rows()
        assert rig.collector.points_kept == 0
        rig.collector.check_open()
        assert (await rig.send(("b", "load", 6 * STEP, 1.0), ("b", "cpu", 6 * STEP, 1.0))).taken == 2
        result = await rig.send(("a", "load", 1, 9.0), ("a", "load", STEP, 9.0))
        assert result.rejected + result.ignored == 2
        assert rig.rows("a") == {0: {"mem": 1.0}}, "it is final: none of its points is left"
