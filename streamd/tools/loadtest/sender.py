"""One connection's sending: pace, frames in flight, acks, and what to do when the daemon goes away.

Writes to the ledger's cells of its own servers and to its own line of counts; judges nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from streamd.tools.loadtest.errors import LinkLostError
from streamd.tools.loadtest.ledger import Ledger, LedgerCount
from streamd.tools.loadtest.links import BUSY, Link, OnReply
from streamd.tools.loadtest.plan import RowBatch
from streamd.tools.loadtest.wire import Reply, SampleEncoder

# Frames encoded before a stretch begins, so that encoding does not disturb its pace; the rest as they come.
AHEAD_BYTES = 64 * 1024 * 1024
# An open loop does not wait for acks, but its memory must not grow without end either.
OPEN_LOOP_IN_FLIGHT = 20_000
RECONNECT_PAUSE_SECONDS = 0.2
UNTOLD = "untold"  # the code of rejections that an ack counts and does not spell out
SHOWN_CHARACTERS = 60  # of a server's name in a note
LAST_LIFE = 255  # what a byte of the ledger can tell apart
# Shorter waits than this are left out: the loop's timers are no finer.
FINEST_WAIT_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Patience:
    """What a sender or a subscriber puts up with."""

    in_flight: int = 8  # frames a connection in a closed loop
    ack_seconds: float = 30.0  # without any ack while frames are in flight, before the connection counts as lost
    reconnect_seconds: float = 0.0  # how long to try again after a loss; 0 gives up at once


class Sender:
    """Sends batches in order, and knows of each frame whether it was answered."""

    def __init__(
        self,
        encoder: SampleEncoder,
        ledger: Ledger,
        connection: int,
        patience: Patience,
        make_link: Callable[[OnReply], Link],
    ) -> None:
        self.rejected_by_code: Counter[str] = Counter()
        self.first_rejections: dict[str, str] = {}  # by code: which sample it was, and the daemon's message
        self.ack_seconds = array("f")  # of the measured stretch, from the intended send time
        self.lost: str | None = None  # why sending ended early
        self._encoder = encoder
        self._ledger = ledger
        self._counts = ledger.connection(connection)
        self._patience = patience
        self._link = make_link(self._on_reply)
        self._identities = itertools.count(1)
        self._outstanding: dict[int, Outstanding] = {}
        self._answered = asyncio.Event()
        self._broken = False
        self._measured = False
        self._frames: Iterator[tuple[int, Outstanding]] = iter(())

    @property
    def unanswered(self) -> int:
        """Samples in frames that never got an answer."""
        return sum(len(one.batch.servers) for one in self._outstanding.values())

    async def open(self) -> None:
        """Connect. Raises LinkLostError."""
        await self._link.open()

    def prepare(self, batches: Iterator[RowBatch]) -> None:
        """Encode what ``run`` is to send next, as far ahead as memory allows."""
        encoded = (self._frame(batch) for batch in batches)
        ahead = []
        size_bytes = 0
        for identity, frame in encoded:
            ahead.append((identity, frame))
            size_bytes += len(frame.payload)
            if size_bytes > AHEAD_BYTES:
                break
        self._frames = itertools.chain(ahead, encoded)

    async def run(self, start: float | None, stop: float | None = None, measured: bool = False) -> None:
        """Send what was prepared and wait until all of it is answered.

        With ``start`` (monotonic seconds) each frame goes at its due time after it, and latencies count from
        then; with None as fast as acks allow. No frame is begun after ``stop``. When the daemon is gone for
        good, ``lost`` says why and the run ends.
        """
        self._measured = measured
        try:
            for identity, frame in self._frames:
                frame.intended_at = await self._turn(frame.batch, start)
                if stop is not None and frame.intended_at > stop:
                    break
                await self._send(identity, frame)
            await self._wait_until(lambda: not self._outstanding)
        except LinkLostError as error:
            self.lost = str(error)

    async def close(self) -> None:
        """Hang up."""
        await self._link.close()

    def _frame(self, batch: RowBatch) -> tuple[int, Outstanding]:
        identity = next(self._identities)
        return identity, Outstanding(batch, self._encoder.encode(batch, identity))

    async def _turn(self, batch: RowBatch, start: float | None) -> float:
        """Wait for a frame's turn; returns the time from which its latency counts."""
        if start is None:
            await self._wait_until(lambda: len(self._outstanding) < self._patience.in_flight)
            return time.monotonic()
        await self._wait_until(lambda: len(self._outstanding) < OPEN_LOOP_IN_FLIGHT)
        intended_at = start + batch.due_seconds
        wait_seconds = intended_at - time.monotonic()
        if wait_seconds > FINEST_WAIT_SECONDS:
            await asyncio.sleep(wait_seconds)
        return intended_at

    async def _send(self, identity: int, frame: Outstanding) -> None:
        batch = frame.batch
        frame.life = min(1 + int(self._counts[LedgerCount.RECONNECTS]), LAST_LIFE)
        # Written before the frame goes: another process may get the forecast before this one runs again.
        self._ledger.sent_at[batch.steps, batch.servers] = frame.intended_at
        self._outstanding[identity] = frame
        self._counts[LedgerCount.SAMPLES_SENT] += len(batch.servers)
        self._counts[LedgerCount.FRAMES_SENT] += 1
        try:
            await self._link.send(frame.payload, identity)
        except LinkLostError as error:
            await self._reconnect(error)

    async def _wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for answers until ``ready``, and reconnect if the link breaks meanwhile."""
        while not ready():
            if self._broken:
                await self._reconnect(
                    LinkLostError(f"closed by the daemon with {len(self._outstanding)} frames unanswered")
                )
                continue
            self._answered.clear()
            try:
                async with asyncio.timeout(self._patience.ack_seconds):
                    await self._answered.wait()
            except TimeoutError:
                silence = LinkLostError(f"no answer for {self._patience.ack_seconds:g} s")
                await self._reconnect(silence)

    async def _reconnect(self, cause: LinkLostError) -> None:
        """Try until patience ends, then send again, in order, what was not answered. Raises ``cause``."""
        give_up_at = time.monotonic() + self._patience.reconnect_seconds
        while time.monotonic() < give_up_at:
            try:
                await self._link.open()
                self._broken = False
                self._counts[LedgerCount.RECONNECTS] += 1
                for identity, frame in list(self._outstanding.items()):
                    self._counts[LedgerCount.FRAMES_RESENT] += 1
                    await self._link.send(frame.payload, identity)
                return
            except LinkLostError:
                await asyncio.sleep(RECONNECT_PAUSE_SECONDS)
        self._broken = True
        raise cause

    def _on_reply(self, reply: Reply | None) -> None:
        """What the link calls with each answer; None says that the link is gone."""
        if reply is None:
            self._broken = True
        elif reply.type == BUSY:
            self._counts[LedgerCount.THROTTLED] += 1
        elif reply.type in ("ack", "error"):
            self._settle(reply)
        else:
            self._counts[LedgerCount.MALFORMED] += 1
        self._answered.set()

    def _settle(self, reply: Reply) -> None:
        # A link answers in order, so an answer without an id belongs to the oldest frame.
        identity = reply.id if isinstance(reply.id, int) else next(iter(self._outstanding), None)
        frame = None if identity is None else self._outstanding.get(identity)
        if frame is None or identity is None:
            self._counts[LedgerCount.MALFORMED] += 1
            return
        del self._outstanding[identity]
        self._counts[LedgerCount.FRAMES_ANSWERED] += 1
        if self._measured:
            self.ack_seconds.append(time.monotonic() - frame.intended_at)
        self._account(frame.batch, frame.life, reply)

    def _account(self, batch: RowBatch, life: int, reply: Reply) -> None:
        """Which rows of an answered frame the daemon has now."""
        size = len(batch.servers)
        if reply.code is not None:
            self._reject(batch, reply.code, 0, reply.message, size)
            return
        if reply.accepted + reply.rejected != size:
            # An ack that does not account for each sample of its frame says nothing of any.
            self._counts[LedgerCount.MALFORMED] += 1
            return
        self._counts[LedgerCount.SAMPLES_ACCEPTED] += reply.accepted
        for error in reply.errors:
            self._reject(batch, error.code, min(error.index, size - 1), error.message)
        untold = reply.rejected - len(reply.errors)
        if untold > 0:
            self._reject(batch, UNTOLD, size - 1, "an ack spells out only the first rejections of a frame", untold)
        kept = _kept(reply, size)
        self._ledger.accepted[batch.steps[kept], batch.servers[kept]] = life

    def _reject(self, batch: RowBatch, code: str, index: int, message: str, count: int = 1) -> None:
        """Count samples that were rejected for one reason; the first of each code is kept with its message."""
        self.rejected_by_code[code] += count
        self._counts[LedgerCount.SAMPLES_REJECTED] += count
        if code not in self.first_rejections:
            fleet, step_seconds = self._encoder.fleet, self._encoder.step_seconds
            time_seconds = (fleet.first_step + int(batch.steps[index])) * step_seconds
            server = fleet.servers[int(batch.servers[index])]
            if len(server) > SHOWN_CHARACTERS:
                server = f"{server[:SHOWN_CHARACTERS]}..."
            self.first_rejections[code] = f"server {server!r} at time {time_seconds}: {message or 'no reason given'}"


def _kept(reply: Reply, size: int) -> list[int]:
    """The samples of a frame that are certain to have been accepted, by index.

    Errors come in the order of the samples. Where an ack does not spell out all of them, nothing is known of the
    samples after the last one that it names.
    """
    if not reply.accepted:
        return []
    refused = {error.index for error in reply.errors}
    end = size if reply.rejected == len(reply.errors) else max(refused, default=0)
    return [index for index in range(end) if index not in refused]


@dataclass(slots=True)
class Outstanding:
    """A frame that is to be answered."""

    batch: RowBatch
    payload: bytes
    intended_at: float = 0.0  # monotonic seconds
    life: int = 0  # 1 before the connection was ever lost, 2 after the first time, and so on
