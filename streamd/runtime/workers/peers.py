"""The other processes of the daemon, as one of them sees them: those that are there, and what was asked of them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from streamd.core.errors import StreamdError, UnavailableError
from streamd.runtime.workers.mail import Mail
from streamd.runtime.workers.messages import Message, encode_message
from streamd.runtime.workers.presence import Presence
from streamd.runtime.workers.requests import Requests

RESTARTING = "a process of the daemon has ended; it is being restarted"


class Peers:
    """The other processes; `run` counts the starts of this one, and `runs` those of others that are there at first."""

    def __init__(self, mail: Mail, run: int, runs: Mapping[int, int] | None = None) -> None:
        self.mail = mail
        self.run = run
        self.presence = Presence(mail.others, runs)
        self._requests = Requests()

    def send(self, target: int, message: Message) -> None:
        """Send a message."""
        self.mail.send(target, encode_message(message))

    def tell(self, message: Message) -> None:
        """Send a message to all that are there."""
        data = encode_message(message)
        for number in self.presence.here:
            self.mail.send(number, data)

    def ask(self, target: int, make: Callable[[int], Message]) -> "asyncio.Future[Any]":
        """Send the request that `make` makes of its number; the answer fails with `UnavailableError` if it is lost.

        A process that is away gets no request: what it finds when it starts was for the former one.
        """
        number, answer = self._requests.begin(target)
        if self.presence.is_here(target):
            self.send(target, make(number))
        else:
            self._requests.fail(number, UnavailableError(RESTARTING))
        return answer

    def resolve(self, number: int, answer: Any) -> None:
        """Hand over the answer to a request."""
        self._requests.resolve(number, answer)

    def fail(self, number: int, error: StreamdError) -> None:
        """Fail a request."""
        self._requests.fail(number, error)

    def meet(self, number: int, run: int) -> bool:
        """Note that a run of a process is there; returns whether it is. What an earlier run was asked fails."""
        is_here, is_other = self.presence.meet(number, run)
        if is_other:
            self.drop_requests(number)
        return is_here

    def lose(self, number: int, run: int) -> bool:
        """Note that a run of a process has ended: what it was asked fails. Returns whether it was there."""
        was_here = self.presence.lose(number, run)
        if was_here:
            self.drop_requests(number)
        return was_here

    def drop_requests(self, number: int) -> None:
        """Fail what a process was asked, and drop what waits for space in its ring."""
        self.mail.forget(number)
        self._requests.fail_all(number, UnavailableError(RESTARTING))
