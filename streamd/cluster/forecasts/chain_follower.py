"""Reads the forecast chain of a shard in order, and posts what is in it on the board of this node."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import structlog

from streamd.cluster.forecasts.forecast_poster import ForecastPoster
from streamd.cluster.log import Log, LogAwayError, LogGapError, LogMessage
from streamd.core.cluster.chain_entries import ChainEntry, ChainGapError, EntryKind
from streamd.core.cluster.chain_retention import ChainRetention
from streamd.core.cluster.forecast_batches import (
    ChainBatch,
    ChainMessage,
    decode_chain_message,
    make_chain_entry,
)
from streamd.core.cluster.forecast_chain import ChainState, ForecastChain
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.log_clock import LogClock
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import MalformedError

log = structlog.get_logger(__name__)

READ_AGAIN_SECONDS = 0.2
"""The wait before the log is read again, after it was away."""

DEFECT_SECONDS = 5.0
"""The wait after an error that nothing explains, so that it does not fill the log."""

LOAD_TRIES, TRIES_A_BEGINNING = 16, 4
"""Attempts to read a chain without a hole, while its owner shortens it; after some of them it begins anew."""

END_TRIES = 3
"""Attempts to read a chain to its end: a server of NATS that was stopped knows only its former end for a moment."""


class ChainFollower:
    """A node's view of one shard's chain.

    It reads the chain from `start` on, except while it is paused: an owner appends to `chain` itself, and reads with
    `read_tail`. What was removed before it was read is missed: only an owner has to know all (`make_whole`). The log
    takes at most `max_bytes` of the chain; -1: no limit.
    """

    def __init__(
        self,
        shard: int,
        cluster_log: Log,
        names: ClusterNames,
        poster: ForecastPoster,
        log_clock: LogClock,
        forecast_shape: Sequence[int],
        *,
        max_bytes: int = -1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shard = shard
        self.chain = ForecastChain()
        self.has_rows: Callable[[], bool] = lambda: False
        """Whether this node also has the rows of the shard's servers."""
        self.loaded = asyncio.Event()
        """Set while all that was in the chain when it was read first is known."""
        self.retention = ChainRetention(max_bytes)
        self.reloads = 0
        """How often since start the chain was read from its beginning, because it could not be made whole."""
        self.incomplete = 0
        """How often since start that did not help: then the shard is not owned here."""
        self.unreadable = 0
        """Messages of the chain since start that could not be read; they were passed over."""
        self.later_format = ""
        """Why this node may not own the chain: a later release has written a part of it."""
        self._log = cluster_log
        self._poster = poster
        self._log_clock = log_clock
        self._shape = tuple(forecast_shape)
        self.forecast_bytes = 4 * math.prod(self._shape) + 80
        self._max_bytes = max_bytes
        self._clock = clock
        self._stream = names.forecasts_stream(shard)
        self._task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ life
    def start(self) -> None:
        """Read from now on, or go on after a pause; a second call is a no-op."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def pause(self) -> None:
        """Read no more until `start`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            try:
                await self._read()
            except LogAwayError as exc:
                log.debug("chain_not_read", shard=self.shard, error=str(exc))
            except LogGapError as exc:
                log.error("chain_made_anew", shard=self.shard, error=str(exc))
                self.loaded.clear()
            except Exception as exc:  # a defect must not end it: readers would get nothing more, without a reason
                log.exception("chain_not_read", shard=self.shard, error=str(exc))
                await asyncio.sleep(DEFECT_SECONDS)
            await asyncio.sleep(READ_AGAIN_SECONDS)

    async def _read(self) -> None:
        """Read the chain without an end; raises `LogAwayError`, and `LogGapError` if the stream is another one."""
        if not self.loaded.is_set():
            await self._load()
            self.loaded.set()
        async with aclosing(self._read_on(until_end=False)) as batches:
            async for messages in batches:
                await self._take_all(messages)

    def _read_on(self, *, until_end: bool) -> AsyncGenerator[list[LogMessage]]:
        """Yield what is behind the position."""
        return self._log.read(self._stream, ">", after=self.chain.position, until_end=until_end, allow_gaps=True)

    # ------------------------------------------------------------ reading
    async def _load(self) -> None:
        """Read all that the chain has; raises `LogAwayError`."""
        self.chain, self.retention = ForecastChain(), ChainRetention(self._max_bytes)
        self.later_format = ""
        await self._load_more()

    async def make_whole(self) -> None:
        """Read the chain until no part of it is unknown; only while paused.

        Raises `ChainGapError` if that cannot be, `LogAwayError`.
        """
        for attempt in range(1, LOAD_TRIES + 1):
            if self.chain.is_whole:
                return
            await asyncio.sleep(READ_AGAIN_SECONDS)
            if attempt % TRIES_A_BEGINNING:
                await self._load_more()  # an owner has replaced records: the newer ones are behind what was last
            else:
                self.reloads += 1
                log.warning("chain_read_again", shard=self.shard, position=self.chain.position)
                await self._load()
        if not self.chain.is_whole:
            self.incomplete += 1
            log.error("chain_incomplete", shard=self.shard, stream=self._stream)
            raise ChainGapError(f"{self._stream}: parts were removed that no record of steps has")

    async def _load_more(self) -> None:
        """Read what the chain has behind the position; raises `LogAwayError`."""
        last = (await self._log.read_state(self._stream)).last
        for _ in range(END_TRIES):
            await self._load_behind()
            if self.chain.position >= last:
                break
            await asyncio.sleep(READ_AGAIN_SECONDS)
        try:
            self.chain.finish_loading(last)
        except ChainGapError as exc:
            log.debug("chain_not_whole", shard=self.shard, reason=str(exc))

    async def _load_behind(self) -> None:
        async with aclosing(self._read_on(until_end=True)) as batches:
            async for messages in batches:
                for message in messages:
                    entry, decoded = self._decode(message)
                    is_valid = entry.fence >= self.chain.fence
                    self.chain.load(entry)
                    self._note(message)
                    if is_valid:
                        self._post(decoded, message, is_history=True)
                    await asyncio.sleep(0)

    async def _take_all(self, messages: Sequence[LogMessage], own: tuple[int, int] | None = None) -> list[ChainMessage]:
        taken: list[ChainMessage] = []
        for message in messages:
            entry, decoded = self._decode(message)
            is_valid = entry.fence >= self.chain.fence and entry.sequence > self.chain.position
            if self.chain.state is ChainState.FOLLOWING:
                self.chain.follow(entry)
            else:
                self.chain.apply(entry)
            self._note(message)
            self._log_clock.note(message.time, self._clock())
            if decoded is not None:
                taken.append(decoded)
            if is_valid and (decoded is None or (decoded.fence, decoded.number) != own):
                self._post(decoded, message, is_history=False)
            await asyncio.sleep(0)
        return taken

    async def read_tail(self, own: tuple[int, int] | None = None) -> list[ChainMessage]:
        """Read what others, or lost answers, put behind the position; returns the messages.

        Only while paused. The own message of this fence and number is not posted. Raises `LogAwayError`,
        `ChainGapError` if a part is missing, and `LaterFormatError` if one cannot be read, which may be the marker of a
        later owner.
        """
        tail: list[ChainMessage] = []
        try:
            async with aclosing(self._read_on(until_end=True)) as batches:
                async for messages in batches:
                    tail += await self._take_all(messages, own)
        except LogGapError as exc:
            self.chain.lose_track()
            raise ChainGapError(str(exc)) from exc
        if self.later_format:
            self.chain.lose_track()
            raise LaterFormatError(self.later_format)
        return tail

    def _decode(self, message: LogMessage) -> tuple[ChainEntry, ChainMessage | None]:
        """Return the entry of a message, an empty one if it cannot be read."""
        try:
            decoded = decode_chain_message(message.data, self._shape)
        except (MalformedError, LaterFormatError) as exc:
            if isinstance(exc, LaterFormatError):
                self.later_format = f"{self._stream}, message {message.sequence}: {exc}"
            self.unreadable += 1
            log.error("chain_message_unreadable", shard=self.shard, sequence=message.sequence, error=str(exc))
            return ChainEntry(kind=EntryKind.BATCH, fence=self.chain.fence, sequence=message.sequence), None
        return make_chain_entry(decoded, message.sequence), decoded

    def _post(self, decoded: ChainMessage | None, message: LogMessage, *, is_history: bool) -> None:
        if not isinstance(decoded, ChainBatch):
            return
        for server in decoded.forgotten:
            self._poster.take_down(server, keeps_rows=self.has_rows())
        if decoded.servers:
            self._poster.post_batch(decoded, message.time, is_history=is_history)

    # ------------------------------------------------------------ what may be removed
    def find_removable(self, now: float) -> int:
        """Return the sequence below which the chain is to be removed, 0 if it need not be; `now` is the log's time."""
        return self.retention.find_removable(now, self._needed_bytes, self.chain.purge_below)

    def note_removed(self, below: int) -> None:
        """Note that the entries below a sequence are not in the log any more."""
        self.retention.note_removed(below)
        self.chain.note_removed(below)

    async def read_extent(self) -> int:
        """Read what the log has of the chain, and return its first sequence; raises `LogAwayError`."""
        state = await self._log.read_state(self._stream)
        self.note_removed(state.first)
        self.retention.note_size(state.bytes)
        return state.first

    @property
    def forecasts_that_fit(self) -> float:
        """The number of forecasts that may be appended again, so that half of what the log still takes is left."""
        return self.retention.free_bytes / 2 / self.forecast_bytes

    @property
    def is_long(self) -> bool:
        """Whether a part of the chain is to be removed soon."""
        return self.retention.is_long(self._needed_bytes)

    @property
    def _needed_bytes(self) -> int:
        return self.chain.forecasts * self.forecast_bytes

    def _note(self, message: LogMessage) -> None:
        self.retention.note(message.sequence, message.time, len(message.data))
        if self.chain.state is ChainState.FOLLOWING:
            self.retention.note_removed(self.find_removable(message.time))  # its owner does so
