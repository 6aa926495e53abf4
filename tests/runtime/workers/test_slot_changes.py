"""Tests `streamd/runtime/workers/slot_changes.py`: servers that come and go, and workers that know of it."""

import asyncio
from pathlib import Path

from tests.support.process_rig import NAMES, NOW, WINDOWS, find_owner_of, make_singles, run_processes, send_steps
from tests.support.state_files import rows_of


async def test_every_worker_knows_every_server(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0)
        slots = dict(rig.state.directory.slots)
        await rig.wait_until(lambda: all(worker.state.directory.slots == slots for worker in rig.all))
        late = await rig.start_worker(3 - 1)  # one that starts later reads them from the file
        assert late.state.directory.slots == slots


async def test_a_forgotten_server_is_new_when_it_comes_again(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, NAMES, 0, 1, 2)
        slot = rig.state.directory.slots["web-4"]
        await rig.service.others.release_slot(slot)
        assert "web-4" not in find_owner_of(rig, "web-4").state.directory.slots, "its owner writes it no more"
        rig.service.forget(slot)
        await rig.wait_until(lambda: all("web-4" not in worker.state.directory.slots for worker in rig.all))
        await send_steps(rig, ["web-4"], 5)
        assert list(rows_of(rig.state, "web-4")) == [NOW + 5]


async def test_the_owner_of_an_evicted_server_stops_before_its_slot_is_given_away(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        names = [f"srv-{number}" for number in range(WINDOWS.capacity)]
        await send_steps(rig, names, 0)
        await send_steps(rig, [f"new-{number}" for number in range(5)], 1)
        directory = rig.state.directory
        assert len(directory) == WINDOWS.capacity
        await rig.wait_until(lambda: all(worker.state.directory.slots == directory.slots for worker in rig.all))
        for name in directory.slots:
            assert list(rows_of(rig.state, name)) == [NOW + (1 if name.startswith("new") else 0)]


async def test_a_full_directory_refuses_new_servers_with_its_own_error(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await send_steps(rig, [f"srv-{number}" for number in range(WINDOWS.capacity)], 0)
        rig.state.directory.limit_last_seen(1e15)
        for slot in range(WINDOWS.capacity):
            rig.state.directory.touch(slot, 2e10)  # nobody is silent
        (error,) = await rig.all[1].ingest.singles.take(make_singles(rig, ["one-more"], 0))
        assert error is not None
        assert error.code == "no_capacity"
        assert rig.service.admission.refused == 1


async def test_a_server_is_evicted_though_its_owner_ends_before_it_releases_the_slot(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        names = [f"srv-{number}" for number in range(WINDOWS.capacity)]
        await send_steps(rig, names, 0)
        slot = rig.state.directory.slots["srv-3"]
        number = find_owner_of(rig, "srv-3").number
        rig.all[number].close()  # it does not answer any more
        released = asyncio.ensure_future(rig.service.others.release_slot(slot))
        await asyncio.sleep(0.01)
        assert not released.done()
        await rig.start_worker(number)  # its hello comes before the supervisor has told of the end of the former one
        await released
        await rig.wait_until(lambda: rig.all[number].gate.is_engine_up)
