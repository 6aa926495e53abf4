"""The faults of a chaos run: each begins, lasts as long as it must, and is undone."""

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

import aiohttp

from benchmarks.chaos.child import LANES
from benchmarks.chaos.journal import Journal
from benchmarks.chaos.model import OFFSETS
from benchmarks.chaos.orders import LaneOrder, LaneOrders, read_orders, write_orders
from benchmarks.chaos.process import ADMIN_TOKEN, ChaosProcess, SmallDisk, find_faketime
from benchmarks.chaos.sender import ChaosSender
from benchmarks.chaos.subscriber import ChaosSubscriber
from benchmarks.chaos.tokens import ChaosTokens

TORN_SHARES = (0.05, 0.5, 0.95)
CLOCK_SHIFTS_SECONDS = (3, -3, 3_600, -3_600, 5 * 86_400, -5 * 86_400, -60 * 86_400)
"""The last one puts every sample too far ahead of the daemon's clock until it is right again."""

RESTART_GAP_SECONDS = 0.5
REVOKED_SECONDS = 30.0
"""The time within which the connections of a revoked token must end; the daemon reads the file every few seconds, and
other faults pause it.
"""


class RunParts(Protocol):
    """What faults act on."""

    process: ChaosProcess
    disk: SmallDisk
    orders: Path
    senders: list[ChaosSender]
    subscribers: list[ChaosSubscriber]
    tokens: ChaosTokens
    journal: Journal
    random: Random

    async def check_state(self) -> None:
        """Check what the daemon holds after a restart."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault."""

    name: str
    apply: Callable[[RunParts, float], Awaitable[None]]
    """Makes the fault for about so many seconds, and undoes it."""
    weight: int = 2
    """How often it is drawn, relative to the others."""
    needs: Callable[[RunParts], bool] = field(default=lambda run: True)
    """Whether this machine can make it."""


# ---------------------------------------------------------------- the process
async def kill(run: RunParts, seconds: float) -> None:
    """Kill the daemon and start it again."""
    run.process.kill()
    await asyncio.sleep(run.random.uniform(0.0, RESTART_GAP_SECONDS))
    await run.process.start()
    await run.check_state()


async def restart(run: RunParts, seconds: float) -> None:
    """Let the daemon drain and start it again."""
    status = await run.process.stop()
    if status != 0:
        run.journal.report("bad_exit", f"the daemon ended with {status} after SIGTERM, expected 0")
    await run.process.start()
    await run.check_state()


async def pause(run: RunParts, seconds: float) -> None:
    """Stop the process for a while, as a virtual machine that is moved."""
    run.process.signal(signal.SIGSTOP)
    await asyncio.sleep(min(seconds, 2.0))
    run.process.signal(signal.SIGCONT)


# ---------------------------------------------------------------- lanes
def _make_lane_fault(order: LaneOrder) -> Callable[[RunParts, float], Awaitable[None]]:
    async def apply(run: RunParts, seconds: float) -> None:
        _change_orders(run, {str(run.random.randrange(LANES)): order})
        await asyncio.sleep(seconds)
        _change_orders(run, {})

    return apply


async def lose_device(run: RunParts, seconds: float) -> None:
    """Lose all lanes, and let none be made for a while."""
    _change_orders(run, {}, device_lost=True)
    await asyncio.sleep(seconds)
    _change_orders(run, {})


async def slow_lanes(run: RunParts, seconds: float) -> None:
    """Let each batch take long, so that rows are superseded."""
    _change_orders(run, {}, latency_seconds=0.3)
    await asyncio.sleep(seconds)
    _change_orders(run, {})


def _change_orders(
    run: RunParts, lanes: dict[str, LaneOrder], *, device_lost: bool = False, latency_seconds: float = 0.0
) -> None:
    write_orders(run.orders, LaneOrders(lanes=lanes, device_lost=device_lost, latency_seconds=latency_seconds))


