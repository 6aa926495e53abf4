"""Appends what agents send to the row logs of shards: one append at a time for each shard, and what comes meanwhile is
the next message.

What is taken stays queued until it is in the log, also if its sender was answered that it took too long: it may be sent
again, and counts once. Decodes nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

from streamd.cluster.log import LogAwayError, LogFullError
from streamd.cluster.rows.append_tickets import AppendTicket, AppendWait
from streamd.cluster.rows.row_queue import MAX_ROWS_MESSAGE_BYTES, AppendState, RowQueue
from streamd.core.cluster.row_batches import make_forget_section, make_rows_message
from streamd.core.cluster.row_gathering import RowGatherer
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import StreamdError, UnavailableError

log = structlog.get_logger(__name__)

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.05, 0.5
"""The wait after an append that the log did not answer; it doubles."""


class RowLog(Protocol):
    """The part of a log (`Log`) that is needed here."""

    async def append(self, subject: str, data: bytes, *, message_id: str | None = None) -> object:
        """Append a message; raises `LogAwayError`, and `LogFullError`, which is one too."""
        ...


class RowPublisher:
    """The queues of all shards at one node.

    `run` is another one each time that a process starts. At most `buffer_bytes` are queued. A caller waits at most
    `publish_timeout_seconds` for its answer. `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        row_log: RowLog,
        names: ClusterNames,
        *,
        run: str,
        buffer_bytes: int,
        publish_timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queued_bytes = 0
        """What was taken and is not in the log yet."""
        self.appended_messages = 0
        self.appended_bytes = 0
        self.retries = 0
        """Appends that were made again, because the log did not answer."""
        self.refused = 0
        """How often something was refused because too much was queued."""
        self.expired = 0
        """Callers that were answered before their rows were in the log, because it took too long."""
        self._log = row_log
        self._names = names
        self._run = run
        self._buffer_bytes = buffer_bytes
        self._timeout_seconds = publish_timeout_seconds
        self._clock = clock
        self._queues: dict[int, RowQueue] = {}
        self._messages = 0
        self._tickets: deque[AppendTicket] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.refusal = ""
        """Why nothing is taken at all, as while the node joins its cluster; empty while it is."""
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def is_full(self) -> bool:
        """Whether nothing more is taken until some of it is in the log."""
        return self.queued_bytes >= self._buffer_bytes

    @property
    def is_open(self) -> bool:
        """Whether something is taken now."""
        return not (self._is_closed or self.refusal or self.is_full)

    @property
    def waiting_shards(self) -> int:
        """The number of shards whose log does not answer."""
        return sum(queue.state is AppendState.WAITING for queue in self._queues.values())

    def check_open(self) -> None:
        """Raise `UnavailableError` while too much is queued."""
        if self._is_closed:
            raise UnavailableError("the node is stopping")
        if self.refusal:
            raise UnavailableError(self.refusal)
        if self.is_full:
            self.refused += 1
            raise UnavailableError(
                f"{self.queued_bytes} bytes wait until the cluster's log answers, at most {self._buffer_bytes}"
                " (buffer_mb): send again later"
            )

    # ------------------------------------------------------------ callers
    def open_ticket(self, answer: Callable[[StreamdError | None], None]) -> AppendTicket:
        """Return a ticket for the parts of one caller; `settle` it once all parts were added.

        Raises `UnavailableError` while too much is queued.
        """
        self.check_open()
        while self._tickets and self._tickets[0].is_answered:
            self._tickets.popleft()
        ticket = AppendTicket(answer)
        ticket.deadline = self._clock() + self._timeout_seconds
        self._tickets.append(ticket)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout_seconds, self._expire)
        return ticket

    def add_section(self, shard: int, section: bytes, ticket: AppendTicket) -> None:
        """Queue a section for the log of a shard."""
        ticket.missing += 1
        queue = self._find_queue(shard)
        queue.add_section(section, ticket)
        self._note_queued(len(section))
        self._start(shard, queue)

    def add_row(
        self,
        shard: int,
        server: str,
        time: float,
        row: bytes,
        *,
        status: int | None,
        may_evict: bool,
        ticket: AppendTicket,
    ) -> None:
        """Queue a single row (float32 bytes), of epoch seconds, together with others."""
        queue = self._find_queue(shard)
        gatherer = queue.gatherer
        if gatherer is None or gatherer.may_evict != may_evict or gatherer.bytes >= MAX_ROWS_MESSAGE_BYTES // 2:
            queue.close_gatherer()
            gatherer = queue.gatherer = RowGatherer(may_evict=may_evict)
        self._note_queued(gatherer.add(server, time, row, status))
        if not queue.gathered or queue.gathered[-1] is not ticket:
            ticket.missing += 1
            queue.gathered.append(ticket)
        self._start(shard, queue)

    def _find_queue(self, shard: int) -> RowQueue:
        queue = self._queues.get(shard)
        if queue is None:
            queue = self._queues[shard] = RowQueue()
        return queue

    def _note_queued(self, size: int) -> None:
        self.queued_bytes += size
        self._drained.clear()

    def _expire(self) -> None:
        """Answer those who have waited for too long."""
        self._timer = None
        tickets, now = self._tickets, self._clock()
        while tickets and (tickets[0].is_answered or tickets[0].deadline <= now):
            ticket = tickets.popleft()
            if not ticket.is_answered:
                self.expired += 1
                ticket.end(
                    UnavailableError(
                        f"the cluster's log did not answer within {self._timeout_seconds:g} s; the samples are kept,"
                        " and sending them again is harmless"
                    )
                )
        if tickets:
            delay = max(tickets[0].deadline - now, 0.01)
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    # ------------------------------------------------------------ appends
    def _start(self, shard: int, queue: RowQueue) -> None:
        if queue.task is None:
            queue.task = asyncio.get_running_loop().create_task(self._append_all(shard, queue))

    async def _append_all(self, shard: int, queue: RowQueue) -> None:
        """Append message after message until nothing is queued."""
        try:
            while True:
                parts = queue.take_parts()
                if not parts:
                    return
                failure = await self._append(shard, queue, make_rows_message([part.section for part in parts]))
                for part in parts:
                    self.queued_bytes -= part.noted_bytes
                    for ticket in part.tickets:
                        ticket.settle(failure)
        finally:
            queue.state, queue.task = AppendState.IDLE, None
            if not self.queued_bytes:
                self._drained.set()

    async def _append(self, shard: int, queue: RowQueue, data: bytes) -> StreamdError | None:
        """Append one message, again and again while the log does not answer; returns why it cannot be appended."""
        self._messages += 1
        message_id, wait = f"{self._run}.{self._messages}", FIRST_RETRY_SECONDS
        while True:
            queue.state = AppendState.APPENDING
            try:
                await self._log.append(self._names.rows(shard), data, message_id=message_id)
            except LogFullError as error:
                return UnavailableError(f"the row log of shard {shard} is full: {error}")
            except LogAwayError:
                queue.state = AppendState.WAITING
                self.retries += 1
                await asyncio.sleep(wait)
                wait = min(2 * wait, LAST_RETRY_SECONDS)
            except StreamdError as error:
                log.error("rows_not_appended", shard=shard, bytes=len(data), reason=str(error))
                return UnavailableError(f"the row log of shard {shard} refused the rows: {error}")
            else:
                self.appended_messages += 1
                self.appended_bytes += len(data)
                return None

    async def forget(self, server: str, shard: int, until: float) -> None:
        """Append the order to forget a server; its owner, and each later one, does so when it applies the log.

        The order counts if the log stores it by `until`, in its epoch seconds. Raises `UnavailableError` if the log
        does not take it in time.
        """
        with AppendWait(self) as wait:
            self.add_section(shard, make_forget_section(server, until), wait.ticket)
            await wait.finish()

    # ------------------------------------------------------------ the end
    async def wait_empty(self) -> None:
        """Wait until all that was taken is in the log; the caller limits the time."""
        await self._drained.wait()

    async def close(self) -> None:
        """Take nothing more, and drop what is queued; those who wait for it get an error."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = [queue.task for queue in self._queues.values() if queue.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for ticket in self._tickets:
            ticket.end(UnavailableError("the node has stopped before the samples were in the cluster's log"))
        self._tickets.clear()
