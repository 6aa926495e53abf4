"""All open connections: their number is limited, and one that keeps the daemon waiting too long is closed.

Decides which connection is closed, and why; `connections.py` closes it. One sweep checks all deadlines: a timer for
each connection would cost more than its requests.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol

import structlog

from streamd.http.requests import TransportLimits
from streamd.runtime.pauses import Pauses

log = structlog.get_logger(__name__)

DEADLINE_CHECK_SECONDS = 1.0
"""The interval of the sweep; with shorter deadlines it is shorter, too."""

CLOSURE_LOG_SECONDS = 10.0
"""The interval at which closed connections are logged, as one event for each reason."""

CLOSED_AT_ONCE = 64
"""At the limit, one in this many connections is closed at once, because finding the oldest checks all of them."""


class CloseReason(StrEnum):
    """A reason for which the daemon closes a connection before its peer does."""

    SLOW_HEAD = "slow_head"
    """The head of a request was not complete in time."""
    IDLE = "idle"
    """No request came for long."""
    SLOW_FRAME = "slow_frame"
    """A message of a WebSocket was begun and not complete in time."""
    STALLED_READER = "stalled_reader"
    """The peer did not read what was sent to it."""
    MEMORY = "memory"
    """The bytes that it held were needed for others."""
    MADE_SPACE = "made_space"
    """It had no request in progress, and others needed a connection."""
    REFUSED = "refused"
    """As many connections were open as may be, each with a request in progress."""
    TLS_HANDSHAKE = "tls_handshake"
    """Its TLS handshake failed, or was not complete in time."""
    CLIENT_CA = "client_ca"
    """Its client certificate was checked against CAs that are replaced."""


class OpenConnection(Protocol):
    """A connection, as the table sees it."""

    waiting_since: float
    """The time from which on it has waited for a request (monotonic seconds); sooner while it has one."""

    @property
    def has_served(self) -> bool:
        """Whether it has had a request."""
        ...

    def is_waiting(self) -> bool:
        """Whether it has no request in progress."""
        ...

    def find_overdue(self, limits: TransportLimits, now: float, pauses: Pauses) -> CloseReason | None:
        """Return why it must be closed now, if it must."""
        ...

    def drop(self, reason: CloseReason) -> None:
        """Close it at once."""
        ...


class ConnectionTable:
    """The open connections of one daemon."""

    def __init__(self, limits: TransportLimits, pauses: Pauses) -> None:
        self.limits = limits
        self.pauses = pauses
        self.closed: Counter[str] = Counter({str(reason): 0 for reason in CloseReason})
        """Connections that the daemon closed, by the reason, since the start."""
        self.handshakes = 0
        """Accepted connections whose TLS handshake is not complete."""
        self.generation = 0
        """The number of calls of `end_former`; a connection that was accepted before the last one must be closed."""
        self._open: dict[OpenConnection, None] = {}
        self._unlogged: Counter[CloseReason] = Counter()
        self._logged_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: OpenConnection) -> bool:
        """Add a new connection; returns false if it must be refused, because no other one can be closed for it."""
        if len(self._open) >= self.limits.max_connections and not self._make_space():
            return False
        self._open[connection] = None
        self._sweep_later()
        return True

    def remove(self, connection: OpenConnection) -> None:
        """Remove a connection that is lost; a second call does nothing."""
        self._open.pop(connection, None)

    def close(self) -> None:
        """Log what is not logged yet and check no more deadlines."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._log_closed()

    def end_former(self) -> None:
        """Close all connections, since their client certificates were checked against CAs that are replaced."""
        self.generation += 1
        for each in list(self._open):
            each.drop(CloseReason.CLIENT_CA)

    # ------------------------------------------------------------ the limit
    def _make_space(self) -> bool:
        """Close those that wait for a request: first those that never had one, then those that have waited longest."""
        waiting = [each for each in self._open if each.is_waiting()]
        waiting.sort(key=lambda each: (each.has_served, each.waiting_since))
        chosen = waiting[: max(1, self.limits.max_connections // CLOSED_AT_ONCE)]
        for each in chosen:
            self.remove(each)
            each.drop(CloseReason.MADE_SPACE)
        return bool(chosen)

    # ------------------------------------------------------------ deadlines
    def _sweep_later(self) -> None:
        if self._timer is None and not self._is_closed:
            limits = self.limits
            shortest = min(limits.head_timeout_seconds, limits.body_timeout_seconds, limits.send_timeout_seconds)
            interval = min(DEADLINE_CHECK_SECONDS, shortest / 4)
            self._timer = asyncio.get_running_loop().call_later(interval, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        self.close_overdue()
        if self._logged_at is None or self.pauses.clock() - self._logged_at >= CLOSURE_LOG_SECONDS:
            self._log_closed()
        if self._open or self._unlogged:
            self._sweep_later()

    def close_overdue(self) -> None:
        """Close each connection that is past one of its deadlines."""
        now = self.pauses.clock()
        overdue = [(each, each.find_overdue(self.limits, now, self.pauses)) for each in self._open]
        for each, reason in overdue:
            if reason is not None:
                each.drop(reason)

    # ------------------------------------------------------------ counts
    def note_closed(self, reason: CloseReason) -> None:
        """Count a connection that the daemon closed; it is logged with others of the same reason."""
        self.closed[reason] += 1
        self._unlogged[reason] += 1
        self._sweep_later()

    def _log_closed(self) -> None:
        self._logged_at = self.pauses.clock() if self._unlogged else self._logged_at
        for reason, count in _sort_by_name(self._unlogged.items()):
            log.warning("connections_closed", reason=str(reason), count=count, open=len(self))
        self._unlogged.clear()


def _sort_by_name(counts: Iterable[tuple[CloseReason, int]]) -> list[tuple[CloseReason, int]]:
    return sorted(counts, key=lambda each: each[0].value)
