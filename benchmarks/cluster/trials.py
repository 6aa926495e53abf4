"""The faults of a cluster: each is made once under load, undone, and leaves a cluster that is whole again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from benchmarks.chaos.journal import Journal
from benchmarks.chaos.process import SmallDisk, find_faketime
from benchmarks.cluster.nodes import ClusterDaemon
from benchmarks.cluster.readers import ForecastLedger
from benchmarks.cluster.site import Site

CUT_SECONDS = 20.0
AWAY_SECONDS = 3.0
"""How long a process that was killed stays away."""

LEASE_NEWS_SECONDS = 1.0
"""Within which this process hears of a lease; shorter than a lease, so that a handover is told from an expiry."""

CLOCK_SECONDS = 20.0
DISK_SECONDS = 10.0
TOLD_SECONDS = 30.0
STANDING_CLOCK = "2026-01-01 00:00:00"


class TrialParts(Protocol):
    """What faults act on."""

    site: Site
    ledger: ForecastLedger
    journal: Journal
    random: Random


@dataclass
class TrialNotes:
    """What a fault noted besides the times of forecasts."""

    values: dict[str, Any] = field(default_factory=dict)


Apply = Callable[[TrialParts, TrialNotes], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class ClusterFault:
    """One kind of fault; `needs` is the reason for which a site cannot have it, if any."""

    name: str
    apply: Apply
    needs: Callable[[TrialParts], str | None] = lambda parts: None


def _choose_node(parts: TrialParts) -> ClusterDaemon:
    return parts.random.choice(parts.site.nodes)


# ---------------------------------------------------------------- nodes
async def kill_node(parts: TrialParts, notes: TrialNotes) -> None:
    """Kill a node, and start it again when others have taken over its shards."""
    node = _choose_node(parts)
    parts.ledger.begin_trial(parts.site.leases.list_shards(node.name))
    node.program.kill()
    await wait_taken_over(parts, notes)
    await asyncio.sleep(AWAY_SECONDS)
    await node.start_and_wait()


async def cut_node(parts: TrialParts, notes: TrialNotes) -> None:
    """Cut a node off for a while: from all, or from NATS alone, so that its readers still reach it."""
    node = _choose_node(parts)
    from_nats_only = parts.random.random() < 0.5
    parts.ledger.begin_trial(parts.site.leases.list_shards(node.name))
    began = time.monotonic()
    parts.site.cut(node, from_nats_only=from_nats_only)
    kind = "NATS" if from_nats_only else "all"
    notes.values["from"] = kind if parts.site.network.can_cut else "all (paused)"
    await wait_taken_over(parts, notes)
    await asyncio.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - began)))
    parts.site.join(node)
    await node.wait_ready()


async def roll_nodes(parts: TrialParts, notes: TrialNotes) -> None:
    """Stop and start every node, one after the other, as for an upgrade."""
    parts.ledger.begin_trial()
    stops = []
    for node in parts.site.nodes:
        began = time.monotonic()
        status = await node.program.stop()
        stops.append(round(time.monotonic() - began, 2))
        if status != 0:
            parts.journal.report("bad_exit", f"{node.name} ended with {status} after SIGTERM, expected 0")
        await asyncio.sleep(LEASE_NEWS_SECONDS)
        if left := parts.site.leases.list_shards(node.name):
            parts.journal.report("not_handed_over", f"{node.name} ended with {len(left)} shards")
        await node.start_and_wait()
        await parts.site.wait_owned({each.name for each in parts.site.nodes})
    notes.values["stop_seconds"] = stops


# ---------------------------------------------------------------- NATS
async def kill_nats_leader(parts: TrialParts, notes: TrialNotes) -> None:
    """Kill the server of NATS that leads, and start it again."""
    leader = await parts.site.nats.find_leader()
    assert leader is not None, "the servers have a leader between faults"
    parts.ledger.begin_trial()
    parts.site.nats.kill(leader)
    await asyncio.sleep(15.0)
    await parts.site.nats.start(leader)


async def restart_nats(parts: TrialParts, notes: TrialNotes) -> None:
    """Kill all servers of NATS, and start them again."""
    parts.ledger.begin_trial()
    parts.site.nats.kill()
    await asyncio.sleep(AWAY_SECONDS)
    began = time.monotonic()
    await parts.site.nats.start()
    notes.values["leader_after_seconds"] = round(time.monotonic() - began, 2)


# ---------------------------------------------------------------- clocks and disks
def _make_clock_fault(setting: str) -> Apply:
    async def apply(parts: TrialParts, notes: TrialNotes) -> None:
        node = _choose_node(parts)
        await node.program.stop()
        node.has_false_clock = True
        node.set_clock("+0")
        await node.start_and_wait()
        await parts.site.wait_owned()
        parts.ledger.begin_trial(parts.site.leases.list_shards(node.name))
        node.set_clock(setting)
        await _wait_told(parts, node, "clock", notes)
        await asyncio.sleep(CLOCK_SECONDS)
        notes.values["shards_left"] = len(parts.site.leases.list_shards(node.name))
        node.has_false_clock = False
        await node.program.stop()
        await node.start_and_wait()

    return apply


async def fill_disk(parts: TrialParts, notes: TrialNotes) -> None:
    """Fill the disk of a node's state for a while."""
    node = _choose_node(parts)
    await node.program.stop()
    if node.disk is None:
        node.disk = SmallDisk(node.state_dir.with_name(f"{node.name}-disk"))
        node.disk.mount()
        parts.site.disks.append(node.disk)
    await node.start_and_wait()
    await parts.site.wait_owned()
    parts.ledger.begin_trial(parts.site.leases.list_shards(node.name))
    await asyncio.to_thread(node.disk.fill)
    await _wait_told(parts, node, "storage", notes)
    await asyncio.sleep(DISK_SECONDS)
    notes.values["shards_left"] = len(parts.site.leases.list_shards(node.name))
    node.disk.free()


