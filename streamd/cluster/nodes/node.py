"""A node of a cluster: feeds heartbeats, tables and time to the policies, and does the actions that they return.

Knows no window and no forecast: what a shard does is in `forecasts/shard.py`.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.log import Entry, Log, LogAwayError, Unsubscribe
from streamd.cluster.nodes.handovers import serve_handovers
from streamd.cluster.nodes.heartbeats import Heartbeats
from streamd.cluster.nodes.joining import HeardNodes, begin_run, listen_for_nodes
from streamd.cluster.nodes.node_settings import NodeCondition, NodeSettings
from streamd.cluster.nodes.operator_requests import OperatorRequests
from streamd.cluster.nodes.shard_moves import ShardMoves
from streamd.cluster.nodes.shard_runner import HeldShard
from streamd.core.cluster.clocks import ClockBook, ClockVerdict
from streamd.core.cluster.lease_actions import Lease
from streamd.core.cluster.leases import LeaseBook
from streamd.core.cluster.membership import Heartbeat, Membership, NodePhase, is_able
from streamd.core.cluster.shards import ClusterNames

log = structlog.get_logger(__name__)

NODE_TICK_SECONDS = 0.1
"""The interval at which time passes for the leases."""

TICK_RETRY_SECONDS = 1.0
"""The wait after a tick that failed, so that errors do not fill the log."""

RELEASE_CHECK_SECONDS = 0.02


class ClusterNode:
    """One run of a node, from `start` to `close`.

    `make_shard` returns a shard that is not loaded; `describe` the node's condition. `wall` returns epoch seconds,
    `clock` monotonic seconds.
    """

    def __init__(
        self,
        settings: NodeSettings,
        cluster_log: Log,
        names: ClusterNames,
        make_shard: Callable[[int], HeldShard],
        describe: Callable[[], NodeCondition],
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.clocks = ClockBook(settings.max_clock_offset_seconds)
        self.run = 0
        """The revision of this run's key, from `start` on: later runs of a name have greater ones."""
        self.phase = NodePhase.JOINING
        self.clock_ahead_seconds = 0.0
        """How far this node's clock is ahead of the middle of all, as it was measured last."""
        self.on_replaced: Callable[[], None] = lambda: None
        """Called once if another run of this node's name was heard: this one must end."""
        self._log = cluster_log
        self._names = names
        self._leases = cluster_log.table(names.bucket("leases"))
        self._control = cluster_log.table(names.bucket("control"))
        self._make_shard = make_shard
        self._describe = describe
        self._wall = wall
        self._clock = clock
        self._membership: Membership | None = None
        self._book: LeaseBook | None = None
        self._moves: ShardMoves | None = None
        self._heartbeats: Heartbeats | None = None
        self._requests = OperatorRequests()
        self._unsubscribe: list[Unsubscribe] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._was_replaced = False
        self._heard = HeardNodes()

    # ------------------------------------------------------------ life
    async def find_others(self) -> Sequence[str]:
        """Listen for the lease time, and return the nodes that run; call it before `start`.

        Raises `ConfigError` if another node has this name, `LogAwayError`.
        """
        settings = self.settings
        self._heard = await listen_for_nodes(self._log, self._names, settings.node, settings.lease_seconds)
        return self._heard.names

    async def start(self) -> None:
        """Join the cluster; it owns nothing before its leases are taken.

        Raises `LogAwayError`, after which it may be called again.
        """
        try:
            await self._join()
        except BaseException:
            await self._stop_listening()
            raise
        log.info("node_joined", node=self.settings.node, run=self.run, shards=self.settings.shards)

    async def _join(self) -> None:
        settings = self.settings
        self.run = await begin_run(self._control, self._leases, settings.node, settings.version, self._heard)
        now = self._clock()
        self._membership = Membership(settings.node, self.run, settings.lease_seconds, now)
        self._book = LeaseBook(
            self._membership,
            settings.shards,
            lease_seconds=settings.lease_seconds,
            rebalance_delay_seconds=settings.rebalance_delay_seconds,
        )
        self._moves = ShardMoves(
            Lease(settings.node, self.run),
            self._book,
            self._log,
            self._names,
            self._leases,
            self._make_shard,
            shards=settings.shards,
            clock=self._clock,
        )
        self._heartbeats = Heartbeats(
            self._log,
            self._names,
            self._membership,
            self.clocks,
            self._make_heartbeat,
            wall=self._wall,
            clock=self._clock,
        )
        await self._heartbeats.listen()
        self._tasks.append(start_task(self._heartbeats.beat_regularly()))
        self._unsubscribe.append(await self._control.watch(self._see_control))
        self._requests.begin()
        self._unsubscribe.append(await self._leases.watch(self._moves.see_lease))
        self._unsubscribe.append(await serve_handovers(self._log, self._names, settings.node, self._moves.hand_over))
        self._tasks.append(start_task(self._tick_regularly()))

    async def leave(self) -> None:
        """Hand over all shards, and return when this node has none; the caller limits the time."""
        self.phase = NodePhase.LEAVING
        if self._book is None or self._moves is None or self._heartbeats is None:
            return
        await self._heartbeats.beat()
        while self._book.list_held() and self._has_successor():
            await asyncio.sleep(RELEASE_CHECK_SECONDS)
        self._moves.do(self._book.release_all())
        while self._book.list_held() and self._log.is_connected:
            await asyncio.sleep(RELEASE_CHECK_SECONDS)

    async def close(self) -> None:
        """End at once, whatever it owns; with its last heartbeat the others know it."""
        self.phase = NodePhase.GONE
        await self._end_tasks()
        if self._moves is not None:
            await self._moves.close()
        if self._heartbeats is not None:
            await self._heartbeats.beat()
        await self._stop_listening()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _stop_listening(self) -> None:
        await self._end_tasks()
        if self._heartbeats is not None:
            await self._heartbeats.close()
        while self._unsubscribe:
            with contextlib.suppress(LogAwayError):
                await self._unsubscribe.pop()()

    # ------------------------------------------------------------ what is so
    @property
    def is_joined(self) -> bool:
        """Whether the tables were read, and the own heartbeats come back."""
        return self._membership is not None and self._membership.is_observing(self._clock())

    def find_holder(self, shard: int) -> Lease:
        """Return the run of a node that has a shard's lease, whether or not it is alive."""
        return Lease() if self._book is None else self._book.find_lease(shard)[0]

    def find_fence(self, shard: int) -> int:
        """Return the revision of a shard's lease; 0 if it never had one."""
        return 0 if self._book is None else self._book.find_lease(shard)[1]

    def find_owner(self, shard: int) -> str | None:
        """Return the living node that has a shard; `None` if no node has it."""
        if self._membership is None:
            return None
        lease = self.find_holder(shard)
        is_there = lease.node and self._membership.is_alive(lease.node, lease.run, self._clock())
        return lease.node if is_there else None

    def list_held(self) -> list[int]:
        """Return the shards whose lease this node has."""
        return [] if self._book is None else self._book.list_held()

    def find_held(self, shard: int) -> HeldShard | None:
        """Return a shard that is followed or owned here; `None` if it is neither."""
        return None if self._moves is None else self._moves.find_held(shard)

    @property
    def lease_changes(self) -> Counter[str]:
        """Changes of leases since start, by what became of the shard here: taken, released, lost, failed."""
        return Counter() if self._moves is None else self._moves.changes

    def list_alive(self) -> Sequence[Heartbeat]:
        """Return the newest heartbeat of each living node, by name."""
        return () if self._membership is None else self._membership.list_alive(self._clock())

    @property
    def may_own(self) -> bool:
        """Whether this node may own shards now."""
        return self.phase is NodePhase.SERVING and self._describe().is_ready and not self.list_hindrances()

    def list_drained(self) -> frozenset[str]:
        """Return the nodes that an operator drains."""
        return frozenset(self._requests.drained)

    def list_failures(self) -> dict[int, str]:
        """Return the shards that could not be loaded or owned here when that was tried last, with the reasons."""
        return {} if self._moves is None else self._moves.list_failures()

    def list_hindrances(self) -> tuple[str, ...]:
        """Return why this node should own nothing."""
        return self._add_own_hindrances(self._describe().hindrances)

    def _add_own_hindrances(self, hindrances: tuple[str, ...]) -> tuple[str, ...]:
        is_wrong = self.clocks.judge(self._clock()) is ClockVerdict.WRONG
        has_later_format = self._moves is not None and self._moves.has_later_format
        found = ("clock",) * is_wrong + ("format",) * has_later_format
        return tuple(dict.fromkeys((*found, *hindrances)))

    def read_cluster_time(self) -> float:
        """Return epoch seconds by the middle of all nodes' clocks: this node's may be wrong.

        While there are no other heartbeats, this node's clock is as far ahead as it was last.
        """
        return self._wall() - self.clock_ahead_seconds

    # ------------------------------------------------------------ heartbeats
    def _make_heartbeat(self, beat: int) -> Heartbeat:
        condition = self._describe()
        return Heartbeat(
            node=self.settings.node,
            run=self.run,
            beat=beat,
            time=self._wall(),
            phase=self._choose_phase(condition),
            hindrances=self._add_own_hindrances(condition.hindrances),
            cannot_own=not condition.is_ready,
            shards=tuple(self.list_held()),
            version=self.settings.version,
            details=condition.details,
        )

    def _choose_phase(self, condition: NodeCondition) -> NodePhase:
        if self.phase in (NodePhase.LEAVING, NodePhase.GONE):
            return self.phase
        if self.phase is NodePhase.JOINING and not condition.is_ready:
            return self.phase
        self.phase = NodePhase.DRAINING if self.settings.node in self._requests.drained else NodePhase.SERVING
        return self.phase

    # ------------------------------------------------------------ tables
    def _see_control(self, key: str, entry: Entry | None) -> None:
        if self._requests.see(key, entry) and self._book is not None:
            self._book.request_rebalance()

    # ------------------------------------------------------------ time
    async def _tick_regularly(self) -> None:
        while True:
            try:
                self._tick()
            except Exception as exc:  # a node that beats and does not tick would keep its shards for ever
                log.exception("tick_failed", error=repr(exc))
                await asyncio.sleep(TICK_RETRY_SECONDS)
            await asyncio.sleep(NODE_TICK_SECONDS)

    def _tick(self) -> None:
        assert self._book is not None
        assert self._moves is not None
        assert self._membership is not None
        self._moves.do(self._book.tick(self._clock()))
        self._measure_clock()
        if self._membership.is_replaced and not self._was_replaced:
            self._was_replaced = True
            log.error("node_replaced", node=self.settings.node, run=self.run)
            self.on_replaced()

    def _measure_clock(self) -> None:
        now = self._clock()
        if self.clocks.list_offsets(now):
            self.clock_ahead_seconds = self.clocks.measure_own_offset(now)

    def _has_successor(self) -> bool:
        """Whether another node can take what this one has."""
        return any(is_able(each) for each in self.list_alive() if each.node != self.settings.node)
