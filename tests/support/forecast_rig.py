"""Nodes of a cluster on one loop: windows, fake lanes and forecasts through a made log, without leases or HTTP.

The test says who owns a shard. Each node's lanes give other numbers, so that two forecasts of one row are found out.
"""

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamd.cluster.forecasts.forecasts import ClusterForecasts, ForecastTimes, ShardParts
from streamd.cluster.forecasts.shard import OwnedShard
from streamd.cluster.log import Log
from streamd.cluster.rows.applier import Applier
from streamd.cluster.rows.window_snapshots import WindowSnapshots
from streamd.core.arrays import Float32
from streamd.core.cluster.chain_entries import ChainGapError, FencedError
from streamd.core.cluster.forecast_batches import ChainBatch, decode_chain_message
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.pending_forecasts import ForecastRows
from streamd.core.cluster.row_batches import encode_names, encode_rows, make_forget_section, make_rows_message
from streamd.core.cluster.shards import ClusterNames, find_shard
from streamd.core.contract import ModelContract
from streamd.core.scheduling.costs import CostTable
from streamd.core.selection import ServerGlobs, make_forecast_slice
from streamd.core.state.forecast_seals import compute_checks
from streamd.http.resuming import ReaderPosition
from streamd.inference.fake import FakeBackend
from streamd.runtime.hub import Subscription
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import WindowLimits
from streamd.runtime.wiring import build_service
from tests.support.contracts import make_contract
from tests.support.made_log import MemoryLog, make_memory_log

NAMES = ClusterNames("streamd")
SHARDS = 2
WINDOWS = WindowLimits(capacity=64, need=2, late_steps=8, grace_seconds=3_600.0)
MODEL = "fake_tensorrt_20260101_000000"
TIMES = ForecastTimes(local_seconds=0.05, prepare_seconds=1.0, linger_seconds=3_600.0)
STEP_SECONDS = 300


@dataclass(frozen=True)
class ReadForecast:
    """A forecast as a reader got it."""

    server: str
    step: int
    fence: int
    serial: int
    values: bytes


class RigReader:
    """A subscriber at one node, which remembers what it got; `last_id` is where it may continue."""

    def __init__(self, service: Service, subscription: Subscription, position: ReaderPosition) -> None:
        self.got: list[ReadForecast] = []
        self.last_id = position.last_id
        self._service = service
        self._subscription = subscription
        self._position = position
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        await self._position.replay()
        state, fences = self._service.state, self._service.fences
        assert fences is not None
        while not self._subscription.closed:
            await self._subscription.wait()
            for slot in self._position.take_unread(8).tolist():
                forecast, server = state.board.get_forecast(slot), state.directory.names[slot]
                if forecast is not None and server is not None:
                    fence, values = int(fences[slot]), forecast.values.tobytes()
                    self.got.append(ReadForecast(server, forecast.step, fence, forecast.serial, values))
            self.last_id = self._position.choose_id()

    @property
    def steps(self) -> dict[str, list[int]]:
        """The steps of each server, in the order in which they came."""
        found: dict[str, list[int]] = defaultdict(list)
        for each in self.got:
            found[each.server].append(each.step)
        return dict(found)

    async def close(self) -> None:
        self._service.hub.unsubscribe(self._subscription)
        self._task.cancel()
        await asyncio.wait([self._task])


