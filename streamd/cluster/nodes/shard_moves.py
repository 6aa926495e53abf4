"""The moves of shards at one node: passes on what the leases decide, and reports to them what came of it.

Decides nothing; what each shard does is in `shard_runner.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from streamd.cluster.log import Entry, Log, SharedTable
from streamd.cluster.nodes.handovers import HandoverRequest, request_handover
from streamd.cluster.nodes.lease_entries import decode_lease, parse_lease_key
from streamd.cluster.nodes.load_turns import LoadTurns
from streamd.cluster.nodes.shard_runner import HeldShard, ShardRunner
from streamd.core.cluster.lease_actions import Action, Activate, Lease, ReleaseLease, Stop
from streamd.core.cluster.leases import LeaseBook
from streamd.core.cluster.shards import ClusterNames

log = structlog.get_logger(__name__)


class ShardMoves:
    """The shards of one run of a node, `me` (`ShardOutcomes`).

    `make_shard` returns a shard that is not loaded; `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        me: Lease,
        book: LeaseBook,
        cluster_log: Log,
        names: ClusterNames,
        leases: SharedTable,
        make_shard: Callable[[int], HeldShard],
        *,
        shards: int,
        clock: Callable[[], float],
    ) -> None:
        self.changes: Counter[str] = Counter()
        """Changes of leases since start, by what became of the shard here: taken, released, lost, failed."""
        self._me = me
        self._book = book
        self._log = cluster_log
        self._names = names
        self._clock = clock
        turns = LoadTurns()
        self._runners = {shard: ShardRunner(shard, make_shard, leases, me, self, turns) for shard in range(shards)}
        self._releasing: set[int] = set()

    def find_held(self, shard: int) -> HeldShard | None:
        """Return a shard that is followed or owned here; `None` if it is neither."""
        runner = self._runners.get(shard)
        return None if runner is None else runner.held

    @property
    def has_later_format(self) -> bool:
        """Whether a shard could not be owned, since a later release has written to its logs; until it was owned."""
        return any(runner.has_later_format for runner in self._runners.values())

    def list_failures(self) -> dict[int, str]:
        """Return the shards that could not be loaded or owned here when that was tried last, with the reasons."""
        return {shard: runner.failure for shard, runner in self._runners.items() if runner.failure}

    async def close(self) -> None:
        """End all shards at once."""
        for runner in self._runners.values():
            await runner.close()

    # ------------------------------------------------------------ to the shards
    def do(self, actions: Iterable[Action]) -> None:
        """Do actions of the leases."""
        for action in actions:
            self._note_change(action)
            log.debug("shard_action", action=action)
            self._runners[action.shard].do(action)

    def _note_change(self, action: Action) -> None:
        """Count and log what becomes of a shard here."""
        if isinstance(action, ReleaseLease):
            self._releasing.add(action.shard)
        elif isinstance(action, Activate):
            self.changes["taken"] += 1
        elif isinstance(action, Stop):
            change = "released" if action.shard in self._releasing else "lost"
            self._releasing.discard(action.shard)
            self.changes[change] += 1
            holder, fence = self._book.find_lease(action.shard)
            log.info(f"shard_{change}", shard=action.shard, to=holder.node, fence=fence)

    def hand_over(self, request: HandoverRequest) -> bool:
        """Begin to release a shard that another node asks for; returns whether it does."""
        release = self._book.answer_handover(request.shard, request.node, request.run, self._clock())
        if release is None:
            return False
        self.do([release])
        return True

    def see_lease(self, key: str, entry: Entry | None) -> None:
        """Take a key of the table of leases."""
        shard = parse_lease_key(key)
        if shard is None:
            return
        if entry is None:
            log.error("lease_deleted", key=key)
            self.do(self._book.lose_lease(shard))
            return
        lease = decode_lease(entry.value)
        if lease is None:
            log.error("lease_unreadable", key=key)
            lease = Lease()  # it is free: else no node could ever own the shard
        self.do(self._book.see_lease(shard, lease, entry.revision))

    # ------------------------------------------------------------ outcomes
    def took(self, shard: int, revision: int | None) -> None:
        """Note the outcome of a take."""
        if revision is None:
            self._book.refuse_take(shard, self._clock())
        else:
            self.do(self._book.confirm_take(shard, revision))

    def prepared(self, shard: int) -> None:
        """Note that a shard is loaded."""
        self._book.mark_prepared(shard)

    def released(self, shard: int, revision: int | None) -> None:
        """Note the outcome of a release."""
        if revision is None:
            self._book.refuse_release(shard, self._clock())
        else:
            self.do(self._book.confirm_release(shard, revision))

    def failed(self, shard: int) -> None:
        """Note that a shard cannot be loaded or owned here."""
        self.changes["failed"] += 1
        self.do(self._book.mark_failed(shard, self._clock()))

    async def ask_handover(self, shard: int, holder: str) -> None:
        """Ask a node for a shard."""
        request = HandoverRequest(shard=shard, node=self._me.node, run=self._me.run)
        await request_handover(self._log, self._names, holder, request)
