"""Merges due servers and callers' windows by age into micro-batches.

Decides and returns the work; the pipeline does it and reports back. No I/O, no threads and no clock here: the time is
a parameter. Every due row ends in exactly one of: delivered, superseded, failed, forgotten.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from streamd.core.scheduling.coalescing import CoalescingQueue
from streamd.core.scheduling.costs import CostTable


@dataclass(frozen=True, slots=True)
class ServerItem:
    """A server's newest window, as it was when its batch was taken."""

    # Constructed with positional arguments, one for each row of each batch: keywords would cost time there.
    slot: int
    generation: int
    step: int
    context: int
    since: float
    """When the row became due (monotonic seconds)."""


@dataclass(frozen=True, slots=True)
class RequestItem:
    """One window of a caller's request."""

    request: object
    index: int
    since: float


Item = ServerItem | RequestItem


@dataclass(slots=True)
class Batch:
    """Windows that run together, in the order of their rows in the lane's buffers."""

    items: list[Item]
    moves: int = 0
    """The number of lanes that were lost while they ran it."""
    started: float = 0.0
    """When it was taken for a lane (monotonic seconds)."""


@dataclass(slots=True, kw_only=True)
class RowCounts:
    """The due rows since start, by their end: due = delivered + superseded + failed + forgotten + waiting + running."""

    due: int = 0
    delivered: int = 0
    failed: int = 0
    forgotten: int = 0
    stale: int = 0
    """Rows that were on a lane or waited to run again when a newer row of their server replaced them, and rows whose
    window had too few rows when it was their turn. They count as superseded."""


@dataclass(slots=True)
class BatchOutcome:
    """The work that a batch leaves to its caller. What has to run again is queued already."""

    deliver: list[tuple[int, ServerItem]] = field(default_factory=list)
    """The forecasts to deliver, as (row in the batch, item)."""
    answer: list[tuple[int, RequestItem]] = field(default_factory=list)
    """The callers' windows to answer, as (row in the batch, item)."""
    fail: list[Item] = field(default_factory=list)
    """The windows that get no forecast."""


