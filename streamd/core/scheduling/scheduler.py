"""What runs next: due servers and callers' windows, merged by age into micro-batches.

Decides and returns the work; the pipeline does it and reports back. Every due row ends in exactly one of:
delivered, superseded, failed, forgotten.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from streamd.core.scheduling.coalescing import CoalescingQueue
from streamd.core.scheduling.costs import CostTable


@dataclass(frozen=True, slots=True)
class ServerItem:
    """A server's newest window, as it was when its batch was gathered."""

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
    """How often it was taken from a lost lane."""
    started: float = 0.0


@dataclass(slots=True)
class RowCounts:
    """Where the due rows went, since start: due = delivered + superseded + failed + forgotten + what waits."""

    due: int = 0
    delivered: int = 0
    failed: int = 0
    forgotten: int = 0
    stale: int = 0
    """Rows that a newer row of the same server overtook on their way; they count as superseded."""


@dataclass(slots=True)
class BatchOutcome:
    """What a finished batch leaves to be done."""

    deliver: list[tuple[int, ServerItem]] = field(default_factory=list)
    """(row in the batch, item) of forecasts to post."""
    answer: list[tuple[int, RequestItem]] = field(default_factory=list)
    fail: list[Item] = field(default_factory=list)
    retry: list[Batch] = field(default_factory=list)


