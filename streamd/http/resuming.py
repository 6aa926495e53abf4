"""The place of a reader among the forecasts that were posted: what it has already, and where it may continue later.

Reads the board and the hub; sends nothing.
"""

from streamd.core.arrays import Slots
from streamd.core.errors import InvalidSelectionError
from streamd.runtime.hub import Subscription
from streamd.runtime.service import Service

MAX_ID_DIGITS = 18
"""Digits of an id, at most."""

WAITING_A_FRAME = 256
"""The lowest serial that waits is found again after one frame for each so many forecasts that wait: with 100,000 it
takes 1.5 ms, and a frame of one forecast 30 µs. Until then it is only too low."""


class ReaderPosition:
    """The position of one subscription, which continues after the id `since`, or begins now if that is `None`.

    Made in the same turn of the loop as the subscription, so that no forecast is between them. A reader without ids,
    which does not continue, costs nothing here.
    """

    def __init__(self, service: Service, subscription: Subscription, since: int | None, *, has_ids: bool) -> None:
        self._service = service
        self._board = service.state.board
        self._subscription = subscription
        self._has_ids = has_ids
        self._is_resumed = since is not None
        # In a daemon of several processes the reader may have it from a worker that heard of it earlier than this one.
        self._read = 0 if since is None else self._board.limit_serial(since - service.resumes_before)
        self._first_new = self._board.last_serial + 1
        self._newest_taken = 0
        self._lowest_waiting, self._frames_until_found = 0, 0
        self._limit_id = service.limit_reader_id
        self.last_id = self._read if self._is_resumed else self._limit(self._board.last_serial)
        """The id from which the reader continues, if it gets nothing more."""

    async def replay(self) -> None:
        """Post what the reader missed while it was away; to be awaited before the first `take_unread`."""
        if self._is_resumed:
            await self._service.hub.replay(self._subscription, self._board.find_later_than(self._read))
            self._first_new = self._board.last_serial + 1

    def take_unread(self, count: int) -> Slots:
        """Take up to `count` slots, the longest waiting first; returns those whose forecasts the reader lacks."""
        slots = self._subscription.take(count)
        if not (self._is_resumed or self._has_ids):
            return slots
        # Read before they are encoded: another process may post newer ones meanwhile, which are published later.
        serials = self._board.get_serials(slots)
        self._newest_taken = min(int(serials.max(initial=0)), self._board.last_serial)
        return slots[(serials == 0) | (serials > self._read)] if self._is_resumed else slots

    def choose_id(self) -> int:
        """Return the id of a frame that has the forecasts of the slots that were taken last.

        It stays below each forecast that still waits, so that a reader that continues from it misses none, and it never
        falls: what is posted later has a higher serial.
        """
        self._frames_until_found -= 1
        if self._frames_until_found < 0:
            self._lowest_waiting = self._board.find_lowest_serial(self._subscription.waiting_slots)
            self._frames_until_found = self._subscription.waiting // WAITING_A_FRAME
        self.last_id = max(self.last_id, self._limit(min(self._newest_taken, self._lowest_waiting - 1)))
        return self.last_id

    def _limit(self, reader_id: int) -> int:
        return reader_id if self._limit_id is None else self._limit_id(reader_id)

    def note_sent(self, slots: Slots) -> None:
        """Note that the forecasts of slots were sent, but for those that are old because their reader was away.

        The age of a replayed forecast would distort the metric.
        """
        if self._is_resumed:
            slots = slots[self._board.get_serials(slots) >= self._first_new]
        if len(slots):
            self._service.note_sent(slots)


def parse_event_id(given: str) -> int:
    """Parse the id from which a reader continues; raises `InvalidSelectionError`."""
    if not (given.isascii() and given.isdigit() and len(given) <= MAX_ID_DIGITS):
        raise InvalidSelectionError(f"Last-Event-ID is {given[:32]!r}, expected the id of an event")
    return int(given)