class Scheduler:
    """The queue of due servers, the queue of callers' windows, and the batches made of them.

    `snapshot(slot)` returns the present `(generation, newest step, rows in its window)` of a slot; `posted(slot)`
    returns the step of the newest forecast that was posted for it; a window with fewer than `need` rows is not
    forecast.
    """

    def __init__(
        self,
        snapshot: Callable[[int], tuple[int, int, int]],
        posted: Callable[[int], int],
        *,
        need: int,
        max_queue_delay_seconds: float,
        max_waiting_requests: int,
    ) -> None:
        self.due: CoalescingQueue[int] = CoalescingQueue()
        """The slots that wait for the first time, each once."""
        self.retries: deque[Batch] = deque()
        """Batches that run again: whole ones of lost lanes, and halves of failed ones. They run before all others."""
        self.counts = RowCounts()
        self.need = need
        self.max_queue_delay_seconds = max_queue_delay_seconds
        self.max_waiting_requests = max_waiting_requests
        self._snapshot = snapshot
        self._posted = posted
        self.dropped_windows = 0
        """Callers' windows since start that were removed before they ran, because their call was over."""
        # By request: one of thousands is removed without a search through the others.
        self._requests: OrderedDict[object, deque[RequestItem]] = OrderedDict()
        self._request_windows = 0
        self._calls: set[object] = set()  # from `add_request` to `drop_request`

    # ------------------------------------------------------------ work in
    def mark_due(self, slot: int, now: float, rows: int = 1) -> None:
        """Queue a server that has `rows` more due rows; one that waits already keeps its place."""
        self.counts.due += rows
        self.due.mark(slot, now, rows)

    def forget(self, slot: int) -> None:
        """Remove a slot whose server was forgotten from the queue."""
        if self.due.discard(slot):
            self.counts.forgotten += 1

    def add_request(self, request: object, windows: int, now: float) -> bool:
        """Queue all windows of a call; returns `False` and queues nothing if the queue has no space for all of them.

        Call `drop_request` when the call is over, however it ends.
        """
        if self._request_windows + windows > self.max_waiting_requests:
            return False
        self._calls.add(request)
        self._requests[request] = deque(RequestItem(request, index, now) for index in range(windows))
        self._request_windows += windows
        return True

    def drop_request(self, request: object) -> None:
        """End a call: its waiting windows are removed, and those on a lane do not run again."""
        self._calls.discard(request)
        before = self.waiting
        self._request_windows -= len(self._requests.pop(request, ()))
        if self.retries:
            for batch in self.retries:
                batch.items = self._remove_ended_calls(batch.items)
            self.retries = deque(batch for batch in self.retries if batch.items)
        self.dropped_windows += before - self.waiting

    def _remove_ended_calls(self, items: list[Item]) -> list[Item]:
        return [item for item in items if isinstance(item, ServerItem) or item.request in self._calls]

    def withdraw_requests(self) -> list[RequestItem]:
        """Remove and return all callers' windows that wait; call it when no lane is left to run them."""
        withdrawn = list(self.queued_requests())
        self._requests.clear()
        self._request_windows = 0
        for batch in self.retries:
            withdrawn += [item for item in batch.items if isinstance(item, RequestItem)]
            batch.items = [item for item in batch.items if not isinstance(item, RequestItem)]
        return withdrawn

    def withdraw_all(self) -> list[int]:
        """Remove and return the slots of all servers that wait, also of those that wait to run again.

        Another scheduler takes them over: their rows count there, and here as if they had never been due. Callers'
        windows stay.
        """
        slots = self.due.take(len(self.due))
        for batch in self.retries:
            remaining: list[Item] = []
            for item in batch.items:
                if isinstance(item, RequestItem):
                    remaining.append(item)
                elif self._snapshot(item.slot)[0] != item.generation:
                    self.counts.forgotten += 1
                else:
                    slots.append(item.slot)
            batch.items = remaining
        self.retries = deque(batch for batch in self.retries if batch.items)
        self.counts.due -= len(slots)
        return slots

    def withdraw_failed(self) -> None:
        """Uncount a row that failed here, because another scheduler takes it over."""
        self.counts.failed -= 1
        self.counts.due -= 1

    def row_counts(self) -> dict[str, int]:
        """Return the rows since start by their end; `due` is the sum of the others and of what waits or runs."""
        return {
            "due": self.counts.due,
            "delivered": self.counts.delivered,
            "superseded": self.superseded,
            "failed": self.counts.failed,
            "forgotten": self.counts.forgotten,
        }

    @property
    def superseded(self) -> int:
        """Due rows that a newer row of their server replaced before they were delivered."""
        return self.due.superseded + self.counts.stale

    @property
    def waiting(self) -> int:
        """The number of windows that wait for a lane, servers' and callers'."""
        return len(self.due) + self._request_windows + sum(len(batch.items) for batch in self.retries)

    def queued_requests(self) -> Iterator[RequestItem]:
        """Yield the callers' windows that wait for the first time, the longest waiting first."""
        return chain.from_iterable(self._requests.values())

    @property
    def waiting_requests(self) -> int:
        """The number of callers' windows that wait for a lane, for the first time or again."""
        again = sum(isinstance(item, RequestItem) for batch in self.retries for item in batch.items)
        return self._request_windows + again

    @property
    def calls(self) -> int:
        """The number of calls that wait for an answer."""
        return len(self._calls)

    # ------------------------------------------------------------ work out
    def next_batch(self, now: float, idle_lanes: int, costs: CostTable, expects_rows: bool) -> Batch | None:
        """Return the next batch, or `None` if nothing should run now.

        1. A batch that must run again is first; windows in it that became obsolete are left out, perhaps all.
        2. Otherwise the longest waiting windows run at once if a lane is idle, as many as `costs` recommends.
        3. Only while more rows are certain to arrive (`expects_rows`) and the batch is not full, they are held back,
           until `dispatch_deadline` at most.
        """
        if idle_lanes < 1:
            return None
        if self.retries:
            return self._refresh(self.retries.popleft(), now, costs.max_batch)
        waiting = len(self.due) + self._request_windows
        if not waiting or (expects_rows and waiting < costs.max_batch and now < self.dispatch_deadline):
            return None
        return Batch(self._take_oldest(costs.choose_batch_size(waiting, idle_lanes)), started=now)

    @property
    def dispatch_deadline(self) -> float:
        """The moment until which the longest waiting window may be held back (monotonic seconds)."""
        oldest = (self._oldest_request_since, self.due.oldest_since)
        return min((since for since in oldest if since is not None), default=0.0) + self.max_queue_delay_seconds

    @property
    def _oldest_request_since(self) -> float | None:
        first = next(iter(self._requests.values()), None)
        return None if first is None else first[0].since

    def _take_request(self) -> RequestItem:
        """Remove and return the callers' window that waits the longest."""
        request, items = next(iter(self._requests.items()))
        item = items.popleft()
        self._request_windows -= 1
        if not items:
            del self._requests[request]
        return item

    def _take_oldest(self, count: int) -> list[Item]:
        """Remove and return the `count` longest waiting windows of both queues."""
        items: list[Item] = []
        while len(items) < count and (self._requests or self.due):
            due_since, request_since = self.due.oldest_since, self._oldest_request_since
            if request_since is not None and (due_since is None or request_since <= due_since):
                items.append(self._take_request())
            else:
                assert due_since is not None
                (slot,) = self.due.take(1)
                item = self._make_item(slot, due_since)
                if item.context >= self.need:
                    items.append(item)
                else:
                    self.counts.stale += 1  # a gap in its rows emptied the window while it waited
        return items

    def _make_item(self, slot: int, since: float) -> ServerItem:
        generation, step, context = self._snapshot(slot)
        return ServerItem(slot, generation, step, context, since)

    def _refresh(self, batch: Batch, now: float, max_batch: int) -> Batch:
        """Return a batch that runs again, with its servers' windows as they are now.

        1. If it is larger than the largest bucket, because another backend took it, the rest waits as a batch.
        2. A caller's window runs again as it is.
        3. A server that was forgotten in the meantime is left out.
        4. So is a row whose server has a newer one: that one waits, or is on a lane.
        5. Any other server runs with the rows that its window has now.
        """
        if rest := batch.items[max_batch:]:
            self.retries.appendleft(Batch(rest, moves=batch.moves))
            batch = Batch(batch.items[:max_batch], moves=batch.moves)
        items: list[Item] = []
        for item in batch.items:
            if isinstance(item, RequestItem):
                items.append(item)
            elif self._snapshot(item.slot)[0] != item.generation:
                self.counts.forgotten += 1
            elif self._snapshot(item.slot)[1] > item.step:
                self.counts.stale += 1
            else:
                items.append(self._make_item(item.slot, item.since))
        return Batch(items, moves=batch.moves, started=now)

    # ------------------------------------------------------------ results
    def complete_batch(self, batch: Batch, bad_rows: Iterable[int] = ()) -> BatchOutcome:
        """Account for a batch that ran; the windows in `bad_rows`, whose forecasts are not finite, fail alone.

        A forecast of a forgotten server is dropped, and one that is not newer than the posted one as well.
        """
        outcome = BatchOutcome()
        bad = set(bad_rows)
        for row, item in enumerate(batch.items):
            if row in bad:
                self._fail_item(item, outcome)
            elif isinstance(item, RequestItem):
                outcome.answer.append((row, item))
            elif self._snapshot(item.slot)[0] != item.generation:
                self.counts.forgotten += 1
            elif self._posted(item.slot) >= item.step:
                self.counts.stale += 1
            else:
                self.counts.delivered += 1
                outcome.deliver.append((row, item))
        return outcome

    def bisect_batch(self, batch: Batch) -> BatchOutcome:
        """Account for a batch that its engine refused: its halves run again, and a single window fails.

        So a window that is to blame fails alone: one in a batch of n takes 2 log2(n) more runs.
        """
        outcome = BatchOutcome()
        if len(batch.items) == 1:
            self._fail_item(batch.items[0], outcome)
        else:
            middle = len(batch.items) // 2
            self._queue_retry(batch.items[:middle], batch.moves)
            self._queue_retry(batch.items[middle:], batch.moves)
        return outcome

    def reassign_batch(self, batch: Batch) -> BatchOutcome:
        """Account for a batch whose lane was lost: it runs on another one, or fails if it was moved before."""
        outcome = BatchOutcome()
        if batch.moves:
            for item in batch.items:
                self._fail_item(item, outcome)
        else:
            self._queue_retry(batch.items, moves=1)
        return outcome

    def _queue_retry(self, items: list[Item], moves: int) -> None:
        """Queue windows to run again, without those whose call has ended in the meantime."""
        remaining = self._remove_ended_calls(items)
        self.dropped_windows += len(items) - len(remaining)
        if remaining:
            self.retries.append(Batch(remaining, moves))

    def _fail_item(self, item: Item, outcome: BatchOutcome) -> None:
        outcome.fail.append(item)
        if isinstance(item, ServerItem):
            self.counts.failed += 1
