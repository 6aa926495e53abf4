"""The model of a cluster: nodes with the real policies, over a naive log and a network that a schedule controls."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamd.core.cluster.forecast_chain import ForecastChain
from streamd.core.cluster.lease_actions import (
    Abandon,
    Action,
    Activate,
    AskHandover,
    Lease,
    Prepare,
    ReleaseLease,
    Stop,
    TakeLease,
)
from streamd.core.cluster.leases import LeaseBook
from streamd.core.cluster.membership import Heartbeat, Membership, NodePhase
from tests.support.made_cluster_log import NaiveNetwork, NaiveStream, NaiveTable, Row, ViolationError
from tests.support.made_cluster_shards import PATIENCE, ModelShard

TICK_SECONDS = 0.25
LEASE_SECONDS = 2.5
REBALANCE_SECONDS = 5.0

Step = tuple[str, int]
"""What happens next, and to which node, message or server, by number."""


@dataclass(frozen=True, kw_only=True)
class Policies:
    """The policies that a model runs: the real ones, or broken ones that it must find."""

    chain: type[ForecastChain] = ForecastChain
    book: type[LeaseBook] = LeaseBook
    members: type[Membership] = Membership
    stream_compares: bool = True
    table_compares: bool = True


class ModelNode:
    """A run of a node."""

    def __init__(self, name: str, run: int, cluster: "ModelCluster") -> None:
        self.name, self.run, self._cluster = name, run, cluster
        self.is_cut = False
        self.is_mute = False
        """Whether others do not hear it, though it reaches the log."""
        self.is_blind = False
        """Whether it sees no changes of the leases."""
        self.phase = NodePhase.SERVING
        self.clock_ahead = 0.0
        self.clock_stopped_at: float | None = None
        self._beat = 0
        self._seen = 0
        self._puts: dict[int, tuple[int, str, int]] = {}
        """The change of each shard's lease that is in flight: its number, its kind, its age."""
        self._count = 0
        self.members = cluster.policies.members(name, run, LEASE_SECONDS, self.now)
        self.book = cluster.policies.book(
            self.members, cluster.shards, lease_seconds=LEASE_SECONDS, rebalance_delay_seconds=REBALANCE_SECONDS
        )
        self.shards: dict[int, ModelShard] = {}

    @property
    def now(self) -> float:
        """What the node's monotonic clock shows."""
        return self._cluster.now + self.clock_ahead if self.clock_stopped_at is None else self.clock_stopped_at

    @property
    def is_alive(self) -> bool:
        """Whether this run is that of the node at present."""
        return self._cluster.nodes.get(self.name) is self

    def tick(self) -> None:
        """Do what the node does four times a second."""
        self._send_heartbeat()
        self._abandon_puts()
        self._do(self.book.tick(self.now))
        for shard, each in list(self.shards.items()):
            each.step()
            if each.is_caught_up:
                self.book.mark_prepared(shard)
            if each.has_failed:
                self._close(shard)
                self._do(self.book.mark_failed(shard, self.now))

    def watch(self, limit: int = 1) -> None:
        """Take the next changes of the table."""
        if self.is_cut or self.is_blind:
            return
        events = self._cluster.table.events[self._seen : self._seen + limit]
        self._seen += len(events)
        for shard, lease, revision in events:
            self._do(self.book.see_lease(shard, lease, revision))

    # ------------------------------------------------------------ messages
    def _send_heartbeat(self) -> None:
        self._beat += 1
        heartbeat = Heartbeat(node=self.name, run=self.run, beat=self._beat, time=self.now, phase=self.phase)
        for name in self._cluster.nodes if not self.is_mute else ():
            self._to_node(name, lambda node: node.members.hear(heartbeat, node.now))

    def _to_node(self, name: str, deliver: Callable[["ModelNode"], object]) -> None:
        """Send a message to a node, over the log's servers."""

        def arrive() -> None:
            node = self._cluster.nodes.get(name)
            if node is not None and not node.is_cut and not self.is_cut:
                deliver(node)

        self._cluster.network.send(arrive)

    def _put(self, shard: int, lease: Lease, expected: int, kind: str) -> None:
        self._count += 1
        number = self._count
        self._puts[shard] = (number, kind, 0)

        def answer(revision: int | None) -> None:
            if self.is_alive and not self.is_cut and self._puts.get(shard, (0, "", 0))[0] == number:
                del self._puts[shard]
                self._take_answer(shard, kind, revision)

        def arrive() -> None:
            if not self.is_cut:
                revision = self._cluster.table.put(shard, lease, expected)
                self._cluster.network.send(lambda: answer(revision))

        self._cluster.network.send(arrive)

    def _take_answer(self, shard: int, kind: str, revision: int | None) -> None:
        if revision is None:
            self._refuse(shard, kind)
        else:
            confirm = self.book.confirm_take if kind == "take" else self.book.confirm_release
            self._do(confirm(shard, revision))

    def _refuse(self, shard: int, kind: str) -> None:
        refuse = self.book.refuse_take if kind == "take" else self.book.refuse_release
        refuse(shard, self.now)

    def _abandon_puts(self) -> None:
        for shard, (number, kind, age) in list(self._puts.items()):
            self._puts[shard] = (number, kind, age + 1)
            if age >= PATIENCE:
                del self._puts[shard]
                self._refuse(shard, kind)

    # ------------------------------------------------------------ actions
    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case TakeLease(shard, revision):
                    self._put(shard, Lease(self.name, self.run), revision, "take")
                case ReleaseLease(shard, revision, to):
                    self._close(shard)
                    self._put(shard, to, revision, "release")
                case AskHandover(shard, holder):
                    self._ask_handover(shard, holder)
                case Activate(shard, fence):
                    self._open(shard).own(fence)
                case Prepare(shard):
                    self._open(shard)
                case Stop(shard) | Abandon(shard):
                    self._close(shard)

    def _ask_handover(self, shard: int, holder: str) -> None:
        def ask(node: "ModelNode") -> None:
            release = node.book.answer_handover(shard, self.name, self.run, node.now)
            node._do([release] if release is not None else [])

        self._to_node(holder, ask)

    def _open(self, shard: int) -> ModelShard:
        if shard not in self.shards:
            self._count += 1
            maker = f"{self.name}/{self.run}/{shard}/{self._count}"
            cluster = self._cluster
            link = NodeLink(self, cluster.network)
            self.shards[shard] = ModelShard(
                maker, link, cluster.streams[shard], cluster.rows[shard], cluster.policies.chain
            )
        return self.shards[shard]

    def _close(self, shard: int) -> None:
        each = self.shards.pop(shard, None)
        if each is not None:
            each.close()
            self._cluster.keep_posted(each.posted)


