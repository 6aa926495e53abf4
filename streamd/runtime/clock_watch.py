"""Compares stored rows with the machine's clock: reports servers that are ahead of it, and recovers from them.

Called on the event loop about once a second; nothing here waits.
"""

import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

import structlog

from streamd.runtime.accuracy.live import LiveAccuracy
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

MAX_NAMED = 20
"""The number of servers that a log line or the status names; all are counted."""

NO_LIMIT_SECONDS = 2.0**53
"""Stands for the end of time if samples may lie ahead without a limit (`max_ahead_seconds = inf`)."""

SEEN_TOLERANCE_SECONDS = 5.0
"""The time that `last_seen` may be ahead of the clock, because a clock that is adjusted steps back a little."""


class SlotRewinder(Protocol):
    """The owner of all that is stored of a server (`SlotOwners`)."""

    def rewind(self, slot: int, last_step: int) -> int:
        """Drop a server's rows after a step; returns the number of rows."""
        ...


class ClockWatch:
    """Finds servers that are ahead of the clock, and rewinds those whose own present samples contradict that.

    A server is ahead if its newest row is more than a step beyond the latest time that a sample may have at present.
    `wall` returns epoch seconds, `clock` monotonic seconds.
    """

    def __init__(
        self,
        state: State,
        accuracy: LiveAccuracy,
        *,
        max_ahead_seconds: float,
        recovery_seconds: float,
        rewinder: SlotRewinder,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rewound_servers = 0
        self.dropped_rows = 0
        self._state = state
        self._accuracy = accuracy
        self._max_ahead_seconds = max_ahead_seconds
        self._recovery_seconds = recovery_seconds
        self._rewinder = rewinder
        self._wall = wall
        self._clock = clock
        self._rewound: list[str | None] = []  # names that are not logged yet
        self._dropped = 0
        self._scores_ahead_since: float | None = None
        self._seen_ahead_since: float | None = None

    @property
    def last_step(self) -> int:
        """The last step that is not ahead of the clock."""
        return self._state.contract.to_step(min(self._wall() + self._max_ahead_seconds, NO_LIMIT_SECONDS)) + 1

    def sweep(self) -> None:
        """Check all servers and the scores."""
        now = self._clock()
        self._report(self._state.ahead.refresh(self.last_step))
        for slot in list(self._state.ahead.contradicted_since):
            self._recover(slot, now)
        self._log_rewound()
        self._recover_scores(now)
        self._recover_seen(now)

    def contradict(self, slot: int) -> None:
        """Note that a server which is ahead sent a present sample; rewind it if it has done so for long enough."""
        now = self._clock()
        self._state.ahead.contradict(slot, now)
        self._recover(slot, now)

    def _recover(self, slot: int, now: float) -> None:
        if not self._state.ahead.is_refuted(slot, now, self._recovery_seconds):
            return
        last_step = self.last_step
        if self._state.ahead.get_latest_step(slot) <= last_step:
            self._state.ahead.forget(slot)  # the clock was adjusted in the meantime
            return
        self._rewound.append(self._state.directory.names[slot])
        self._dropped += self._rewinder.rewind(slot, last_step)
        self.rewound_servers += 1

    # ------------------------------------------------------------ reports
    def describe(self, may_name: Callable[[str], bool]) -> dict[str, Any]:
        """Return the entry `ahead` of `/v1/status`; a server is named only if `may_name` says so."""
        slots = sorted(self._state.ahead.contradicted_since, key=lambda slot: -self._state.ahead.get_latest_step(slot))
        names = self._state.directory.names

        def is_named(slot: int) -> bool:
            name = names[slot]
            return name is not None and may_name(name)

        return {
            "servers": len(slots),
            "first": [self._describe_server(slot) for slot in islice(filter(is_named, slots), MAX_NAMED)],
            "rewound": self.rewound_servers,
            "dropped_rows": self.dropped_rows + self._dropped,
        }

    def _describe_server(self, slot: int) -> dict[str, Any]:
        origin = self._state.contract.to_origin(self._state.ahead.get_latest_step(slot))
        return {
            "server": self._state.directory.names[slot],
            "origin": origin,
            "seconds": round(origin - self._wall(), 1),
            "contradicted": self._state.ahead.contradicted_since[slot] is not None,
        }

    def _report(self, slots: list[int]) -> None:
        if not slots:
            return
        slots.sort(key=lambda slot: -self._state.ahead.get_latest_step(slot))
        log.warning(
            "servers_ahead_of_clock",
            count=len(slots),
            furthest_seconds=self._describe_server(slots[0])["seconds"],
            servers=[self._state.directory.names[slot] for slot in slots[:MAX_NAMED]],
            remedy="a server's clock was ahead, or this machine's is behind; the rows ahead are dropped once the server"
            f" itself has sent present samples for {self._recovery_seconds:g} s (ahead_recovery_seconds);"
            " DELETE /v1/servers/{server} forgets a server at once",
        )

    def _log_rewound(self) -> None:
        if self._rewound:
            log.warning(
                "servers_rewound",
                count=len(self._rewound),
                dropped_rows=self._dropped,
                servers=self._rewound[:MAX_NAMED],
                reason="their rows ahead of the clock were dropped, because their samples are of the present",
            )
            self.dropped_rows += self._dropped
            self._rewound, self._dropped = [], 0

    # ------------------------------------------------------------ scores and last_seen
    def _recover_scores(self, now: float) -> None:
        """Restart the scores if their clock is ahead: until it is passed, every forecast is too late to be scored."""
        if self._accuracy.scorer.now_step <= self.last_step:
            self._scores_ahead_since = None
        elif self._has_lasted(self._scores_ahead_since, now):
            log.warning("accuracy_restarted", reason="a forecast with an origin ahead of the clock was scored")
            self._accuracy.restart_scores()
            self._scores_ahead_since = None
        elif self._scores_ahead_since is None:
            self._scores_ahead_since = now

    def _recover_seen(self, now: float) -> None:
        """Count servers that were seen ahead as seen now; otherwise they would be evicted last, even if silent."""
        wall = self._wall()
        if not self._state.directory.is_seen_after(wall + SEEN_TOLERANCE_SECONDS):
            self._seen_ahead_since = None
        elif self._has_lasted(self._seen_ahead_since, now):
            self._state.directory.limit_last_seen(wall)
            self._seen_ahead_since = None
        elif self._seen_ahead_since is None:
            self._seen_ahead_since = now

    def _has_lasted(self, since: float | None, now: float) -> bool:
        return since is not None and now - since >= self._recovery_seconds
