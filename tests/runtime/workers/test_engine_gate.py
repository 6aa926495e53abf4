"""Tests `streamd/runtime/workers/engine_gate.py`: workers that start, end and are asked for their counts."""

from pathlib import Path

from tests.support.process_rig import NAMES, run_processes, send_steps


async def test_a_worker_that_was_heard_of_before_the_end_of_the_former_one_stays(tmp_path: Path) -> None:
    """Starts and ends are told on two ways: an engine process that was stopped reads them in any order."""
    async with run_processes(tmp_path) as rig:
        former = rig.all[1].run
        rig.all[1].close()
        await rig.start_worker(1)
        rig.engine.lose(1, former)
        for worker in (rig.all[0], rig.all[2]):
            worker.gate.lose(1, former)
        assert rig.service.others.list_away_workers() == []
        await rig.wait_until(lambda: not any(worker.gate.away for worker in rig.all))
        await send_steps(rig, NAMES, 0)
        slots = rig.state.directory.slots
        await rig.wait_until(lambda: rig.all[1].state.directory.slots == slots)


async def test_workers_that_are_away_are_listed(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        rig.stop_worker(2)
        assert rig.service.others.list_away_workers() == [2]
        rig.stop_engine()
        rig.start_engine(has_workers=True)
        await rig.start_worker(2)
        assert rig.service.others.list_away_workers() == []


async def test_the_counts_of_all_workers_are_asked_for(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        for worker in rig.all:
            worker.gate.count = lambda number=worker.number: (b"text", {"number": number})  # type: ignore[misc]
        counts = await rig.service.others.ask_counts()
        assert sorted(each.status["number"] for each in counts) == [0, 1, 2]
        rig.stop_worker(1)
        assert sorted(each.status["number"] for each in await rig.service.others.ask_counts()) == [0, 2]