class NodeLink(NaiveNetwork):
    """The way between a node and the log: nothing passes while the node is cut off."""

    def __init__(self, node: ModelNode, network: NaiveNetwork) -> None:
        self._node, self._network = node, network

    def send(self, deliver: Callable[[], None]) -> None:
        """Send over the cluster's network."""
        self._network.send(lambda: None if self._node.is_cut else deliver())


class ModelCluster:
    """Nodes, their log and their network; `perform` does one step of a schedule, `settle` ends all faults."""

    def __init__(self, nodes: int, shards: int, servers: int, policies: Policies | None = None) -> None:
        self.policies = policies or Policies()
        self.now = 1_000.0
        self.shards = shards
        self._servers = servers
        self.network = NaiveNetwork()
        self.streams = [NaiveStream(compares=self.policies.stream_compares) for _ in range(shards)]
        self.table = NaiveTable(compares=self.policies.table_compares)
        self.rows: list[list[Row]] = [[] for _ in range(shards)]
        self._lives: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._runs = 0
        self.nodes: dict[str, ModelNode] = {}
        self._names = [f"node-{number}" for number in range(nodes)]
        self._posted: dict[Row, str] = {}
        for name in self._names:
            self._start(name)

    # ------------------------------------------------------------ steps of a schedule
    def perform(self, step: Step) -> None:
        """Do one step; raises `ViolationError` if a promise was broken."""
        kind, number = step
        getattr(self, f"do_{kind}")(number)

    def do_row(self, number: int) -> None:
        """Acknowledge a row of the next step of a server, or of one after it."""
        shard, server = self._pick_server(number)
        self._steps[server] = self._steps.get(server, 0) + 1 + number % 2
        self.rows[shard].append(Row(server, self._steps[server], self._lives.get(server, 0)))

    def do_forget(self, number: int) -> None:
        """Acknowledge an order to forget a server, whose rows begin again."""
        shard, server = self._pick_server(number)
        self.rows[shard].append(Row(server, None, self._lives.get(server, 0)))
        self._lives[server] = self._lives.get(server, 0) + 1
        self._steps[server] = 0

    def do_tick(self, number: int) -> None:
        """Let a node work, and a little time pass."""
        self.now += TICK_SECONDS / 2
        if (node := self._pick(number)) is not None:
            node.tick()

    def do_watch(self, number: int) -> None:
        """Show a node the next change of the leases."""
        if (node := self._pick(number)) is not None:
            node.watch()

    def do_deliver(self, number: int) -> None:
        """Deliver any message."""
        self.network.deliver(number)

    def do_drop(self, number: int) -> None:
        """Lose any message."""
        self.network.drop(number)

    def do_copy(self, number: int) -> None:
        """Let any message come twice."""
        self.network.copy(number)

    def do_wait(self, number: int) -> None:
        """Let time pass in which no node works."""
        self.now += LEASE_SECONDS * (number % 3 + 1) / 2

    def do_crash(self, number: int) -> None:
        """End a node without warning."""
        if (node := self._pick(number)) is not None:
            self._end(node)

    def do_start(self, number: int) -> None:
        """Start a node that has ended, or end and start one at once."""
        name = self._names[number % len(self._names)]
        if (node := self.nodes.get(name)) is not None:
            self._end(node)
        self._start(name)

    def do_cut(self, number: int) -> None:
        """Cut a node off, or connect it again."""
        if (node := self._pick(number)) is not None:
            node.is_cut = not node.is_cut

    def do_mute(self, number: int) -> None:
        """Let others not hear a node any more, or hear it again."""
        if (node := self._pick(number)) is not None:
            node.is_mute = not node.is_mute

    def do_blind(self, number: int) -> None:
        """Let a node see no changes of the leases any more, or see them again."""
        if (node := self._pick(number)) is not None:
            node.is_blind = not node.is_blind

    def do_oust(self, number: int) -> None:
        """Let others take over from a node that lives, and does not know it; or let it know."""
        node = self._pick(number)
        if node is None:
            return
        node.is_mute = node.is_blind = not node.is_blind
        for count in range(10 + number % 6):
            self.do_row(number + count)
            self.run_round()

    def do_drain(self, number: int) -> None:
        """Drain a node, or take that back."""
        if (node := self._pick(number)) is not None:
            is_serving = node.phase is NodePhase.SERVING
            node.phase = NodePhase.DRAINING if is_serving else NodePhase.SERVING

    def do_clock(self, number: int) -> None:
        """Stop a node's clock, or set one that goes an hour ahead."""
        node = self._pick(number)
        if node is None:
            return
        if number % 2:
            node.clock_ahead += 3_600.0
        elif node.clock_stopped_at is None:
            node.clock_stopped_at = node.now

    def do_rounds(self, number: int) -> None:
        """Let all work for a while, without faults but those that are there."""
        for _ in range(number % 8 + 1):
            self.run_round()

    def do_lossy(self, number: int) -> None:
        """Let all work for a while, and lose one message of four or so."""
        chance = random.Random(number)
        for _ in range(number % 12 + 4):
            self.run_round(lambda: chance.random() < 0.25)

    def run_round(self, is_lost: Callable[[], bool] = lambda: False) -> None:
        """Let each node work once, and deliver all messages but those that are lost."""
        self.now += TICK_SECONDS
        for node in list(self.nodes.values()):
            node.tick()
            node.watch(1_000)
        self.network.deliver_all(is_lost)

    # ------------------------------------------------------------ the end
    def settle(self, rounds: int = 400) -> int:
        """End all faults, let all work until each server's new row is forecast; returns the rounds that this took."""
        for node in self.nodes.values():
            node.is_cut = node.is_mute = node.is_blind = False
            node.phase = NodePhase.SERVING
            if node.clock_stopped_at is not None:
                node.clock_ahead, node.clock_stopped_at = node.clock_stopped_at - self.now, None
        for name in self._names:
            if name not in self.nodes:
                self._start(name)
        for server in range(self._servers):
            self.do_row(server)
        for count in range(rounds):
            if not (waiting := self.find_waiting()) and self.is_balanced:
                self._check_posted()
                return count
            self.run_round()
        raise ViolationError(f"after {rounds} rounds without faults: rows {waiting}, leases {self.table.leases}")

    def find_waiting(self) -> list[Row]:
        """Return the newest rows that have no forecast."""
        return [
            Row(server, step, life)
            for server, step in self._steps.items()
            if step
            and Row(server, step, life := self._lives.get(server, 0)) not in self.streams[self._place(server)].forecast
        ]

    def list_owners(self) -> dict[int, str]:
        """Return the node that holds each shard by the table, if it is alive."""
        return {
            shard: lease.node
            for shard, (lease, _) in self.table.leases.items()
            if (node := self.nodes.get(lease.node)) is not None and node.run == lease.run
        }

    @property
    def is_balanced(self) -> bool:
        """Whether each shard has a living owner, and no node one shard more than its share."""
        owners = list(self.list_owners().values())
        counts = [owners.count(name) for name in self.nodes]
        return len(owners) == self.shards and max(counts) - min(counts) <= 1

    def keep_posted(self, posted: dict[Row, str]) -> None:
        """Take what a node showed its readers; raises `ViolationError` if another one showed other numbers."""
        for row, maker in posted.items():
            if self._posted.setdefault(row, maker) != maker:
                raise ViolationError(f"readers saw {row} of {self._posted[row]} and of {maker}")

    def _check_posted(self) -> None:
        for node in self.nodes.values():
            for each in node.shards.values():
                self.keep_posted(each.posted)
        for row, maker in self._posted.items():
            if self.streams[self._place(row.server)].forecast.get(row) != maker:
                raise ViolationError(f"readers saw {row} of {maker}, which is not in the log")

    def _start(self, name: str) -> None:
        self._runs += 1
        self.nodes[name] = ModelNode(name, self._runs, self)

    def _end(self, node: ModelNode) -> None:
        del self.nodes[node.name]
        for shard in list(node.shards):
            node._close(shard)

    def _pick(self, number: int) -> ModelNode | None:
        nodes = list(self.nodes.values())
        return nodes[number % len(nodes)] if nodes else None

    def _pick_server(self, number: int) -> tuple[int, str]:
        server = f"server-{number % self._servers}"
        return self._place(server), server

    def _place(self, server: str) -> int:
        return int(server.rpartition("-")[2]) % self.shards
