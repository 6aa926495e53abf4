"""Rows that are handed on to the workers that own their servers: all of one turn of the loop in one message to each.

A frame of one sample is cheap to take; a message, a wake-up, a future and a task for each would cost more than the
frame. So rows of all sockets share messages, arrays say whose each is, and callbacks lead from the answers back.
Rows of this worker's own servers go the same way without a message, so that many are written at once.
"""

import asyncio
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from streamd.core.access.caller import Caller
from streamd.core.errors import StreamdError
from streamd.core.state.rows import PackedRow
from streamd.core.state.samples import CellSample
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.workers.messages import HandOnRows, TakenRows

Errors = list[StreamdError | None]
"""The error of each sample, `None` if it was accepted; empty if all were."""

Answer = Callable[[Errors | StreamdError], None]
"""Called with the errors of samples, or with the reason why not all of them may be taken."""

MAX_ROWS = 512
"""Rows in one message."""

MANY_ROWS = 64
"""So many rows do not wait for the answer to those before them: the cost of a message is small beside theirs."""

MAX_ROWS_BYTES = 2**16
"""Bytes of values in one message, or one row more: it has to fit into a ring, with others."""

NO_STATUS = -1

UsualRow = tuple[int, int, float, PackedRow, int]
"""Slot, checksum of its server's name, epoch seconds, row, status (`NO_STATUS`: none)."""

Ask = Callable[[int, Callable[[int], HandOnRows]], "asyncio.Future[TakenRows]"]
"""`WorkerGate.ask`."""

TakeRows = Callable[[HandOnRows], Sequence[int]]
"""Writes rows here; returns the places of those that have to be taken by the names of their servers."""

TakeByName = Callable[[Sequence[CellSample[Any]], Caller], Any]
"""A coroutine function that takes samples that are unusual, and returns their errors."""


class Ticket:
    """The samples of one caller that are on their way; `answer` is called once all of them are answered."""

    __slots__ = ("_answer", "_errors", "_failure", "caller", "missing", "samples")

    def __init__(self, samples: Sequence[CellSample[Any]], caller: Caller, answer: Answer) -> None:
        self.samples = samples
        self.caller = caller
        self.missing = 1
        """The number of parcels that are not answered yet, and one while samples are added."""
        self._answer = answer
        self._errors: Errors = []
        self._failure: StreamdError | None = None

    def settle(self) -> None:
        """Note that one of the missing parcels is answered."""
        self.missing -= 1
        if not self.missing:
            self._answer(self._errors if self._failure is None else self._failure)

    def note(self, places: Sequence[int], errors: Errors) -> None:
        """Note the errors of samples."""
        if any(error is not None for error in errors):
            self._errors = self._errors or [None] * len(self.samples)
            for place, error in zip(places, errors, strict=True):
                self._errors[place] = error

    def fail(self, failure: StreamdError) -> None:
        """Note that samples are lost."""
        self._failure = self._failure or failure


class Parcel:
    """The rows for one worker, in the order in which they came, and the tickets that they belong to."""

    __slots__ = ("_checks", "_full", "_masks", "_rows", "_slots", "_statuses", "_times", "places", "tickets")

    def __init__(self, full: int) -> None:
        self._full = full
        self._slots: list[int] = []
        self._checks: list[int] = []
        self._times: list[float] = []
        self._rows: list[bytes] = []
        self._masks: dict[int, int] = {}
        self._statuses: dict[int, int] = {}
        self.places: list[int] = []
        """Of each row: the place of its sample in its ticket."""
        self.tickets: list[tuple[Ticket, int]] = []
        """Those who wait, each with its first row."""

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, ticket: Ticket, place: int, usual: UsualRow) -> None:
        """Add the row of a ticket's sample."""
        slot, check, at, row, status = usual
        count = len(self._slots)
        if not self.tickets or self.tickets[-1][0] is not ticket:
            self.tickets.append((ticket, count))
            ticket.missing += 1
        if row.mask != self._full:
            self._masks[count] = row.mask
        if status != NO_STATUS:
            self._statuses[count] = status
        self._slots.append(slot)
        self._checks.append(check)
        self._times.append(at)
        self._rows.append(row.data)
        self.places.append(place)

    def make_message(self, number: int) -> HandOnRows:
        """Return the rows as a message."""
        return HandOnRows(
            number,
            array("q", self._slots).tobytes(),
            array("I", self._checks).tobytes(),
            array("d", self._times).tobytes(),
            b"".join(self._rows),
            self._masks,
            self._statuses,
        )

    def settle(self) -> None:
        """Note that all rows were taken."""
        for ticket, _ in self.tickets:
            ticket.settle()

    def fail(self, failure: StreamdError) -> None:
        """Note that all rows are lost."""
        for ticket, _ in self.tickets:
            ticket.fail(failure)
        self.settle()

    def find_tickets(self, rows: Sequence[int]) -> list[tuple[Ticket, list[int]]]:
        """Return the tickets that some rows, in rising order, belong to, and the places of their samples."""
        found = []
        ends = [first for _, first in self.tickets[1:]] + [len(self)]
        for (ticket, first), end in zip(self.tickets, ends, strict=True):
            places = [self.places[row] for row in rows if first <= row < end]
            if places:
                found.append((ticket, places))
        return found


