"""One record of the table of alerts, while this node owns its shard: claimed, changed, and left to a successor.

    CLAIMING → KEEPING → ENDED

A change is shown once it is stored, as on one host it is shown once it is on the disk: a successor knows of each alert
that a receiver was notified of. Each write states the revision before it, so a node that was cut off changes nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial

import structlog

from streamd.cluster.alerts.alert_records import AlertRecord, AlertRecordError, decode_record, encode_record
from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.log import Entry, LogAwayError, SharedTable, WrongSequenceError
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.errors import TooLargeError
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey
from streamd.runtime.alerts.store import DeliveryMark, StoredAlert, StoredChange
from streamd.runtime.background import run_in_background

log = structlog.get_logger(__name__)

STALE_SECONDS = 10.0
"""The interval at which alerts are stored that are only refreshed."""

HELD_SECONDS = 60.0
"""A change that cannot be stored for so long is shown all the same: the log is away, and receivers wait."""

WRITE_RETRY_SECONDS = 0.5
READ_LAG_SECONDS = 0.05
MAX_ENCODED_AT_ONCE = 200
"""Records of more alerts are encoded in a thread."""


class PartState(Enum):
    """The stages of a record at this node."""

    CLAIMING = "claiming"
    KEEPING = "keeping"
    ENDED = "ended"


class OwnedAlertRecord:
    """A record under a fence; `find_entry` returns what this node has read of it last.

    `show` is called with batches of changes that are stored; `fenced` once it turns out that there is a later owner.
    """

    def __init__(
        self,
        key: str,
        fence: int,
        table: SharedTable,
        *,
        find_entry: Callable[[str], Entry | None],
        show: Callable[["OwnedAlertRecord", Sequence[AlertChange]], None],
        fenced: Callable[["OwnedAlertRecord"], None],
        max_resolved: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self.fence = fence
        self.state = PartState.CLAIMING
        self.failures = 0
        """How often the record could not be written."""
        self.problem = ""
        """Why the record cannot be claimed; empty if it can."""
        self.active: dict[AlertKey, StoredAlert] = {}
        self.resolved: deque[Alert] = deque(maxlen=max_resolved)
        self.marks: set[DeliveryMark] = set()
        self._table = table
        self._find_entry = find_entry
        self._show = show
        self._fenced = fenced
        self._clock = clock
        self._revision = 0
        self._waiting: deque[tuple[float, Sequence[AlertChange]]] = deque()
        self._due = asyncio.Event()
        self._is_stale = False
        self._keeping: asyncio.Task[None] | None = None

    @property
    def revision(self) -> int:
        """The revision of the record as this node wrote it last."""
        return self._revision

    @property
    def waiting(self) -> int:
        """The number of changes that are not stored yet, and so not shown."""
        return sum(len(changes) for _, changes in self._waiting)

    # ------------------------------------------------------------ claiming
    async def claim(self) -> bool:
        """Take the record over from its former owner, however long the log is away; false if there is a later owner.

        A record that a later release wrote is left as it is, until a node of that release owns the shard.
        """
        while True:
            entry = self._find_entry(self.key)
            try:
                record = _read_entry(self.key, entry)
            except LaterFormatError as exc:
                self._note_problem(str(exc))
                await asyncio.sleep(WRITE_RETRY_SECONDS)
                continue
            if record.fence > self.fence:
                self.state = PartState.ENDED
                return False
            claimed = AlertRecord(fence=self.fence, active=record.active, resolved=record.resolved, marks=record.marks)
            try:
                self._revision = await self._table.put(
                    self.key, await _encode(claimed), expected_revision=0 if entry is None else entry.revision
                )
            except WrongSequenceError:
                await asyncio.sleep(READ_LAG_SECONDS)
            except LogAwayError:
                await asyncio.sleep(WRITE_RETRY_SECONDS)
            else:
                break
        self.problem = ""
        self.active = {each.alert.key: each for each in record.active}
        self.resolved.extend(record.resolved)
        self.marks = set(record.marks)
        self.state = PartState.KEEPING
        self._keeping = start_task(self._keep())
        return True

    def _note_problem(self, problem: str) -> None:
        if problem != self.problem:
            log.error("alerts_not_claimed", record=self.key, fence=self.fence, reason=problem)
        self.problem = problem

    # ------------------------------------------------------------ keeping
    def take(self, changes: Sequence[StoredChange]) -> None:
        """Take changes of distinct alerts; they are shown when they are stored."""
        if self.state is not PartState.KEEPING:
            return
        for stored in changes:
            alert, kind = stored.change.alert, stored.change.kind
            if kind in ("resolved", "dropped"):
                self.active.pop(alert.key, None)
            else:
                self.active[alert.key] = StoredAlert(alert, stored.fingerprint, stored.streak)
            if kind == "resolved":
                self.resolved.appendleft(alert)
        shown = [each.change for each in changes]
        kinds = {each.kind for each in shown}
        if kinds != {"refreshed"}:
            self._due.set()
        if kinds <= {"refreshed", "silenced"} and not self._waiting:
            self._is_stale = True  # no receiver is notified of it, so it need not wait
            self._show(self, shown)
        else:
            self._waiting.append((self._clock(), shown))

    def mark(self, mark: DeliveryMark) -> None:
        """Note that a receiver has got an alert."""
        if mark not in self.marks:
            self.marks.add(mark)
            self._due.set()

    async def _keep(self) -> None:
        while self.state is PartState.KEEPING:
            try:
                async with asyncio.timeout(STALE_SECONDS):
                    await self._due.wait()
            except TimeoutError:
                if not self._is_stale:
                    continue
            await self._write()

    async def _write(self) -> None:
        """Store what is known now; the changes that waited are shown then."""
        self._due.clear()
        is_stale, self._is_stale = self._is_stale, False
        count = len(self._waiting)
        try:
            self._revision = await self._table.put(
                self.key, await _encode(self._make_record()), expected_revision=self._revision
            )
        except WrongSequenceError:
            self._due.set()
            await self._adopt_revision()
        except (LogAwayError, TooLargeError) as exc:
            self.failures += 1
            self._is_stale |= is_stale
            self._due.set()
            self._show_held(isinstance(exc, TooLargeError))
            await asyncio.sleep(WRITE_RETRY_SECONDS)
        else:
            self._show_waiting(count)

    async def _adopt_revision(self) -> None:
        """Find out who changed the record: this node, whose answer was lost, or a later owner."""
        entry = self._find_entry(self.key)
        if entry is not None and entry.revision > self._revision:
            if not self._is_own(entry):
                self.state = PartState.ENDED
                self._fenced(self)
                return
            self._revision = entry.revision
            return
        await asyncio.sleep(READ_LAG_SECONDS)  # this node has not read it yet

    def _is_own(self, entry: Entry) -> bool:
        try:
            return _read_entry(self.key, entry).fence == self.fence
        except LaterFormatError:
            return False  # an owner of a later release wrote it

    def _make_record(self) -> AlertRecord:
        alerts = [*(each.alert for each in self.active.values()), *self.resolved]
        known = {(alert.key, alert.starts_at) for alert in alerts}
        self.marks = {mark for mark in self.marks if (mark.key, mark.starts_at) in known}
        return AlertRecord(
            fence=self.fence,
            active=tuple(self.active.values()),
            resolved=tuple(self.resolved),
            marks=tuple(self.marks),
        )

    def _show_waiting(self, count: int) -> None:
        for _ in range(min(count, len(self._waiting))):
            self._show(self, self._waiting.popleft()[1])

    def _show_held(self, is_permanent: bool) -> None:
        limit = self._clock() - HELD_SECONDS
        held = sum(is_permanent or since <= limit for since, _ in self._waiting)
        if held:
            log.error("alerts_not_stored", record=self.key, changes=held, reason="the log does not take them")
        self._show_waiting(held)

    # ------------------------------------------------------------ the end
    async def end(self) -> None:
        """Write what is not stored, once, and no more after it; nothing more is shown."""
        was_keeping, self.state = self.state is PartState.KEEPING, PartState.ENDED
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        is_due = bool(self._waiting) or self._due.is_set() or self._is_stale
        self._waiting.clear()
        if was_keeping and is_due:
            try:
                await self._table.put(self.key, await _encode(self._make_record()), expected_revision=self._revision)
            except (WrongSequenceError, LogAwayError, TooLargeError) as exc:
                log.info("alerts_left", record=self.key, reason=str(exc))  # the successor evaluates again


def _read_entry(key: str, entry: Entry | None) -> AlertRecord:
    """Return the record of an entry, an empty one for what is damaged; raises `LaterFormatError`."""
    if entry is None:
        return AlertRecord()
    try:
        return decode_record(entry.value)
    except AlertRecordError as exc:
        log.error("alert_record_unreadable", record=key, reason=str(exc))
        return AlertRecord()


async def _encode(record: AlertRecord) -> bytes:
    if len(record.active) + len(record.resolved) <= MAX_ENCODED_AT_ONCE:
        return encode_record(record)
    return await run_in_background(partial(encode_record, record))
