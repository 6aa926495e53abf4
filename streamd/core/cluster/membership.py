"""The nodes of a cluster as one of them hears them: who is alive, and which run of a name is the present one.

Decides by heartbeats and time that is given; sends and receives nothing. Other nodes may hear otherwise: leases and
fences are safe whatever this says.
"""

from collections.abc import Mapping
from enum import Enum

import msgspec

HEARTBEAT_SECONDS = 0.5

OWN_SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS
"""If a node's own heartbeats do not come back for so long, its connection is at fault, not all the others."""

FORMER_RUN_SECONDS = 60.0
"""No heartbeat is on its way for so long: a lower run then is a later one, as after the table of nodes was deleted."""

KEPT_SILENT_SECONDS = 3_600.0
MAX_NODES = 1_000


class NodePhase(Enum):
    """The phases of a run of a node."""

    JOINING = "joining"
    """It starts: it can own nothing yet."""
    SERVING = "serving"
    DRAINING = "draining"
    """An operator wants its shards elsewhere; it goes on if there is no other node."""
    LEAVING = "leaving"
    """Its process ends: it hands over what it owns and takes nothing."""
    GONE = "gone"
    """It owns nothing any more: its last heartbeat."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A node's report of itself, twice a second.

    `run` is greater for each later run of the same name. `beat` counts the heartbeats of a run. `time` is the sender's
    wall clock in epoch seconds. `hindrances` are the reasons for which it should own nothing (`clock`, `disk`,
    `version`, ...); `cannot_own` is true if it could not forecast at all. `shards` are those that it owns.
    """

    node: str
    run: int
    beat: int
    time: float
    phase: NodePhase = NodePhase.SERVING
    hindrances: tuple[str, ...] = ()
    cannot_own: bool = False
    shards: tuple[int, ...] = ()
    version: str = ""
    details: Mapping[str, float] = {}
    """Numbers for operators: rows in the buffer, lag, servers."""


class Membership:
    """The nodes that the node `node` in its run `run` hears; all times are its monotonic seconds.

    A node is alive for `lease_seconds` after its last heartbeat. Suspicion stands still while the own heartbeats do not
    come back: `_observed` is the time in which others could be heard.
    """

    def __init__(self, node: str, run: int, lease_seconds: float, now: float) -> None:
        self.node = node
        self.run = run
        self._lease_seconds = lease_seconds
        self._observed = 0.0
        self._own_heard_at = now
        self._newest: dict[str, Heartbeat] = {}
        self._heard_at: dict[str, float] = {}
        """When each was heard last, in observed seconds."""
        self._awaited: dict[tuple[str, int], float] = {}
        """Since when a run that was never heard is waited for, in observed seconds."""
        self._changed_at = now
        self._able: frozenset[tuple[str, int]] = frozenset()

    def hear(self, heartbeat: Heartbeat, now: float) -> bool:
        """Take a heartbeat, of any node; returns false for one that is late, or of a run that was replaced."""
        if heartbeat.node == self.node and heartbeat.run == self.run:
            if not self.is_observing(now):
                self._begin_anew(now)
            self._observed = self._observe(now)
            self._own_heard_at = max(self._own_heard_at, now)
        former = self._newest.get(heartbeat.node)
        if former is not None and (heartbeat.run, heartbeat.beat) <= (former.run, former.beat):
            silence = self._observe(now) - self._heard_at[heartbeat.node]
            if heartbeat.run == former.run or silence < FORMER_RUN_SECONDS:
                return False
        if former is None and len(self._newest) >= MAX_NODES and not self.remove_silent(now):
            return False
        self._newest[heartbeat.node] = heartbeat
        self._heard_at[heartbeat.node] = self._observe(now)
        self._awaited = {key: since for key, since in self._awaited.items() if key[0] != heartbeat.node}
        return True

    def list_alive(self, now: float) -> list[Heartbeat]:
        """Return the newest heartbeat of each node that is alive, by name; of this node too once it was heard."""
        return sorted((each for each in self._newest.values() if self._is_heard(each, now)), key=lambda each: each.node)

    def is_alive(self, node: str, run: int, now: float) -> bool:
        """Whether a run of a node may be alive: one that was never heard is, until there was time to hear it."""
        newest = self._newest.get(node)
        if newest is None or newest.run < run:  # a lease may be read before its holder's first heartbeat
            observed = self._observe(now)
            return observed - self._awaited.setdefault((node, run), observed) < self._lease_seconds
        return newest.run == run and self._is_heard(newest, now)

    def is_observing(self, now: float) -> bool:
        """Whether the own heartbeats come back, so that the silence of others means something."""
        return now - self._own_heard_at <= OWN_SILENCE_SECONDS

    @property
    def is_replaced(self) -> bool:
        """Whether a later run of this node's name was heard: two nodes have one name, and this one must end."""
        newest = self._newest.get(self.node)
        return newest is not None and newest.run > self.run

    def measure_calm(self, now: float) -> float:
        """Return for how many seconds the nodes that should own shards have been the same."""
        able = frozenset((each.node, each.run) for each in self.list_alive(now) if is_eligible(each))
        if able != self._able:
            self._able, self._changed_at = able, now
        return now - self._changed_at

    def remove_silent(self, now: float) -> list[str]:
        """Forget nodes that were silent for an hour, and return their names."""
        limit = self._observe(now) - KEPT_SILENT_SECONDS
        silent = [node for node, heard in self._heard_at.items() if heard < limit]
        for node in silent:
            del self._newest[node], self._heard_at[node]
        return silent

    def _begin_anew(self, now: float) -> None:
        """After an own silence: others may themselves come back later.

        If it was as long as the lease, they have seen this node go and come, so calm begins anew. Else the time only
        does not count: on a host with little CPU time such pauses are common, and calm would never come.
        """
        silence = now - self._own_heard_at
        self._changed_at = now if silence >= self._lease_seconds else min(self._changed_at + silence, now)
        for each in self.list_alive(now):
            self._heard_at[each.node] = self._observe(now)

    def _is_heard(self, heartbeat: Heartbeat, now: float) -> bool:
        is_recent = self._observe(now) - self._heard_at[heartbeat.node] < self._lease_seconds
        return is_recent and heartbeat.phase is not NodePhase.GONE

    def _observe(self, now: float) -> float:
        return self._observed + max(0.0, min(now - self._own_heard_at, OWN_SILENCE_SECONDS))


def is_eligible(heartbeat: Heartbeat) -> bool:
    """Whether a node should own shards."""
    return heartbeat.phase is NodePhase.SERVING and not heartbeat.cannot_own and not heartbeat.hindrances


def is_able(heartbeat: Heartbeat) -> bool:
    """Whether a node could own shards if there were no better one."""
    return heartbeat.phase in (NodePhase.SERVING, NodePhase.DRAINING) and not heartbeat.cannot_own


def find_namesake(heartbeats: list[Heartbeat], node: str) -> Heartbeat | None:
    """Return a living node's heartbeat under the name of one that is about to start; `None` if the name is free."""
    return next((each for each in heartbeats if each.node == node and each.phase is not NodePhase.GONE), None)