class RigNode:
    """One node."""

    def __init__(self, rig: "ForecastRig", name: str, log: Log, number: int) -> None:
        self.name = name
        self.log = log
        self.state = open_state(rig.folder / name, rig.contract, rig.windows, time.monotonic())
        self.forecasts = ClusterForecasts(
            name,
            log,
            rig.names,
            rig.shards,
            self.state,
            self._make_parts,
            max_chain_bytes=rig.max_chain_bytes,
            times=rig.times,
            clock=time.monotonic,
        )
        self.service = build_service(self.state, MODEL, {}, ServiceLimits(), links=self.forecasts.links)
        self.forecasts.open(self.service)
        self.failures: list[BaseException] = []
        """What ended a shard here."""
        self._rig = rig
        self._number = number
        self._following: dict[int, asyncio.Task[None]] = {}
        self._give_own_numbers()
        self._open_lanes()

    @property
    def made_log(self) -> MemoryLog:
        """Its connection, whose faults a test chooses."""
        assert isinstance(self.log, MemoryLog)
        return self.log

    def _make_parts(self, shard: int) -> ShardParts:
        applier = Applier(self.service, shard, self._rig.shards)
        return ShardParts(
            rows=applier, snapshots=WindowSnapshots(self.log, self._rig.names, self.service, applier, shard)
        )

    def _give_own_numbers(self) -> None:
        sink = self.service.sink
        deliver = sink.deliver

        def deliver_own(servers: Any, forecasts: Float32, checks: Any, spec: Any) -> None:
            own = np.ascontiguousarray(forecasts + np.float32(self._number) / 16)
            deliver(servers, own, compute_checks(own), spec)

        sink.deliver = deliver_own  # type: ignore[method-assign]

    def _open_lanes(self) -> None:
        self.backend = FakeBackend(self._rig.contract)
        loop = asyncio.get_running_loop()
        self._workers = [LaneWorker(self.backend.make_lane(0), loop, self.service.pipeline.handle_result)]
        costs = CostTable({bucket: 0.001 * bucket for bucket in self.backend.buckets}, pads=False)
        self.service.pipeline.open_lanes(self._workers, costs)

    # ------------------------------------------------------------ shards
    def follow(self, shard: int) -> OwnedShard:
        """Follow a shard."""
        held = self.forecasts.make_shard(shard)
        self._following[shard] = asyncio.create_task(self._follow(held))
        return held

    async def _follow(self, held: OwnedShard) -> None:
        try:
            await held.follow()
        except (FencedError, ChainGapError, LaterFormatError) as exc:
            self.failures.append(exc)
            del self.forecasts.shards[held.shard]
            self._following.pop(held.shard)
            await held.close()

    async def own(self, shard: int, fence: int) -> OwnedShard:
        """Own a shard, which is followed before."""
        held = self.forecasts.shards.get(shard) or self.follow(shard)
        await held.own(fence)
        return held

    async def release(self, shard: int, *, leaves: bool = True) -> None:
        """Give a shard away, in order or at once."""
        held = self.forecasts.shards[shard]
        if leaves:
            await held.leave()
        task = self._following.pop(shard, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self.forecasts.shards.pop(shard, None)
        await held.close()

    # ------------------------------------------------------------ readers
    async def subscribe(self, *globs: str, since: int | None = None) -> RigReader:
        """Subscribe, from now on or after an id."""
        chosen = ServerGlobs(globs or ("*",))
        await self.service.hub.interest.prepare(chosen)
        subscription = self.service.hub.subscribe(chosen, make_forecast_slice(self._rig.contract, None, None))
        position = ReaderPosition(self.service, subscription, since, has_ids=True)
        reader = RigReader(self.service, subscription, position)
        self._rig.readers.append(reader)
        return reader

    def read_board(self) -> dict[str, tuple[int, bytes]]:
        """Return the step and the numbers of each server's forecast on the board."""
        found = {}
        for server, slot in self.state.directory.slots.items():
            forecast = self.state.board.get_forecast(slot)
            if forecast is not None:
                found[server] = (forecast.step, forecast.values.tobytes())
        return found

    async def close(self) -> None:
        """End at once."""
        self.backend.release_all()
        for shard in list(self.forecasts.shards):
            await self.release(shard, leaves=False)
        await self.forecasts.close()
        self.service.close()


class ForecastRig:
    """Some nodes over one log."""

    def __init__(self, folder: Path, log: Log, *, times: ForecastTimes, contract: ModelContract, shards: int) -> None:
        self.folder = folder
        self.contract = contract
        self.windows = WINDOWS
        self.names = NAMES
        self.shards = shards
        self.times = times
        self.max_chain_bytes = -1
        """What the nodes that start from now on believe that the log takes of a chain."""
        self.log = log
        """The agents' connection."""
        self.nodes: list[RigNode] = []
        self.readers: list[RigReader] = []
        self.sent: dict[str, int] = {}
        """The newest step that was sent of each server."""

    @property
    def made_log(self) -> MemoryLog:
        assert isinstance(self.log, MemoryLog)
        return self.log

    def start(self, name: str, log: Log | None = None) -> RigNode:
        """Start a node with a connection of its own."""
        node = RigNode(self, name, log or self.made_log.connect(), len(self.nodes) + 1)
        self.nodes.append(node)
        return node

    async def kill(self, node: RigNode) -> None:
        """End a node without a word to the log."""
        node.made_log.kill()
        self.nodes.remove(node)
        await node.close()

    async def send(self, servers: Iterable[str], *steps: int) -> None:
        """Append a whole row of each server for each step to the row logs."""
        by_shard: dict[int, list[str]] = defaultdict(list)
        for server in servers:
            by_shard[find_shard(server, self.shards)].append(server)
            self.sent[server] = max(steps)
        for step in steps:
            for shard, names in by_shard.items():
                values = np.array(
                    [
                        [hash_value(name, step) + place for place in range(len(self.contract.features))]
                        for name in names
                    ],
                    np.float32,
                )
                section = encode_rows(encode_names(names), float(step * STEP_SECONDS + 1), values)
                await self.log.append(self.names.rows(shard), make_rows_message([section]))

    async def order_forget(self, server: str) -> None:
        """Append the order to forget a server."""
        shard = find_shard(server, self.shards)
        await self.log.append(self.names.rows(shard), make_rows_message([make_forget_section(server, math.inf)]))

    async def wait_until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Let the loop turn until a condition holds."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it does not come about"
            await asyncio.sleep(0.001)

    async def wait_forecast(self, node: RigNode, servers: Iterable[str], step: int) -> None:
        """Wait until a node has a forecast of this step or a later one of each server."""
        names = list(servers)
        await self.wait_until(lambda: all(node.read_board().get(name, (-1,))[0] >= step for name in names))

    # ------------------------------------------------------------ what must hold
    async def read_log(self, shard: int) -> list[ChainBatch]:
        """Return all batches in the chain of a shard."""
        found = []
        stream, subject = self.names.forecasts_stream(shard), self.names.forecasts(shard)
        async for messages in self.log.read(stream, subject, until_end=True, allow_gaps=True):
            for message in messages:
                decoded = decode_chain_message(message.data, self.contract.forecast_shape)
                if isinstance(decoded, ChainBatch):
                    found.append(decoded)
        return found

    async def check_log(self) -> dict[tuple[str, int], bytes]:
        """Return the numbers of each row in the log, after a check that fences and steps only rise."""
        rows: dict[tuple[str, int], bytes] = {}
        for shard in range(self.shards):
            fence, steps = 0, dict[str, int]()
            for batch in await self.read_log(shard):
                assert batch.fence >= fence, "an append of a fenced owner came behind its successor's"
                fence = batch.fence
                for server in batch.forgotten:
                    steps.pop(server, None)
                for place, server in enumerate(batch.servers):
                    step = int(batch.steps[place])
                    if batch.serials is not None:
                        values = batch.values[place].tobytes()
                        assert rows.setdefault((server, step), values) == values, "a kept forecast has other numbers"
                        steps[server] = max(step, steps.get(server, -1))
                        continue
                    assert steps.get(server, -1) < step, f"{server} has step {step} after {steps[server]}"
                    steps[server] = step
                    rows[server, step] = batch.values[place].tobytes()
        return rows

    async def check_readers(self) -> None:
        """Check that what readers got with a fence are the numbers of the log."""
        rows = await self.check_log()
        for reader in self.readers:
            for each in reader.got:
                if each.fence:
                    assert rows[each.server, each.step] == each.values, f"{each.server} {each.step}: other numbers"

    async def close(self) -> None:
        for reader in self.readers:
            await reader.close()
        for node in self.nodes:
            with contextlib.suppress(Exception):
                await node.close()


def make_forecast_rows(node: RigNode, servers: Sequence[str], step: int) -> ForecastRows:
    """Make forecasts of servers that a node knows, as its sink does; all numbers are the step."""
    slots = np.array([node.state.directory.slots[server] for server in servers])
    values = np.full((len(servers), *node.state.contract.forecast_shape), step, np.float32)
    return ForecastRows(
        model="model",
        servers=tuple(servers),
        slots=slots,
        generations=node.state.directory.generations[slots],
        steps=np.full(len(servers), step),
        contexts=np.full(len(servers), 2),
        since=np.zeros(len(servers)),
        values=values,
        checks=compute_checks(values),
        is_posted=np.zeros(len(servers), np.bool_),
    )


def hash_value(name: str, step: int) -> float:
    """Return a number of a server and a step, exact in float32."""
    return sum(name.encode()) % 64 * 8 + step % 64 / 64


def make_servers(shard: int, count: int, shards: int = SHARDS) -> Sequence[str]:
    """Return names of servers that are in a shard."""
    names: list[str] = []
    number = 0
    while len(names) < count:
        if find_shard(f"web-{number}", shards) == shard:
            names.append(f"web-{number}")
        number += 1
    return names


@asynccontextmanager
async def run_forecast_rig(
    folder: Path,
    *,
    log: Log | None = None,
    times: ForecastTimes = TIMES,
    contract: ModelContract | None = None,
    shards: int = SHARDS,
) -> AsyncIterator[ForecastRig]:
    """Run nodes over a made log, whose clock is that of this machine."""
    made = log or make_memory_log(NAMES, shards, now=time.time())
    rig = ForecastRig(folder, made, times=times, contract=contract or make_contract(), shards=shards)
    try:
        yield rig
    finally:
        await rig.close()
