"""Those who wait until what they have sent is in the log. Appends nothing."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from streamd.core.errors import StreamdError


class AppendTicket:
    """The parts that one caller has sent: `answer` is called once, when all are in the log, or with the reason."""

    __slots__ = ("_answer", "_failure", "deadline", "missing")

    def __init__(self, answer: Callable[[StreamdError | None], None]) -> None:
        self._answer: Callable[[StreamdError | None], None] | None = answer
        self._failure: StreamdError | None = None
        self.missing = 1
        """The number of parts that are not in the log yet, and one while parts are added."""
        self.deadline = 0.0
        """When the caller is answered at the latest, in monotonic seconds."""

    @property
    def is_answered(self) -> bool:
        """Whether the caller has its answer."""
        return self._answer is None

    def settle(self, failure: StreamdError | None = None) -> None:
        """Note that one of the missing parts is in the log, or cannot be."""
        self.missing -= 1
        self._failure = self._failure or failure
        if not self.missing:
            self.end(self._failure)

    def end(self, failure: StreamdError | None) -> None:
        """Answer now, unless the answer was given."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(failure)


class TicketOffice(Protocol):
    """A giver of tickets (`RowPublisher`)."""

    def open_ticket(self, answer: Callable[[StreamdError | None], None]) -> AppendTicket:
        """Return a ticket; raises `UnavailableError` while too much is queued."""
        ...


class AppendWait:
    """A ticket of a coroutine: `with AppendWait(publisher) as wait:` add parts, then `await wait.finish()`.

    Raises `UnavailableError` at once while too much is queued.
    """

    def __init__(self, publisher: TicketOffice) -> None:
        self._failure: asyncio.Future[StreamdError | None] = asyncio.get_running_loop().create_future()
        self.ticket = publisher.open_ticket(self._note)

    def __enter__(self) -> "AppendWait":
        return self

    def __exit__(self, *_error: object) -> None:
        self.ticket.end(None)  # no caller waits any more

    def _note(self, failure: StreamdError | None) -> None:
        if not self._failure.done():
            self._failure.set_result(failure)

    async def finish(self) -> None:
        """Wait until all parts are in the log; raises why one is not."""
        self.ticket.settle()
        failure = await self._failure
        if failure is not None:
            raise failure