class Scheduler:
    """The due set, the callers' queue, and the batches made of them.

    `snapshot(slot)` returns a slot's `(generation, newest step, rows in its window)` at this moment; `posted(slot)`
    the step of the newest forecast posted for it; `need` is how many rows a window must have to be forecast.
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
        self.counts = RowCounts()
        self.need = need
        self.max_queue_delay_seconds = max_queue_delay_seconds
        self.max_waiting_requests = max_waiting_requests
        self._snapshot = snapshot
        self._posted = posted
        self.dropped_windows = 0
        """Callers' windows that were removed before they ran, since start: nobody waited for them any more."""
        # By request, so that one of thousands leaves the line without a look at the others.
        self._requests: OrderedDict[object, deque[RequestItem]] = OrderedDict()
        self._request_windows = 0
        self._calls: set[object] = set()  # from `add_request` to `drop_request`
        self._retries: deque[Batch] = deque()

    # ------------------------------------------------------------ work in
    def mark_due(self, slot: int, now: float, rows: int = 1) -> None:
        """Let a server wait for its turn with `rows` more due rows."""
        self.counts.due += rows
        self.due.mark(slot, now, rows)

    def forget(self, slot: int) -> None:
        """Drop a slot whose server was forgotten."""
        if self.due.discard(slot):
            self.counts.forgotten += 1

    def add_request(self, request: object, windows: int, now: float) -> bool:
        """Queue a caller's windows, none of which waits; false, and nothing queued, where there is no room for them.

        Call `drop_request` when the call is over, however it ends.
        """
        if self._request_windows + windows > self.max_waiting_requests:
            return False
        self._calls.add(request)
        self._requests[request] = deque(RequestItem(request, index, now) for index in range(windows))
        self._request_windows += windows
        return True

    def drop_request(self, request: object) -> None:
        """End a call: those of its windows that wait leave the line, and those on a lane do not run again."""
        self._calls.discard(request)
        before = self.waiting
        self._request_windows -= len(self._requests.pop(request, ()))
        if self._retries:
            for batch in self._retries:
                batch.items = self._still_wanted(batch.items)
            self._retries = deque(batch for batch in self._retries if batch.items)
        self.dropped_windows += before - self.waiting

    def _still_wanted(self, items: list[Item]) -> list[Item]:
        return [item for item in items if isinstance(item, ServerItem) or item.request in self._calls]

    def abandon_requests(self) -> list[RequestItem]:
        """Remove and return all callers' windows that wait: no lane is left to run them."""
        abandoned = list(self.queued_requests())
        self._requests.clear()
        self._request_windows = 0
        for batch in self._retries:
            abandoned += [item for item in batch.items if isinstance(item, RequestItem)]
            batch.items = [item for item in batch.items if not isinstance(item, RequestItem)]
        return abandoned

    def give_up(self) -> list[int]:
        """Remove and return all servers that wait, in the line or to run again; another scheduler takes them over.

        Their rows count there, and here as if they had never been due. Callers' windows stay.
        """
        slots = self.due.take(len(self.due))
        for batch in self._retries:
            kept: list[Item] = []
            for item in batch.items:
                if isinstance(item, RequestItem):
                    kept.append(item)
                elif self._snapshot(item.slot)[0] != item.generation:
                    self.counts.forgotten += 1
                else:
                    slots.append(item.slot)
            batch.items = kept
        self._retries = deque(batch for batch in self._retries if batch.items)
        self.counts.due -= len(slots)
        return slots

    def withdraw_failed(self) -> None:
        """Take back that a row failed and was due here: another scheduler takes it over."""
        self.counts.failed -= 1
        self.counts.due -= 1

    def row_counts(self) -> dict[str, int]:
        """Return where the rows went since start: due = delivered + superseded + failed + forgotten + waiting."""
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
        """Windows that wait for a lane."""
        return len(self.due) + self._request_windows + sum(len(batch.items) for batch in self._retries)

    def queued_requests(self) -> Iterator[RequestItem]:
        """Yield the callers' windows that wait for the first time, the longest waiting first."""
        return chain.from_iterable(self._requests.values())

    @property
    def waiting_requests(self) -> int:
        """Callers' windows that wait for a lane, for the first time or again."""
        again = sum(isinstance(item, RequestItem) for batch in self._retries for item in batch.items)
        return self._request_windows + again

    @property
    def calls(self) -> int:
        """Calls whose caller waits for an answer."""
        return len(self._calls)

    # ------------------------------------------------------------ work out
    def next_batch(self, now: float, idle_lanes: int, costs: CostTable, more_comes: bool) -> Batch | None:
        """Return the next batch, or none where nothing should run now.

        With an idle lane work goes out at once; only while `more_comes` for certain does it wait until
        `wait_until`.
        """
        if idle_lanes < 1:
            return None
        if self._retries:
            return self._again(self._retries.popleft(), now, costs.max_batch)
        waiting = len(self.due) + self._request_windows
        if not waiting or (more_comes and waiting < costs.max_batch and now < self.wait_until()):
            return None
        return Batch(self._take(costs.choose_batch_size(waiting, idle_lanes)), started=now)

    def wait_until(self) -> float:
        """Until when the longest waiting window may be held back (monotonic seconds)."""
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

    def _take(self, count: int) -> list[Item]:
        """Take the longest waiting, whichever queue they wait in."""
        items: list[Item] = []
        while len(items) < count and (self._requests or self.due):
            due_since, request_since = self.due.oldest_since, self._oldest_request_since
            if request_since is not None and (due_since is None or request_since <= due_since):
                items.append(self._take_request())
            else:
                assert due_since is not None
                (slot,) = self.due.take(1)
                item = self._item(slot, due_since)
                if item.context >= self.need:
                    items.append(item)
                else:
                    self.counts.stale += 1  # a gap emptied the window while it waited
        return items

    def _item(self, slot: int, since: float) -> ServerItem:
        generation, step, context = self._snapshot(slot)
        return ServerItem(slot, generation, step, context, since)

    def _again(self, batch: Batch, now: float, max_batch: int) -> Batch:
        """A batch that runs again takes its servers' windows as they are by now.

        Left behind by another backend, it may be larger than any bucket here: the rest then waits as it did.
        """
        if rest := batch.items[max_batch:]:
            self._retries.appendleft(Batch(rest, moves=batch.moves))
            batch = Batch(batch.items[:max_batch], moves=batch.moves)
        items: list[Item] = []
        for item in batch.items:
            if isinstance(item, RequestItem):
                items.append(item)
            elif self._snapshot(item.slot)[0] != item.generation:
                self.counts.forgotten += 1
            elif self._snapshot(item.slot)[1] > item.step:
                self.counts.stale += 1  # a newer row waits already, or is on a lane
            else:
                items.append(self._item(item.slot, item.since))
        return Batch(items, moves=batch.moves, started=now)

    # ------------------------------------------------------------ reports back
    def finished(self, batch: Batch, bad_rows: Iterable[int] = ()) -> BatchOutcome:
        """Take a batch that ran; `bad_rows` are those whose forecast is not finite: they fail alone."""
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

    def failed(self, batch: Batch) -> BatchOutcome:
        """Take a batch that its engine refused: halve it until the window that is to blame stands alone."""
        outcome = BatchOutcome()
        if len(batch.items) == 1:
            self._fail_item(batch.items[0], outcome)
        else:
            middle = len(batch.items) // 2
            self._retry(batch.items[:middle], batch.moves, outcome)
            self._retry(batch.items[middle:], batch.moves, outcome)
        return outcome

    def lost(self, batch: Batch) -> BatchOutcome:
        """Take a batch whose lane was lost: it may run on another, once."""
        outcome = BatchOutcome()
        if batch.moves:
            for item in batch.items:
                self._fail_item(item, outcome)
        else:
            self._retry(batch.items, 1, outcome)
        return outcome

    def _retry(self, items: list[Item], moves: int, outcome: BatchOutcome) -> None:
        """Let windows run again, but for those of callers who have left since."""
        wanted = self._still_wanted(items)
        self.dropped_windows += len(items) - len(wanted)
        if wanted:
            batch = Batch(wanted, moves)
            outcome.retry.append(batch)
            self._retries.append(batch)

    def _fail_item(self, item: Item, outcome: BatchOutcome) -> None:
        outcome.fail.append(item)
        if isinstance(item, ServerItem):
            self.counts.failed += 1
