"""Merges due servers and callers' windows by age into micro-batches.

Decides and returns the work; the pipeline does it and reports back. No I/O, no threads and no clock here: the time is
a parameter. Every due row ends in exactly one of: delivered, superseded, failed, forgotten.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

import numpy as np

from streamd.core.arrays import Numbers, Slots
from streamd.core.scheduling.batch_reasons import BatchReason
from streamd.core.scheduling.batches import Batch, BatchOutcome, RequestItem, ServerRows, join_rows
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.slot_queue import SlotQueue


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


class SlotSnapshots(Protocol):
    """Reads what slots have at present."""

    def __call__(self, slots: Slots, /) -> tuple[Numbers, Numbers, Numbers]:
        """Return the generations, the newest steps, and the numbers of rows in the windows of `slots`; all `(n,)`."""
        ...


class Scheduler:
    """The queue of due servers, the queue of callers' windows, and the batches made of them.

    `snapshot_many` returns what slots have at present; `posted_many(slots)` returns the steps of the newest forecasts
    that were posted for them; a window with fewer than `need` rows is not forecast. There are `capacity` slots.
    """

    def __init__(
        self,
        snapshot_many: SlotSnapshots,
        posted_many: Callable[[Slots], Numbers],
        *,
        capacity: int,
        need: int,
        max_queue_delay_seconds: float,
        max_waiting_requests: int,
    ) -> None:
        self.due = SlotQueue(capacity)
        """The slots that wait for the first time, each once."""
        self.retries: deque[Batch] = deque()
        """Batches that run again: whole ones of lost lanes, and halves of failed ones. They run before all others."""
        self.counts = RowCounts()
        self.need = need
        self.max_queue_delay_seconds = max_queue_delay_seconds
        self.max_waiting_requests = max_waiting_requests
        self._snapshot = snapshot_many
        self._posted = posted_many
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

    def mark_due_many(self, slots: Slots, now: float) -> None:
        """Queue distinct servers that have one more due row each; those that wait already keep their places."""
        self.counts.due += len(slots)
        self.due.mark_many(slots, now)

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
        self._requests[request] = deque([RequestItem(request, index, now) for index in range(windows)])
        self._request_windows += windows
        return True

    def drop_request(self, request: object) -> None:
        """End a call: its waiting windows are removed, and those on a lane do not run again."""
        self._calls.discard(request)
        dropped = len(self._requests.pop(request, ()))
        if not (dropped or self.retries):
            return  # nearly always: it was answered
        self._request_windows -= dropped
        for batch in self.retries:
            remaining = self._remove_ended_calls(batch.requests)
            dropped += len(batch.requests) - len(remaining)
            batch.requests = remaining
        self._remove_empty_retries()
        self.dropped_windows += dropped

    def _remove_ended_calls(self, requests: list[RequestItem]) -> list[RequestItem]:
        return [item for item in requests if item.request in self._calls]

    def _remove_empty_retries(self) -> None:
        if self.retries:
            self.retries = deque(batch for batch in self.retries if len(batch))

    def withdraw_requests(self) -> list[RequestItem]:
        """Remove and return all callers' windows that wait; call it when no lane is left to run them."""
        withdrawn = list(self.queued_requests())
        self._requests.clear()
        self._request_windows = 0
        for batch in self.retries:
            withdrawn += batch.requests
            batch.requests = []
        self._remove_empty_retries()
        return withdrawn

    def withdraw_all(self) -> Slots:
        """Remove and return the slots of all servers that wait, also of those that wait to run again.

        A slot may be returned twice: an older row of it may wait to run again. Another scheduler takes them over: their
        rows count there, and here as if they had never been due. Callers' windows stay.
        """
        parts = [self.due.take(len(self.due))]
        for batch in self.retries:
            generations, _, _ = self._snapshot(batch.servers.slots)
            is_forgotten = generations != batch.servers.generations
            self.counts.forgotten += int(np.count_nonzero(is_forgotten))
            parts.append(batch.servers.slots[~is_forgotten])
            batch.servers = ServerRows()
        self._remove_empty_retries()
        slots = np.concatenate(parts)
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
        return len(self.due) + self._request_windows + sum(map(len, self.retries))

    def queued_requests(self) -> Iterator[RequestItem]:
        """Yield the callers' windows that wait for the first time, the longest waiting first."""
        return chain.from_iterable(self._requests.values())

    @property
    def waiting_requests(self) -> int:
        """The number of callers' windows that wait for a lane, for the first time or again."""
        return self._request_windows + sum(len(batch.requests) for batch in self.retries)

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
        size = costs.choose_batch_size(waiting, idle_lanes)
        batch = self._take_oldest(size, now)
        batch.reason = costs.explain_batch_size(size, waiting, idle_lanes)
        if expects_rows and batch.reason is BatchReason.ALL_WAITING and waiting < costs.max_batch:
            batch.reason = BatchReason.DELAY_OVER
        return batch

    @property
    def dispatch_deadline(self) -> float:
        """The moment until which the longest waiting window may be held back (monotonic seconds)."""
        oldest = (self._oldest_request_since, self.due.oldest_since)
        return min((since for since in oldest if since is not None), default=0.0) + self.max_queue_delay_seconds

    @property
    def _oldest_request_since(self) -> float | None:
        first = next(iter(self._requests.values()), None)
        return None if first is None else first[0].since

    def _take_requests(self, count: int, until: float) -> list[RequestItem]:
        """Remove and return up to `count` callers' windows that wait since a time or longer, the oldest first."""
        taken: list[RequestItem] = []
        while self._requests and len(taken) < count:
            request, items = self._requests.popitem(last=False)
            is_early, room = items[0].since <= until, count - len(taken)
            if is_early and len(items) <= room:
                taken += items
                continue
            if is_early:
                taken += [items.popleft() for _ in range(room)]
            self._requests[request] = items
            self._requests.move_to_end(request, last=False)
            break
        self._request_windows -= len(taken)
        return taken

    def _take_oldest(self, count: int, now: float) -> Batch:
        """Remove the `count` longest waiting windows of both queues, and return them as a batch."""
        servers: list[ServerRows] = []
        requests: list[RequestItem] = []
        left = count
        while left:
            due_since = self.due.oldest_since
            taken = self._take_requests(left, math.inf if due_since is None else due_since)
            requests += taken
            left -= len(taken)
            if due_since is None:
                break
            if left:
                before = self._oldest_request_since
                servers.append(self._take_due(left, math.inf if before is None else before))
                left -= len(servers[-1])
        return Batch(join_rows(servers).sort_by_step(), requests, started=now)

    def _take_due(self, count: int, before: float) -> ServerRows:
        """Remove up to `count` servers that wait since before a time, and return those whose windows can run."""
        slots, since = self.due.take_with_times(count, before)
        generations, steps, contexts = self._snapshot(slots)
        rows = ServerRows(slots=slots, generations=generations, steps=steps, contexts=contexts, since=since)
        is_ready = contexts >= self.need
        if is_ready.all():
            return rows
        self.counts.stale += int(np.count_nonzero(~is_ready))  # a gap in its rows emptied a window while it waited
        return rows.select(is_ready)

    def _refresh(self, batch: Batch, now: float, max_batch: int) -> Batch:
        """Return a batch that runs again, with its servers' windows as they are now.

        1. If it is larger than the largest bucket, because another backend took it, the rest waits as a batch.
        2. A caller's window runs again as it is.
        3. A server that was forgotten in the meantime is left out.
        4. So is a row whose server has a newer one: that one waits, or is on a lane.
        5. Any other server runs with the rows that its window has now.
        """
        if len(batch) > max_batch:
            batch, rest = batch.split(max_batch)
            self.retries.appendleft(rest)
        servers = batch.servers
        generations, steps, contexts = self._snapshot(servers.slots)
        is_forgotten = generations != servers.generations
        is_stale = ~is_forgotten & (steps > servers.steps)
        self.counts.forgotten += int(np.count_nonzero(is_forgotten))
        self.counts.stale += int(np.count_nonzero(is_stale))
        present = replace(servers, steps=steps, contexts=contexts)
        servers = present.select(~(is_forgotten | is_stale))
        return Batch(servers, batch.requests, moves=batch.moves, started=now, reason=batch.reason)

    # ------------------------------------------------------------ results
    def complete_batch(self, batch: Batch, bad_rows: Iterable[int] = ()) -> BatchOutcome:
        """Account for a batch that ran; the windows in `bad_rows`, whose forecasts are not finite, fail alone.

        A forecast of a forgotten server is dropped, and one that is not newer than the posted one as well.
        """
        outcome, bad = BatchOutcome(), set(bad_rows)
        if len(batch.servers):
            self._complete_servers(batch, bad, outcome)
        if not bad:
            outcome.answer = list(enumerate(batch.requests, len(batch.servers)))
            return outcome
        for row, item in enumerate(batch.requests, len(batch.servers)):
            if row in bad:
                outcome.fail.append(item)
            else:
                outcome.answer.append((row, item))
        return outcome

    def _complete_servers(self, batch: Batch, bad: set[int], outcome: BatchOutcome) -> None:
        servers = batch.servers
        generations, _, _ = self._snapshot(servers.slots)
        is_present = generations == servers.generations
        is_newer = self._posted(servers.slots) < servers.steps
        delivered = is_present & is_newer
        if not bad and delivered.all():  # nearly always
            outcome.rows, outcome.deliver = np.arange(len(servers)), servers
        else:
            is_bad = np.zeros(len(batch), np.bool_)
            is_bad[list(bad)] = True
            is_good = ~is_bad[: len(servers)]
            self.counts.forgotten += int(np.count_nonzero(is_good & ~is_present))
            self.counts.stale += int(np.count_nonzero(is_good & is_present & ~is_newer))
            outcome.rows = np.flatnonzero(is_good & delivered)
            outcome.deliver = servers.select(outcome.rows)
            self._fail_rows(servers.select(~is_good), outcome)
        self.counts.delivered += len(outcome.rows)

    def bisect_batch(self, batch: Batch) -> BatchOutcome:
        """Account for a batch that its engine refused: its halves run again, and a single window fails.

        So a window that is to blame fails alone: one in a batch of n takes 2 log2(n) more runs.
        """
        outcome = BatchOutcome()
        if len(batch) == 1:
            self._fail_batch(batch, outcome)
        else:
            for half in batch.split(len(batch) // 2):
                self._queue_retry(half, batch.moves, BatchReason.HALF_OF_FAILED)
        return outcome

    def reassign_batch(self, batch: Batch) -> BatchOutcome:
        """Account for a batch whose lane was lost: it runs on another one, or fails if it was moved before."""
        outcome = BatchOutcome()
        if batch.moves:
            self._fail_batch(batch, outcome)
        else:
            self._queue_retry(batch, 1, BatchReason.LANE_LOST)
        return outcome

    def _queue_retry(self, batch: Batch, moves: int, reason: BatchReason) -> None:
        """Queue windows to run again, without those whose call has ended in the meantime."""
        requests = self._remove_ended_calls(batch.requests)
        self.dropped_windows += len(batch.requests) - len(requests)
        remaining = Batch(batch.servers, requests, moves, reason=reason)
        if len(remaining):
            self.retries.append(remaining)

    def _fail_batch(self, batch: Batch, outcome: BatchOutcome) -> None:
        self._fail_rows(batch.servers, outcome)
        outcome.fail += batch.requests

    def _fail_rows(self, servers: ServerRows, outcome: BatchOutcome) -> None:
        outcome.fail += servers.list_items()
        self.counts.failed += len(servers)