# ---------------------------------------------------------------- peers
async def tear_frames(run: RunParts, seconds: float) -> None:
    """Let senders break connections in the middle of a frame."""
    for sender in run.random.sample(run.senders, max(1, len(run.senders) // 2)):
        sender.torn_shares = list(TORN_SHARES)


async def stall_subscriber(run: RunParts, seconds: float) -> None:
    """Let one subscriber read nothing for a while."""
    subscriber = run.random.choice(run.subscribers)
    subscriber.reads.clear()
    await asyncio.sleep(seconds)
    subscriber.reads.set()


# ---------------------------------------------------------------- the machine
async def fill_disk(run: RunParts, seconds: float) -> None:
    """Fill the disk of the state for a while."""
    await asyncio.to_thread(run.disk.fill)
    await asyncio.sleep(seconds)
    run.disk.free()


async def shift_clock(run: RunParts, seconds: float) -> None:
    """Let the daemon's clock be wrong for a while."""
    run.process.shift_clock(run.random.choice(CLOCK_SHIFTS_SECONDS))
    await asyncio.sleep(seconds)
    run.process.shift_clock(0)


# ---------------------------------------------------------------- changes
_promotions = itertools.count(1)


async def promote(run: RunParts, seconds: float) -> None:
    """Promote the next version over HTTP; a refusal because of another fault is no finding."""
    version = list(OFFSETS)[next(_promotions) % len(OFFSETS)]
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=30.0)) as session,
            session.post(f"{run.process.url}/v1/engines/promote", json={"version": version}) as response,
        ):
            run.journal.write("promoted", version=version, status=response.status)
            run.journal.count(f"promotions {response.status}")
    except (aiohttp.ClientError, OSError, TimeoutError):
        run.journal.count("promotions lost")


async def reload(run: RunParts, seconds: float) -> None:
    """Let the daemon read its settings again."""
    if run.process.pid is not None:
        run.process.signal(signal.SIGHUP)


async def revoke_token(run: RunParts, seconds: float) -> None:
    """Revoke the token of a guest: its connection must end and none open, until the token is there again."""
    guest = next(each for each in run.subscribers if each.plan.name == "guest")
    life, was_connected = run.process.lives, guest.is_connected
    guest.ended.clear()
    began = time.monotonic()
    run.tokens.revoke_guest()
    try:
        if was_connected:
            async with asyncio.timeout(REVOKED_SECONDS):
                await guest.ended.wait()
    except TimeoutError:
        if run.process.lives == life and run.process.pid is not None:
            run.journal.report("not_revoked", f"a connection goes on {REVOKED_SECONDS:g} s after its token was revoked")
    run.journal.write("revoked", seconds=round(time.monotonic() - began, 2), was_connected=was_connected)
    run.journal.count("tokens_revoked")
    await asyncio.sleep(min(seconds, 1.0))
    run.tokens.restore_guest()


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill", kill, weight=3),
        Fault("restart", restart),
        Fault("pause", pause, weight=1),
        Fault("lane_hangs", _make_lane_fault("hang")),
        Fault("lane_lost", _make_lane_fault("lose")),
        Fault("batches_fail", _make_lane_fault("fail")),
        Fault("device_lost", lose_device),
        Fault("lanes_slow", slow_lanes),
        Fault("torn_frames", tear_frames, weight=4),
        Fault("stalled_subscriber", stall_subscriber, weight=3),
        Fault("disk_full", fill_disk, needs=lambda run: run.disk.is_mounted),
        Fault("clock_shifted", shift_clock, needs=lambda run: find_faketime() is not None),
        Fault("promotion", promote, weight=3),
        Fault("reload", reload, weight=1),
        Fault("token_revoked", revoke_token, needs=lambda run: run.tokens.are_used),
    )
}
"""All faults, by name."""

EXCLUSIVE = (
    {"kill", "restart", "pause"},
    {"lane_hangs", "lane_lost", "batches_fail", "device_lost", "lanes_slow"},
    {"promotion", "reload"},
)
"""Faults of which only one happens at a time; each other kind goes with all, and not with itself."""


def list_conflicts(name: str) -> set[str]:
    """Return the faults that may not happen at the same time as this one."""
    return next((each for each in EXCLUSIVE if name in each), {name})


def orders_are_clear(path: Path) -> bool:
    """Whether all lanes are healthy by order."""
    return read_orders(path) == LaneOrders()