class Parcels:
    """The rows that are not handed on yet, by the worker that owns their servers.

    They are sent at the end of the turn of the loop; while rows of former turns are unanswered, more are gathered
    first. So messages grow as the other workers get slower.
    """

    def __init__(self, me: int, full: int, ask: Ask, take_rows: TakeRows, take_by_name: TakeByName) -> None:
        self._me = me
        self._full = full
        self._ask = ask
        self._take_rows = take_rows
        self._take_by_name = take_by_name
        self._open: dict[int, Parcel] = {}
        self._unanswered: Counter[int] = Counter()
        self._running = BackgroundTasks()
        self._is_due = False

    def add(self, ticket: Ticket, owners: Sequence[int], rows: Sequence[UsualRow]) -> None:
        """Hand on the rows of a ticket's samples, each to its owner, at the end of this turn."""
        parcels = self._open
        for place, (owner, row) in enumerate(zip(owners, rows, strict=True)):
            parcel = parcels.get(owner)
            if parcel is None:
                parcel = parcels[owner] = Parcel(self._full)
            parcel.add(ticket, place, row)
            if len(parcel) >= MAX_ROWS or len(parcel) * len(row[3].data) >= MAX_ROWS_BYTES:
                self._send(owner)
        ticket.settle()
        if parcels:
            self._send_later()

    def _send_later(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._send_all)

    def _send_all(self) -> None:
        self._is_due = False
        # Those of others first, so that they work while this process writes its own.
        for owner in sorted(self._open, key=lambda owner: owner == self._me):
            if not self._unanswered[owner] or len(self._open[owner]) >= MANY_ROWS:
                self._send(owner)

    def _send(self, owner: int) -> None:
        parcel = self._open.pop(owner)
        if owner == self._me:
            self._finish(parcel, self._take_rows(parcel.make_message(0)))
        else:
            self._unanswered[owner] += 1
            answer = self._ask(owner, parcel.make_message)
            answer.add_done_callback(lambda answer: self._resolve(owner, parcel, answer))

    def _resolve(self, owner: int, parcel: Parcel, answer: "asyncio.Future[TakenRows]") -> None:
        self._unanswered[owner] -= 1
        if owner in self._open and not self._unanswered[owner]:
            self._send_later()  # with what comes in this turn
        if answer.cancelled():
            return  # this process is ending
        failure = answer.exception()
        if isinstance(failure, StreamdError):
            parcel.fail(failure)
        elif failure is not None:
            raise failure
        else:
            self._finish(parcel, answer.result().others)

    def _finish(self, parcel: Parcel, others: Sequence[int]) -> None:
        if others:
            self._running.start(self._take_others(parcel, others))
        else:
            parcel.settle()

    async def _take_others(self, parcel: Parcel, others: Sequence[int]) -> None:
        """Take the samples of rows that could not be written as they are."""
        for ticket, places in parcel.find_tickets(others):
            try:
                errors = await self._take_by_name([ticket.samples[place] for place in places], ticket.caller)
            except StreamdError as failure:
                ticket.fail(failure)
            else:
                ticket.note(places, errors)
        parcel.settle()
