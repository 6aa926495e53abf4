"""Reads a stream in order, each message once, whatever becomes of servers and connections meanwhile.

Consumers of NATS 2.9 leave out messages that are there, now and then, and some never come to the end. So each hole in
what comes is compared with what the stream has, and what is missing is read by its sequence.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice

import structlog

from streamd.cluster.log import LogAwayError, LogGapError, LogMessage
from streamd.cluster.nats.api import JetStreamApi, StreamContent
from streamd.cluster.nats.consumer import NatsConsumer

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.2

_CREATE_SECONDS = 1.0
"""How long a consumer may take to be made: NATS places some on servers that have just died, and never answers."""

_MAX_CREATE_SECONDS = 4.0

_SHORT_SECONDS = 3.0
"""A stream that ends before its reader's position for so long is another one: it was deleted and made anew. What a new
leader says in its first moments may be short too."""

_READ_ALONE = 512
"""Messages that are read without a consumer before another one is tried."""

_READ_AT_ONCE = 16
"""Messages that are read by their sequence at the same time."""


@dataclass
class ReadCounts:
    """Counts of all readers of a connection."""

    fetched: int = 0
    """Messages that consumers left out, and that were read by their sequence."""


class NatsReader:
    """The messages of one subject of a stream after a sequence, in batches."""

    def __init__(
        self,
        api: JetStreamApi,
        stream: str,
        subject: str,
        *,
        after: int,
        until_end: bool,
        allow_gaps: bool,
        counts: ReadCounts,
    ) -> None:
        self._counts = counts
        self._api = api
        self._stream = stream
        self._subject = subject
        self._position = after
        self._until_end = until_end
        self._allow_gaps = allow_gaps
        self._content: StreamContent | None = None
        """What the stream had when the reading began, or when it was found that there is more to read."""
        self._is_short = False
        """Whether some of it was removed unread: what replaced it lies behind the end."""
        self._short_since: float | None = None
        self._create_seconds = _CREATE_SECONDS
        self._lost_at = -1
        """The position at which the newest consumer began, if it was lost."""

    async def read_batches(self) -> AsyncGenerator[list[LogMessage]]:
        """Yield batches; raises `LogGapError`."""
        while True:
            try:
                await self._api.connection.wait_connected()
                await self._check_stream()
                if self._until_end and await self._is_at_end():
                    return
                if self._lost_at == self._position:  # it gave nothing
                    async with aclosing(self._read_without_consumer()) as batches:
                        async for batch in batches:
                            yield batch
                    if self._until_end and await self._is_at_end():
                        return
                self._lost_at = self._position
                async with aclosing(self._read_consumer()) as batches:
                    async for batch in batches:
                        yield batch
                if self._until_end and await self._is_at_end():
                    return
            except LogAwayError as exc:
                log.debug("log_reader_restarts", stream=self._stream, after=self._position, reason=str(exc))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _read_consumer(self) -> AsyncGenerator[list[LogMessage]]:
        """Yield what one consumer gives and leaves out, until the end; raises `LogAwayError` if it is lost."""
        consumer = NatsConsumer(self._api, self._stream, self._subject)
        seconds, self._create_seconds = self._create_seconds, min(2 * self._create_seconds, _MAX_CREATE_SECONDS)
        try:
            await consumer.begin(self._position, seconds)
            self._create_seconds = _CREATE_SECONDS
            while not (self._until_end and await self._is_at_end()):
                if batch := self._cut(await consumer.read(self._position)):
                    async for part in self._fill(batch):
                        yield part
                elif consumer.has_expired or (consumer.is_idle and self._until_end):
                    await self._check_idle()
        finally:
            await consumer.close()

    async def _read_without_consumer(self) -> AsyncGenerator[list[LogMessage]]:
        """Yield what is next in the stream, each message read by its sequence; raises as `_fill`."""
        content = await self._api.read_content(self._stream)
        self._check_newer(content, self._position)
        if not self._is_whole(content):
            return
        present = list(islice(content.iterate_present(self._position, content.last + 1), _READ_ALONE))
        for begin in range(0, len(present), _READ_AT_ONCE):
            some = present[begin : begin + _READ_AT_ONCE]
            part = await self._read_each(some)
            self._position = some[-1]
            if part:
                yield part

    # ------------------------------------------------------------ the stream
    async def _check_stream(self) -> None:
        """Find what the stream has, and whether messages were removed unread."""
        content = await self._api.read_content(self._stream)
        if self._content is None:
            self._content = content
        self._check_end(content)
        if self._allow_gaps:
            if next(content.iterate_present(self._position, content.last + 1), None) is None:
                self._position = max(self._position, content.last)  # all of it was removed
            return
        if not self._position:
            self._position = content.first - 1
        if content.first > self._position + 1:
            raise self._make_gap(content.first)

    def _check_end(self, content: StreamContent) -> None:
        """Raise `LogGapError` if the stream is another one than was read so far."""
        first = self._content
        if first is not None and content.created != first.created:
            raise LogGapError(f"{self._stream}: was deleted and made anew, at {content.created}")
        if content.last >= self._position:
            self._short_since = None
            return
        now = time.monotonic()
        if self._short_since is None:
            self._short_since = now
        reason = f"{self._stream}: ends at {content.last}, expected {self._position} or more"
        if now - self._short_since < _SHORT_SECONDS:
            raise LogAwayError(reason)
        raise LogGapError(f"{reason}: it was deleted and made anew, or has lost messages")

    async def _is_at_end(self) -> bool:
        """Whether all is read that the stream had at the beginning, or what replaced it."""
        content = self._content
        if content is None or self._position < content.last:
            return False
        if self._is_short:
            self._is_short = False
            self._content = content = await self._api.read_content(self._stream)
        return self._position >= content.last

    # ------------------------------------------------------------ what a consumer leaves out
    async def _fill(self, batch: list[LogMessage]) -> AsyncIterator[list[LogMessage]]:
        """Yield a batch with what the consumer left out of it. Raises `LogAwayError`, `LogGapError`."""
        end = batch[-1].sequence
        self._api.ends.note(self._stream, end)
        if end - self._position > len(batch):
            missing = await self._find_missing(batch)
            for begin in range(0, len(missing), _READ_AT_ONCE):
                some = missing[begin : begin + _READ_AT_ONCE]
                part = [message for message in batch if self._position < message.sequence < some[-1]]
                part = sorted([*part, *await self._read_each(some)], key=lambda message: message.sequence)
                self._position = some[-1]
                if part:
                    yield part
        rest = [message for message in batch if message.sequence > self._position]
        self._position = end
        yield rest

    async def _find_missing(self, batch: list[LogMessage]) -> list[int]:
        """Return the sequences before the end of a batch that are in the stream and not in the batch."""
        content = await self._api.read_content(self._stream)
        self._check_newer(content, batch[-1].sequence)
        if not self._is_whole(content):
            return []  # what lies between may be of other subjects, or removed
        read = {message.sequence for message in batch}
        holes = [at for at in range(self._position + 1, batch[-1].sequence) if at not in read]
        missing = [at for at in holes if content.has(at)]
        if len(missing) < len(holes):
            self._note_removed([at for at in holes if not content.has(at)])
        return missing

    def _check_newer(self, content: StreamContent, read: int) -> None:
        """Raise `LogAwayError` if a stream is said to end before what was read: a former leader may say so."""
        if content.last < read:
            raise LogAwayError(f"the stream ends at {content.last}, though {read} was read")

    def _is_whole(self, content: StreamContent) -> bool:
        """Whether all that the stream takes is read, and it is known what it has."""
        return content.is_listed and (self._subject == ">" or content.subjects == (self._subject,))

    def _note_removed(self, removed: list[int]) -> None:
        """Note what was removed unread; raises `LogGapError` if nothing may be."""
        if not self._allow_gaps:
            raise self._make_gap(removed[-1] + 1)
        if self._content is not None and any(map(self._content.has, removed)):
            self._is_short = True

    async def _read_each(self, sequences: list[int]) -> list[LogMessage]:
        """Return the messages of these sequences; those that are removed by now are noted."""
        read = await asyncio.gather(*(self._api.read_message(self._stream, each) for each in sequences))
        removed = [each for each, message in zip(sequences, read, strict=True) if message is None]
        if removed:
            self._note_removed(removed)
        found = [message for message in read if message is not None]
        self._counts.fetched += len(found)
        log.debug("log_consumer_left_out", stream=self._stream, first=sequences[0], count=len(found))
        return found

    async def _check_idle(self) -> None:
        """Find whether nothing comes since there is nothing; raises `LogAwayError` if there is more."""
        content = await self._api.read_content(self._stream)
        self._check_newer(content, self._position)
        is_more = next(content.iterate_present(self._position, content.last + 1), None) is not None
        if is_more and self._is_whole(content):
            raise LogAwayError("the consumer sends nothing, though there is more")
        if self._until_end:
            self._content, self._is_short = content, False
            self._position = max(self._position, content.last)

    def _cut(self, batch: list[LogMessage]) -> list[LogMessage]:
        """Return a batch without what came after the end."""
        if not self._until_end or self._allow_gaps or self._content is None:
            return batch
        return [message for message in batch if message.sequence <= self._content.last]

    def _make_gap(self, found: int) -> LogGapError:
        removed = f"{self._position + 1} to {found - 1}"
        return LogGapError(f"{self._stream}: the messages {removed} were removed before they were read")