async def _wait_told(parts: TrialParts, node: ClusterDaemon, problem: str, notes: TrialNotes) -> None:
    """Wait until a node says in its readiness what is wrong with it."""
    began = time.monotonic()
    while time.monotonic() - began < TOLD_SECONDS:
        status, answer = await node.read("/readyz")
        said = [*answer.get("degraded", ()), str(answer.get("status", ""))]
        if any(problem in each for each in said):
            notes.values["told_after_seconds"] = round(time.monotonic() - began, 2)
            notes.values["readyz"] = status
            return
        await asyncio.sleep(0.2)
    parts.journal.report("not_told", f"{node.name} says {answer} {TOLD_SECONDS:g} s after its {problem} went wrong")


async def wait_taken_over(parts: TrialParts, notes: TrialNotes, seconds: float = 30.0) -> None:
    """Wait until a row of each shard that is watched was forecast anew."""
    began = time.monotonic()
    while parts.ledger.is_waiting:
        if time.monotonic() - began > seconds:
            parts.journal.report("not_taken_over", f"shards {parts.ledger.list_waiting()} after {seconds:g} s")
            return
        await asyncio.sleep(0.1)


def _needs_faketime(parts: TrialParts) -> str | None:
    return None if find_faketime() is not None else "libfaketime is not installed"


def _needs_mount(parts: TrialParts) -> str | None:
    return None if parts.site.network.can_cut else "it needs root"


FAULTS = {
    fault.name: fault
    for fault in (
        ClusterFault(name="node_killed", apply=kill_node),
        ClusterFault(name="node_cut_off", apply=cut_node),
        ClusterFault(name="nats_leader_killed", apply=kill_nats_leader),
        ClusterFault(name="nats_restarted", apply=restart_nats),
        ClusterFault(name="rolling_upgrade", apply=roll_nodes),
        ClusterFault(name="clock_stands", apply=_make_clock_fault(STANDING_CLOCK), needs=_needs_faketime),
        ClusterFault(name="clock_an_hour_ahead", apply=_make_clock_fault("+3600"), needs=_needs_faketime),
        ClusterFault(name="disk_full", apply=fill_disk, needs=_needs_mount),
    )
}
"""All faults, by name."""
