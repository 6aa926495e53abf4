"""The faults of a daemon of several processes: one of them is killed, and the others must go on."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

from benchmarks.chaos.faults import Fault, RunParts
from streamd.runtime.workers.ownership import find_owning_worker
from tests.support.daemon_parts import find_parts

RESTART_SECONDS = 30.0
"""The time within which a killed process must have a successor, and the daemon must be ready."""

QUIET_SECONDS = 1.0
"""The others may acknowledge nothing for so long, since senders connect again."""


def count_workers(run: RunParts) -> int:
    """Return the number of workers of a run."""
    return int(run.process.settings.get("WORKERS", "1"))


def make_kill(name: str) -> Callable[[RunParts, float], Awaitable[None]]:
    """Return a fault that kills the process `name` of a daemon."""

    async def kill(run: RunParts, seconds: float) -> None:
        killed = find_parts(run.process.pid or 0).get(name)
        if killed is None:
            run.journal.report("not_running", f"{name} does not run when it is to be killed")
            return
        began = time.monotonic()
        os.kill(killed, signal.SIGKILL)
        before, acked_after = _count_others(run, name), None
        while find_parts(run.process.pid or 0).get(name, killed) == killed or not await run.process.is_ready_now():
            if acked_after is None and _count_others(run, name) > before:
                acked_after = time.monotonic() - began
            if time.monotonic() - began > RESTART_SECONDS:
                run.journal.report("not_restarted", f"{name}: no successor {RESTART_SECONDS:g} s after its end")
                return
            await asyncio.sleep(0.02)
        away = time.monotonic() - began
        if acked_after is None and _count_others(run, name) > before:
            acked_after = away
        if acked_after is None and away > QUIET_SECONDS:
            run.journal.report("others_stopped", f"{name} was away for {away:.2f} s, and no other row was acknowledged")
        run.journal.write("part_killed", part=name, away_seconds=round(away, 2), others_acked_after=acked_after)
        await asyncio.sleep(seconds)
        await run.check_state()

    return kill


def _count_others(run: RunParts, killed: str) -> int:
    """Return the single samples that were acknowledged for servers that a killed process does not own."""
    workers = count_workers(run)
    return sum(
        count
        for sender in run.senders
        for server, count in sender.link.acked.items()
        if f"worker {find_owning_worker(server, workers)}" != killed
    )


PART_FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill_worker_0", make_kill("worker 0"), needs=lambda run: count_workers(run) > 1),
        Fault("kill_worker_1", make_kill("worker 1"), needs=lambda run: count_workers(run) > 1),
        Fault("kill_engine", make_kill("engine"), needs=lambda run: count_workers(run) > 1),
    )
}
"""The faults of a daemon of several processes, by name."""
