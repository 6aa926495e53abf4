"""The use that callers make of their limits on rows, sockets and servers. Monotonic time is a parameter."""

from collections.abc import Callable
from dataclasses import dataclass

from streamd.core.errors import RateLimitedError, TooManyServersError

BURST_SECONDS = 10.0
"""A caller that was silent may send the rows of this many seconds at once: agents send in bursts, not evenly."""


@dataclass(frozen=True)
class UsageLimits:
    """The limits of one token; `None` is no limit."""

    rows_per_second: float | None = None
    max_sockets: int | None = None
    max_servers: int | None = None


NO_LIMITS = UsageLimits()


class Usage:
    """The use that the callers of one token make of its limits, all connections together.

    Rows are charged after they were taken, since their number is known only then. So a body may leave a debt, and
    the next one waits until it is paid: over any time, the rows are at most `rows_per_second` times the seconds, plus
    one burst and the bodies that were being taken when the allowance ran out (one for each connection).
    """

    def __init__(self, limits: UsageLimits = NO_LIMITS) -> None:
        self.limits = limits
        self.sockets = 0
        self.refusals = 0
        """Requests and sockets that were refused by a limit."""
        self._servers: set[str] = set()
        self.knows_server: Callable[[str], bool] = self._servers.__contains__
        """Whether a server is recorded; the method of the set itself, since it is called for each sample."""
        rate = limits.rows_per_second
        # At least one row, or a rate below a row in `BURST_SECONDS` would never permit any.
        self._burst_rows = 0.0 if rate is None else max(rate * BURST_SECONDS, 1.0)
        self._allowed_rows = self._burst_rows
        self._counted_at: float | None = None

    @property
    def is_unlimited(self) -> bool:
        """Whether neither rows nor servers are limited, so that samples need not be counted one by one."""
        return self.limits.rows_per_second is None and self.limits.max_servers is None

    # ------------------------------------------------------------ rows
    def count_wait_seconds(self, now: float) -> float:
        """Return how long this caller must wait before its next row may be taken; 0 if it need not wait."""
        rate = self.limits.rows_per_second
        if rate is None:
            return 0.0
        self._grow_allowance(rate, now)
        return max((1.0 - self._allowed_rows) / rate, 0.0)

    def require_rows(self, now: float) -> None:
        """Raise `RateLimitedError` if this caller must wait before its next row."""
        wait_seconds = self.count_wait_seconds(now)
        if wait_seconds > 0:
            self.refusals += 1
            raise RateLimitedError(
                f"the token sends more than its {self.limits.rows_per_second:g} rows a second; "
                f"wait {wait_seconds:.1f} s",
                wait_seconds=wait_seconds,
            )

    def charge_rows(self, rows: int, now: float) -> None:
        """Charge rows that were taken."""
        rate = self.limits.rows_per_second
        if rate is not None:
            self._grow_allowance(rate, now)
            self._allowed_rows -= rows

    def _grow_allowance(self, rate: float, now: float) -> None:
        if self._counted_at is not None and now > self._counted_at:
            self._allowed_rows = min(self._allowed_rows + (now - self._counted_at) * rate, self._burst_rows)
        self._counted_at = now if self._counted_at is None else max(now, self._counted_at)

    # ------------------------------------------------------------ sockets
    def open_socket(self) -> None:
        """Count a socket or event stream that opens; raises `RateLimitedError` if as many as permitted are open."""
        limit = self.limits.max_sockets
        if limit is not None and self.sockets >= limit:
            self.refusals += 1
            raise RateLimitedError(f"the token has {self.sockets} open sockets, expected at most {limit}")
        self.sockets += 1

    def close_socket(self) -> None:
        """Count a socket that closed; each call belongs to one `open_socket` that raised nothing."""
        assert self.sockets > 0, "it was opened"
        self.sockets -= 1

    # ------------------------------------------------------------ servers
    @property
    def servers(self) -> int:
        """The number of servers recorded as written; always 0 if they are not limited."""
        return len(self._servers)

    def add_server(self, name: str) -> None:
        """Record that this caller writes to a server; raises `TooManyServersError` if it may write to no other one."""
        limit = self.limits.max_servers
        if limit is None or name in self._servers:
            return
        if len(self._servers) >= limit:
            raise TooManyServersError(f"the token writes to {limit} servers already, its limit (max_servers)")
        self._servers.add(name)

    def forget_server(self, name: str) -> None:
        """Free the place of a server that the daemon has forgotten; a no-op if this caller never wrote to it."""
        self._servers.discard(name)
