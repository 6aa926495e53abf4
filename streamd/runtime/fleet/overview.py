"""The overview of all servers for readers on the event loop: a thread keeps it up to date while somebody looks.

The loop only hands out bytes that the thread has made.
"""

import threading
import time
from collections.abc import Callable

import structlog

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import UnavailableError
from streamd.core.fleet.query import FleetQuery
from streamd.runtime.fleet.active_alerts import AlertView
from streamd.runtime.fleet.entries import FleetFormat
from streamd.runtime.fleet.frames import FrameMaker
from streamd.runtime.fleet.reader import FleetReader, FrameWait
from streamd.runtime.fleet.tables import FleetTables
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 1.0
"""The interval at which the overview takes over what has changed, and a reader gets at most one frame."""

IDLE_SECONDS = 10.0
"""The thread ends, and its tables are dropped, if no reader wanted a frame for so long."""

MAX_PAUSE_SECONDS = 0.005
"""After each piece of work the thread pauses as long as that took, but not longer: the loop has its turn."""

OVERVIEW_END_SECONDS = 2.0
"""The time that `close` waits for the thread."""


class FleetOverview:
    """The overview of the servers of one state; `alerts` is `None` in a process that evaluates no rules.

    `wall` returns epoch seconds, `clock` monotonic seconds. `open`, `answer` and `close` belong to the event loop.
    """

    def __init__(
        self,
        state: State,
        alerts: AlertView | None,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.busy_seconds = 0.0
        """The processor time of the thread since start."""
        self.failures = 0
        """How often the overview could not be made."""
        self.alerts = alerts
        """The source of rules and active alerts, from the next start of the thread on."""
        self._state = state
        self._wall = wall
        self._clock = clock
        self._condition = threading.Condition()
        self._readers: dict[FleetReader, None] = {}
        self._thread: threading.Thread | None = None
        self._wanted_at = 0.0
        self._is_closed = False

    # ------------------------------------------------------------ readers
    def open(self, query: FleetQuery, caller: Caller, scope: Scope, form: FleetFormat) -> FleetReader:
        """Add a reader of frames about the servers that the caller has the scope for; `close` it in the end."""
        return FleetReader(self, FrameMaker(query, caller, scope, form).make_frame)

    async def answer(self, query: FleetQuery, caller: Caller, scope: Scope, form: FleetFormat) -> bytes:
        """Return the answer to a call; raises as `FleetReader.read` does."""
        reader = FleetReader(self, FrameMaker(query, caller, scope, form).make_answer)
        try:
            return await reader.read()
        finally:
            reader.close()

    def __len__(self) -> int:
        """Return the number of readers."""
        return len(self._readers)

    @property
    def is_running(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def want(self, reader: FleetReader, frame: FrameWait) -> None:
        """Let the thread make the next frame of a reader (`ReaderKeeper`)."""
        with self._condition:
            reader.wanted = frame
            if self._is_closed:
                reader.deliver(_make_stopping_error())
                return
            self._readers[reader] = None
            self._wanted_at = self._clock()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
                self._thread.start()
            self._condition.notify()

    def leave(self, reader: FleetReader) -> None:
        """Make no more frames for a reader (`ReaderKeeper`)."""
        with self._condition:
            self._readers.pop(reader, None)

    def close(self) -> None:
        """End the thread, and wait `OVERVIEW_END_SECONDS` for it."""
        with self._condition:
            self._is_closed = True
            thread = self._thread
            self._condition.notify()
        if thread is not None:
            thread.join(OVERVIEW_END_SECONDS)

    # ------------------------------------------------------------ the thread
    def _run(self) -> None:
        work = _Work(self._make_tables, self._wall, self._clock, lambda: self._is_closed)
        while readers := self._wait_for_readers(work):
            began = time.thread_time()
            self._serve(readers, work)
            self.busy_seconds += time.thread_time() - began

    def _make_tables(self) -> FleetTables:
        return FleetTables(self._state, self.alerts)

    def _wait_for_readers(self, work: "_Work") -> list[FleetReader]:
        """Wait until a frame can be made, and return the readers that want one; empty if the thread must end."""
        with self._condition:
            while not self._is_closed:
                readers, now = [reader for reader in self._readers if reader.wanted is not None], self._clock()
                if readers and (now >= work.due or any(reader.is_new for reader in readers)):
                    return readers
                until = work.due if readers else self._wanted_at + IDLE_SECONDS
                if now >= until:
                    break
                self._condition.wait(until - now)
            self._thread = None
            for reader in self._readers:
                reader.deliver(_make_stopping_error())
            return []

    def _serve(self, readers: list[FleetReader], work: "_Work") -> None:
        """Make the frames of readers; one that fails gets an error if it has got nothing before."""
        try:
            is_refreshed = work.refresh()
            # The new ones first: with many others their turn would come late, and they have nothing to show yet.
            for reader in sorted(readers, key=lambda each: not each.is_new):
                # One that has left meanwhile waits no more: a reader may change its query a thousand times a second.
                if (is_refreshed or reader.is_new) and self._has_reader(reader):
                    self._make_frame(reader, work.tables)
                    work.pause()
        except _StoppedError:
            return
        except Exception:
            self._fail(readers)

    def _has_reader(self, reader: FleetReader) -> bool:
        with self._condition:
            return reader in self._readers

    def _make_frame(self, reader: FleetReader, tables: FleetTables) -> None:
        try:
            frame = tables.make_frame(reader.make_frame)
        except Exception:
            self._fail([reader])
            return
        if frame is not None:
            self._deliver(reader, frame)

    def _fail(self, readers: list[FleetReader]) -> None:
        self.failures += 1
        log.exception("fleet_not_made", readers=len(readers))
        for reader in readers:
            if reader.is_new:
                self._deliver(reader, UnavailableError("the overview cannot be made; the daemon logs the reason"))

    def _deliver(self, reader: FleetReader, frame: bytes | UnavailableError) -> None:
        with self._condition:
            reader.deliver(frame)


class _StoppedError(Exception):
    """The overview was closed in the middle of a refresh."""


class _Work:
    """The tables of one thread, and when they are refreshed."""

    def __init__(
        self,
        make_tables: Callable[[], FleetTables],
        wall: Callable[[], float],
        clock: Callable[[], float],
        is_stopped: Callable[[], bool],
    ) -> None:
        self.tables = make_tables()
        self._make_tables = make_tables
        self.due = -1.0
        """When the next refresh is due (monotonic seconds)."""
        self._wall = wall
        self._clock = clock
        self._is_stopped = is_stopped
        self._resumed = 0.0

    def refresh(self) -> bool:
        """Refresh the tables if that is due, and return whether it was; those of a refresh that failed are dropped."""
        now = self._clock()
        if now < self.due:
            return False
        self.due = now + REFRESH_SECONDS
        self._resumed = time.monotonic()
        try:
            self.tables.refresh(self._wall(), self.pause)
        except Exception:
            self.tables = self._make_tables()
            raise
        return True

    def pause(self) -> None:
        """Let the loop have its turn; raises `_StoppedError` if the overview was closed."""
        if self._is_stopped():
            raise _StoppedError
        time.sleep(min(time.monotonic() - self._resumed, MAX_PAUSE_SECONDS))
        self._resumed = time.monotonic()


def _make_stopping_error() -> UnavailableError:
    return UnavailableError("the daemon is stopping")
