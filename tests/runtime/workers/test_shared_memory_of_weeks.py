"""Tests `streamd/core/state/memory.py` between processes: owners write means, and the engine process reads them."""

from pathlib import Path

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import MEMORY_LENGTH
from tests.support.contracts import make_contract
from tests.support.process_rig import NAMES, NOW, ProcessRig, find_owner_of, run_processes, send_steps

CONTRACT = make_contract(context_length=36)
"""Steps of five minutes, of which a window has three hours: means may wait."""
FIRST = -(NOW % 12)
"""The first step of an hour, counted from the present one."""


def read_engine(rig: ProcessRig, name: str, step: int) -> Float32:
    """Return the memory of a server in the engine process, which writes none."""
    memory, slot = rig.state.memory, rig.state.directory.slots[name]
    assert memory is not None
    found: Float32 = np.zeros((1, MEMORY_LENGTH, 3), np.float32)
    memory.gather(np.array([slot]), np.array([NOW + step]), found)
    return found.reshape(MEMORY_LENGTH, 3)


async def test_the_engine_process_finds_the_means_of_each_owner_when_a_server_is_due(tmp_path: Path) -> None:
    async with run_processes(tmp_path, contract=CONTRACT) as rig:
        await send_steps(rig, NAMES, *range(FIRST, FIRST + 12))
        slots = set(rig.state.directory.slots.values())
        await rig.wait_until(lambda: slots <= set(rig.service.scheduler.due))
        for name in NAMES:
            found = read_engine(rig, name, FIRST + 11)
            np.testing.assert_array_equal(found[-1], [1.0, 2.0, FIRST + 5.5])
            assert np.isnan(found[:-1]).all()


async def test_a_server_that_gets_a_slot_anew_has_no_mean_of_the_former_one(tmp_path: Path) -> None:
    async with run_processes(tmp_path, contract=CONTRACT) as rig:
        await send_steps(rig, NAMES, *range(FIRST, FIRST + 12))
        slot = rig.state.directory.slots["web-3"]
        await rig.engine.release_slot(slot)
        rig.state.forget(slot)
        rig.service.owners.forget(slot)
        await rig.wait_until(lambda: "web-3" not in find_owner_of(rig, "web-3").state.directory.slots)
        await send_steps(rig, ["web-3"], FIRST + 12)
        assert np.isnan(read_engine(rig, "web-3", FIRST + 12)).all()
