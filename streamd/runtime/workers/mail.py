"""Sends messages to the other processes of the daemon and hands over what they send, on the event loop.

Knows bytes only; `messages.py` knows what they say.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from streamd.runtime.workers.block import SharedBlock
from streamd.runtime.workers.doorbell import Doorbell
from streamd.runtime.workers.ring import RingReader, RingWriter

MESSAGES_A_TURN = 64
"""Messages of one sender that are handed over in one turn of the loop."""

MAIL_CHECK_SECONDS = 0.5
"""The interval at which the rings are read without a bell: a sender may be killed before it rings."""

RETRY_SECONDS = 0.002
"""The time after which a full ring is tried again."""

HandleMessage = Callable[[int, bytes], None]
"""Called with the number of the sender, and a message."""


class Mail:
    """The rings of one process: those that it writes, and those that it reads.

    A message that finds a ring full waits here, in order, until the reader has made space. What waits for a process
    that is gone is dropped by `forget`.
    """

    def __init__(self, block: SharedBlock, me: int, bells: Sequence[Doorbell]) -> None:
        others = [number for number in range(block.workers + 1) if number != me]
        self.me = me
        self.others = others
        """The numbers of the other processes."""
        self._bells = bells
        self._writers = {other: RingWriter(block.get_ring(me, other)) for other in others}
        self._readers = {other: RingReader(block.get_ring(other, me)) for other in others}
        self._waiting: dict[int, deque[bytes]] = {other: deque() for other in others}
        self._to_ring: set[int] = set()
        self._handle: HandleMessage = lambda source, message: None
        self._timers: list[asyncio.TimerHandle] = []
        self._is_open = False

    def open(self, handle: HandleMessage) -> None:
        """Hand over every message that comes from now on; those that came before were for a former process."""
        self._handle = handle
        self._is_open = True
        for reader in self._readers.values():
            reader.skip_all()
        self._bells[self.me].listen(self.read)
        self._check()

    def close(self) -> None:
        """Hand over nothing more."""
        self._is_open = False
        self._bells[self.me].stop()
        for timer in self._timers:
            timer.cancel()

    def send(self, target: int, message: bytes) -> None:
        """Send a message; its reader is woken at the end of this turn of the loop."""
        waiting = self._waiting[target]
        if waiting or not self._writers[target].push(message):
            if not waiting:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._retry, target)
            waiting.append(message)
        if not self._to_ring:
            asyncio.get_running_loop().call_soon(self._ring)
        self._to_ring.add(target)

    def is_congested(self, target: int) -> bool:
        """Whether messages wait for space in a ring, so that one who can wait should."""
        return bool(self._waiting[target])

    def forget(self, target: int) -> None:
        """Drop the messages that wait for a process that is gone."""
        self._waiting[target].clear()

    def _retry(self, target: int) -> None:
        waiting, writer = self._waiting[target], self._writers[target]
        while waiting and writer.push(waiting[0]):
            waiting.popleft()
        self._bells[target].ring()
        if waiting:
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._retry, target)

    def _ring(self) -> None:
        for target in self._to_ring:
            self._bells[target].ring()
        self._to_ring.clear()

    # ------------------------------------------------------------ in
    def read(self) -> None:
        """Hand over what is there now."""
        has_more = False
        for source, reader in self._readers.items():
            for _ in range(MESSAGES_A_TURN):
                message = reader.pop()
                if message is None:
                    break
                self._handle(source, message)
            else:
                has_more = True
        if has_more and self._is_open:
            self._bells[self.me].ring()

    def _check(self) -> None:
        self.read()
        self._timers = [asyncio.get_running_loop().call_later(MAIL_CHECK_SECONDS, self._check)]
