"""Nodes of a cluster over a made log, without lanes: they take samples, apply the logs, and write snapshots."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamd.cluster.rows.applier import Applier
from streamd.cluster.rows.cluster_ingest import ClusterTakers, make_takers
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.cluster.rows.window_snapshots import WindowSnapshots
from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.cluster.shards import ClusterNames
from streamd.core.contract import ModelContract
from streamd.core.mapping.rules import RuleSet
from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.core.state.samples import IngestResult, Sample
from streamd.runtime.service import ServiceLimits
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import WindowLimits
from streamd.runtime.wiring import build_service
from tests.support.contracts import make_contract
from tests.support.made_log import MemoryLog, make_memory_log

NAMES = ClusterNames("test")
STEP_SECONDS = 300
BEGIN = 1_700_000_100.0
FIRST = int(BEGIN) // STEP_SECONDS
NOW = BEGIN + 60 * STEP_SECONDS

Window = tuple[Any, ...]


class RigShard:
    """A shard at one node: its applier and its snapshots."""

    def __init__(self, node: "RigNode", shard: int) -> None:
        self.applier = Applier(node.service, shard, node.shards)
        self.snapshots = WindowSnapshots(node.log, NAMES, node.service, self.applier, shard)
        self._log = node.log
        self._shard = shard

    async def read_rows(self) -> None:
        """Apply all that the log has and that is not applied yet."""
        rows = self._log.read(
            NAMES.rows_stream(self._shard), NAMES.rows(self._shard), after=self.applier.sequence, until_end=True
        )
        async for messages in rows:
            await self.applier.apply(messages)

    async def take_over(self) -> None:
        """Load the snapshots, then apply the rows behind them."""
        await self.snapshots.load()
        await self.read_rows()
        await self.applier.finish_restore()


class RigNode:
    """One node; it follows the shards that a test asks for."""

    def __init__(
        self,
        folder: Path,
        log: MemoryLog,
        shards: int,
        *,
        contract: ModelContract,
        window_limits: WindowLimits,
        limits: ServiceLimits,
        rule_sets: Iterable[RuleSet],
        buffer_bytes: int,
        publish_timeout_seconds: float,
    ) -> None:
        self.log = log
        self.shards = shards
        self.state = open_state(folder, contract, window_limits, time.monotonic())
        self.service = build_service(self.state, "model", {}, limits, rule_sets=list(rule_sets), wall=lambda: NOW)
        self.publisher = RowPublisher(
            log, NAMES, run=folder.name, buffer_bytes=buffer_bytes, publish_timeout_seconds=publish_timeout_seconds
        )
        self.takers: ClusterTakers = make_takers(self.service, self.publisher, shards, lambda: NOW)
        self.held = self.hold()

    def hold(self) -> dict[int, RigShard]:
        """Return all shards, not loaded."""
        return {shard: RigShard(self, shard) for shard in range(self.shards)}

    async def take(self, *samples: Sample, caller: Caller = ANYBODY) -> IngestResult:
        """Take samples as an agent's body."""
        assert self.takers.samples is not None
        return await self.takers.samples.take_samples(enumerate(samples), caller)

    async def take_over(self) -> None:
        """Take over all shards."""
        for shard in self.held.values():
            await shard.take_over()

    async def read_rows(self) -> None:
        """Apply what is new in the logs of all shards."""
        for shard in self.held.values():
            await shard.read_rows()

    async def take_columns(self, servers: Sequence[str], step: int) -> IngestResult:
        """Take a frame of whole rows of one step."""
        assert self.takers.samples is not None
        return await self.takers.samples.take_frame(make_frame(servers, step))

    def windows(self) -> dict[str, Window]:
        """Return all that the windows hold, by server."""
        return {server: read_window(self, slot) for server, slot in self.state.directory.slots.items()}

    def close(self) -> None:
        self.service.close()


def read_window(node: RigNode, slot: int) -> Window:
    """Return the steps, statuses, values, open row and memory of a window, as what can be compared."""
    arrays, length = node.state.windows.arrays, node.state.contract.context_length
    newest, open_step = int(arrays["newest"][slot]), int(arrays["open_step"][slot])
    rows = []
    for step in range(max(newest - length + 1, 0), newest + 1):
        if arrays["marks"][slot, step % length]:
            row = arrays["values"][slot, step % length]
            rows.append((step, int(arrays["marks"][slot, step % length]), make_comparable(row)))
    is_open = open_step >= 0
    filling = (open_step, int(arrays["open_status"][slot]) & 15, make_comparable(arrays["open_values"][slot]))
    derived = int(node.state.windows.have[slot]), int(node.state.windows.volatile["expected"][slot])
    return newest, tuple(rows), filling if is_open else None, _read_means(node, slot), derived


def _read_means(node: RigNode, slot: int) -> Window:
    """Return the period, the count and the values of each mean of a slot."""
    if node.state.memory is None:
        return ()
    node.state.memory.settle()
    arrays = node.state.memory.arrays
    places = np.flatnonzero(arrays["periods"][slot]).tolist()
    columns = [(int(arrays["periods"][slot, place]), int(arrays["counts"][slot, place])) for place in places]
    means = [make_comparable(arrays["means"][slot, place]) for place in places]
    return tuple(sorted(zip(columns, means, strict=True)))


def make_comparable(row: Any) -> tuple[float | None, ...]:
    return tuple(None if value != value else float(value) for value in row)


class ShardRig:
    """A made log, and nodes that are connected to it."""

    def __init__(self, folder: Path, shards: int = 1, **options: Any) -> None:
        self.log = make_memory_log(NAMES, shards, now=NOW)
        self.shards = shards
        self._folder = folder
        self._options = {
            "contract": make_contract(),
            "window_limits": WindowLimits(capacity=16, need=2, late_steps=8, grace_seconds=10.0),
            "limits": ServiceLimits(),
            "rule_sets": (),
            "buffer_bytes": 2**20,
            "publish_timeout_seconds": 60.0,
            **options,
        }
        self.nodes: list[RigNode] = []

    def start_node(self, **options: Any) -> RigNode:
        """Start a node with an empty state folder."""
        folder = self._folder / f"node-{len(self.nodes)}"
        node = RigNode(folder, self.log.connect(), self.shards, **{**self._options, **options})
        self.nodes.append(node)
        return node

    async def close(self) -> None:
        for node in self.nodes:
            await node.publisher.close()
            node.close()


def make_frame(servers: Sequence[str], step: int) -> ColumnFrame:
    """Make whole rows of one step after `FIRST`, those of `sample`."""
    features = make_contract().features
    return ColumnFrame(
        servers=NameList(list(servers)),
        features=NameList(features),
        time=(FIRST + step) * STEP_SECONDS + 7.0,
        values=np.array([[step, step + 0.25, step + 0.5]] * len(servers)),
    )


def sample(server: str, step: int, values: dict[str, float | None] | None = None, status: int | None = None) -> Sample:
    """Make a sample of a step after `FIRST`; a whole row without `values`."""
    whole: dict[str, float | None] = {"cpu": float(step), "mem": step + 0.25, "net": step + 0.5}
    return Sample(server, (FIRST + step) * STEP_SECONDS + 7.0, whole if values is None else values, status)
