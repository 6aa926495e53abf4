"""Appends messages to the chain of a shard that this node owns or claims: one at a time, each until it has an answer.

Knows no forecast and no board: what the messages say is decided by who appends them.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import structlog

from streamd.cluster.forecasts.chain_follower import ChainFollower
from streamd.cluster.forecasts.chain_purger import ChainPurger
from streamd.cluster.log import Log, LogAwayError, LogFullError, WrongSequenceError
from streamd.core.cluster.chain_entries import FencedError
from streamd.core.cluster.forecast_batches import ChainMessage, OwnerMarker, StepRecord, encode_chain_message
from streamd.core.cluster.forecast_chain import ChainState, ForecastChain
from streamd.core.cluster.log_clock import LogClock
from streamd.core.cluster.shards import ClusterNames

log = structlog.get_logger(__name__)

LOCAL_SECONDS = 1.0
"""An append without an answer is late after so long."""

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.05, 0.5
"""The wait after an append that had no answer; it doubles."""


class PublisherState(Enum):
    """The activity of a shard's publisher."""

    FOLLOWING = "following"
    """Another node may own the shard; nothing is appended."""
    IDLE = "idle"
    APPENDING = "appending"
    WAITING = "waiting"
    """The log did not answer; the same message is appended again after a while."""
    FENCED = "fenced"
    """A successor has put its marker into the chain."""


@dataclass(kw_only=True)
class PublisherCounts:
    """Counts since start."""

    messages: int = 0
    forecasts: int = 0
    bytes: int = 0
    local: int = 0
    """Forecasts that readers got before they were in the log."""
    rejected: int = 0
    """Appends before which another one came."""
    kept: int = 0
    """Forecasts of silent servers that were appended again, so that the chain can be shortened."""
    known: int = 0
    """Forecasts of rows that the chain had a forecast of already; they were dropped."""


class ChainAppender:
    """The appends of one shard; `clock` returns monotonic seconds.

    `on_late` is called if an append has no answer after `local_seconds`, or if the log takes no more.
    """

    def __init__(
        self,
        shard: int,
        cluster_log: Log,
        names: ClusterNames,
        follower: ChainFollower,
        purger: ChainPurger,
        log_clock: LogClock,
        counts: PublisherCounts,
        *,
        on_late: Callable[[], None],
        local_seconds: float = LOCAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = PublisherState.FOLLOWING
        self.counts = counts
        self.is_late = False
        """Whether what is appended now, or was last, is late."""
        self._shard = shard
        self._log = cluster_log
        self._names = names
        self._follower = follower
        self._purger = purger
        self._log_clock = log_clock
        self._on_late = on_late
        self._local_seconds = local_seconds
        self._clock = clock
        self._number = 0

    @property
    def chain(self) -> ForecastChain:
        """The chain, as its follower knows it."""
        return self._follower.chain

    # ------------------------------------------------------------ claim
    async def claim(self, fence: int, node: str) -> None:
        """Append the marker of this owner, while the follower is paused; may be called again after it was cut off.

        Raises `FencedError` if the chain has a later owner, `ChainGapError`, and `LogAwayError`.
        """
        self.chain.doubt()
        await self._follower.read_tail()
        await self._follower.read_extent()
        if self.chain.state is not ChainState.OWNING or self.chain.fence != fence:
            self._number = 0
            # A former owner that does not know it appends meanwhile: each of its appends may come before the marker.
            while not await self._append_marker(OwnerMarker(fence=fence, number=0, node=node)):
                log.debug("marker_too_late", shard=self._shard, fence=fence)
        # Else an earlier attempt was stored, and its answer lost.
        self.state = PublisherState.IDLE

    async def _append_marker(self, marker: OwnerMarker) -> bool:
        self.chain.begin_claim(marker.fence)
        return await self.append(marker)

    # ------------------------------------------------------------ one message
    def take_number(self) -> int:
        """Return the number of the next message: the log knows one that is appended again by it."""
        self._number += 1
        return self._number

    async def append(self, message: ChainMessage) -> bool:
        """Append the message whose entry the chain has begun, until it has an answer; returns whether it is stored.

        If another entry came before, the tail was read. Raises `FencedError` if that has a later marker,
        `ChainGapError` if it has a hole, and for a marker `LogAwayError`.
        """
        data = encode_chain_message(message)
        timer = asyncio.get_running_loop().call_later(self._local_seconds, self._note_late)
        try:
            is_stored = await self._append_until_answered(message, data)
        finally:
            timer.cancel()
        if is_stored:
            self.is_late = False
            self.counts.messages += 1
            self.counts.bytes += len(data)
        if self.chain.state is ChainState.FENCED:
            self.state = PublisherState.FENCED
            raise FencedError(f"shard {self._shard}: the chain has a later owner, with fence {self.chain.fence}")
        self.state = PublisherState.IDLE
        return is_stored

    def _note_late(self, reason: str = "no answer") -> None:
        if not self.is_late:
            self.is_late = True
            log.warning("forecasts_local", shard=self._shard, reason=reason)
        self._on_late()

    async def _append_until_answered(self, message: ChainMessage, data: bytes) -> bool:
        wait = FIRST_RETRY_SECONDS
        while True:
            self.state = PublisherState.APPENDING
            try:
                return await self._append_once(message, data)
            except LogAwayError as exc:
                self.state = PublisherState.WAITING
                log.debug("forecasts_not_appended", shard=self._shard, error=str(exc))
                if isinstance(exc, LogFullError):
                    await self._purger.make_room()
                if isinstance(message, OwnerMarker):
                    raise
                if isinstance(exc, LogFullError):
                    self._note_late(str(exc))
            await asyncio.sleep(wait)
            wait = min(2 * wait, LAST_RETRY_SECONDS)

    async def _append_once(self, message: ChainMessage, data: bytes) -> bool:
        try:
            appended = await self._log.append(
                self._find_subject(message),
                data,
                message_id=f"{self._shard}.{message.fence}.{message.number}",
                expected_last=self.chain.position,
                rolls_up=isinstance(message, StepRecord),
            )
        except WrongSequenceError as exc:
            self.chain.reject(exc.last)
            self.counts.rejected += 1
            return await self._find_in_tail(message)
        self.chain.confirm(appended.sequence)
        self._follower.retention.note(appended.sequence, self._log_clock.read(self._clock()), len(data))
        return True

    def _find_subject(self, message: ChainMessage) -> str:
        if isinstance(message, StepRecord):
            return self._names.steps(self._shard, message.part)
        return self._names.forecasts(self._shard)

    async def _find_in_tail(self, message: ChainMessage) -> bool:
        """Read the tail; returns whether the message is in it, since the answer to an earlier append was lost."""
        key = message.fence, message.number
        while True:
            try:
                tail = await self._follower.read_tail(own=key)
            except LogAwayError:
                tail = []
            if any((each.fence, each.number) == key for each in tail):
                return True
            if not self.chain.must_read:
                return False
            await asyncio.sleep(FIRST_RETRY_SECONDS)  # the log knows of more than could be read
