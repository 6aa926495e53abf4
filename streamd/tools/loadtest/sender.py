"""The sending of one connection: pace, frames in flight, acks, and reconnecting after a loss.

Writes the ledger's cells of its own servers and its own line of counts; judges nothing.
"""

import asyncio
import itertools
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from streamd.tools.loadtest.errors import LinkLostError
from streamd.tools.loadtest.ledger import Ledger, LedgerCount
from streamd.tools.loadtest.links import BUSY, Link, OnReply
from streamd.tools.loadtest.plan import RowBatch
from streamd.tools.loadtest.wire import IngestReply, SampleEncoder

AHEAD_BYTES = 64 * 1024 * 1024
"""Frames that are encoded before a stretch begins, so that encoding does not disturb its pace; later ones follow."""
OPEN_LOOP_IN_FLIGHT = 20_000
"""An open loop does not wait for acks, but its memory must be bounded."""
RECONNECT_PAUSE_SECONDS = 0.2
UNLISTED_CODE = "untold"
"""The code in the report of rejections that an ack counts and does not list."""
SHOWN_CHARACTERS = 60
"""The length to which a note shortens a server's name."""
MAX_GENERATION = 255
"""The largest generation that fits into a byte of the ledger."""
FINEST_WAIT_SECONDS = 0.001
"""Shorter waits are left out, because the loop's timers are no finer."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of a sender or a subscriber."""

    in_flight: int = 8
    """Frames in flight on each connection, in a closed loop."""
    ack_seconds: float = 30.0
    """The time without any ack after which a connection with frames in flight counts as lost."""
    reconnect_seconds: float = 0.0
    """The time for which to reconnect after a loss; 0 does not reconnect."""


class Sender:
    """The sender of one connection: sends batches in order and records the answer to each frame."""

    def __init__(
        self,
        encoder: SampleEncoder,
        ledger: Ledger,
        connection: int,
        *,
        limits: ConnectionLimits,
        make_link: Callable[[OnReply], Link],
    ) -> None:
        self.rejected_by_code: Counter[str] = Counter()
        self.first_rejections: dict[str, str] = {}
        """By code: the first sample that was rejected, and the daemon's message."""
        self.ack_seconds = array("f")
        """The latencies of the acks of the measured stretch, from the intended send time."""
        self.loss: str | None = None
        """The reason why sending ended early, or `None`."""
        self._encoder = encoder
        # Plain arrays: files as arrays take several times as long for each frame.
        self._sent_at, self._accepted = np.asarray(ledger.sent_at), np.asarray(ledger.accepted)
        self._counts = ledger.connection_counts(connection)
        self._limits = limits
        self._link = make_link(self._on_reply)
        self._identities = itertools.count(1)
        self._outstanding: dict[int, PendingFrame] = {}
        self._on_answer = asyncio.Event()
        self._broken = False
        self._measured = False
        self._frames: Iterator[tuple[int, PendingFrame]] = iter(())

    @property
    def unanswered_samples(self) -> int:
        """Samples in frames that have not been answered."""
        return sum(len(one.batch.servers) for one in self._outstanding.values())

    async def open(self) -> None:
        """Connect. Raises `LinkLostError`."""
        await self._link.open()

    def prepare(self, batches: Iterator[RowBatch]) -> None:
        """Encode the batches that `send_prepared` is to send, the first `AHEAD_BYTES` of them in advance."""
        encoded = (self._encode_frame(batch) for batch in batches)
        ahead = []
        size_bytes = 0
        for identity, frame in encoded:
            ahead.append((identity, frame))
            size_bytes += len(frame.payload)
            if size_bytes > AHEAD_BYTES:
                break
        self._frames = itertools.chain(ahead, encoded)

    async def send_prepared(self, start: float | None, stop: float | None = None, measured: bool = False) -> None:
        """Send the prepared batches and wait until all of them are answered.

        With `start` (monotonic seconds) each frame is sent at its due time after `start`, and its latency counts from
        that time; with `None` frames are sent as fast as acks arrive. No frame is sent after `stop`. If the connection
        is lost and reconnecting fails, sending ends and `loss` has the reason.
        """
        self._measured = measured
        try:
            for identity, frame in self._frames:
                frame.intended_at = await self._wait_turn(frame.batch, start)
                if stop is not None and frame.intended_at > stop:
                    break
                await self._send(identity, frame)
            await self._wait_until(lambda: not self._outstanding)
        except LinkLostError as error:
            self.loss = str(error)

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    def _encode_frame(self, batch: RowBatch) -> tuple[int, "PendingFrame"]:
        identity = next(self._identities)
        return identity, PendingFrame(batch, self._encoder.encode_batch(batch, identity))

    async def _wait_turn(self, batch: RowBatch, start: float | None) -> float:
        """Wait until a frame may be sent; returns the time from which its latency counts."""
        if start is None:
            await self._wait_until(lambda: len(self._outstanding) < self._limits.in_flight)
            return time.monotonic()
        await self._wait_until(lambda: len(self._outstanding) < OPEN_LOOP_IN_FLIGHT)
        intended_at = start + batch.due_seconds
        wait_seconds = intended_at - time.monotonic()
        if wait_seconds > FINEST_WAIT_SECONDS:
            await asyncio.sleep(wait_seconds)
        return intended_at

    async def _send(self, identity: int, frame: "PendingFrame") -> None:
        batch = frame.batch
        frame.generation = min(1 + int(self._counts[LedgerCount.RECONNECTS]), MAX_GENERATION)
        # Written before the frame is sent: another process may receive the forecast before this one runs again.
        self._sent_at[batch.steps, batch.servers] = frame.intended_at
        self._outstanding[identity] = frame
        self._counts[LedgerCount.SAMPLES_SENT] += len(batch.servers)
        self._counts[LedgerCount.FRAMES_SENT] += 1
        try:
            await self._link.send(frame.payload, identity)
        except LinkLostError as error:
            await self._reconnect(error)

    async def _wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for answers until `ready()` is true, and reconnect if the link breaks."""
        while not ready():
            if self._broken:
                await self._reconnect(
                    LinkLostError(f"closed by the daemon with {len(self._outstanding)} frames unanswered")
                )
                continue
            self._on_answer.clear()
            try:
                async with asyncio.timeout(self._limits.ack_seconds):
                    await self._on_answer.wait()
            except TimeoutError:
                silence = LinkLostError(f"no answer for {self._limits.ack_seconds:g} s")
                await self._reconnect(silence)

    async def _reconnect(self, cause: LinkLostError) -> None:
        """Reconnect, and send all unanswered frames again, in order. Raises `cause` once the time for it is over."""
        give_up_at = time.monotonic() + self._limits.reconnect_seconds
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

    def _on_reply(self, reply: IngestReply | None) -> None:
        """Handle an answer of the link; `None` means that the link is lost."""
        if reply is None:
            self._broken = True
        elif reply.type == BUSY:
            self._counts[LedgerCount.THROTTLED] += 1
        elif reply.type in ("ack", "error"):
            self._finish_frame(reply)
        else:
            self._counts[LedgerCount.MALFORMED] += 1
        self._on_answer.set()

    def _finish_frame(self, reply: IngestReply) -> None:
        # A link answers in order, so an answer without an id is for the oldest frame.
        identity = reply.id if isinstance(reply.id, int) else next(iter(self._outstanding), None)
        frame = self._outstanding.get(identity) if identity is not None else None
        if frame is None or identity is None:
            self._counts[LedgerCount.MALFORMED] += 1
            return
        del self._outstanding[identity]
        self._counts[LedgerCount.FRAMES_ANSWERED] += 1
        if self._measured:
            self.ack_seconds.append(time.monotonic() - frame.intended_at)
        self._record_answer(frame.batch, frame.generation, reply)

    def _record_answer(self, batch: RowBatch, generation: int, reply: IngestReply) -> None:
        """Record which samples of an answered frame were accepted or rejected."""
        size = len(batch.servers)
        if reply.code is not None:
            self._reject(batch, reply.code, 0, reply.message, size)
            return
        if reply.accepted + reply.rejected != size:
            # An ack that does not account for each sample of its frame is not reliable for any of them.
            self._counts[LedgerCount.MALFORMED] += 1
            return
        self._counts[LedgerCount.SAMPLES_ACCEPTED] += reply.accepted
        for error in reply.errors:
            self._reject(batch, error.code, min(error.index, size - 1), error.message)
        unlisted = reply.rejected - len(reply.errors)
        if unlisted > 0:
            self._reject(batch, UNLISTED_CODE, size - 1, "an ack lists only the first rejections of a frame", unlisted)
        accepted = _find_accepted(reply, size)
        self._accepted[batch.steps[accepted], batch.servers[accepted]] = generation

    def _reject(self, batch: RowBatch, code: str, index: int, message: str, count: int = 1) -> None:
        """Count samples that were rejected for one reason, and keep the message of the first one of each code."""
        self.rejected_by_code[code] += count
        self._counts[LedgerCount.SAMPLES_REJECTED] += count
        if code not in self.first_rejections:
            fleet, step_seconds = self._encoder.fleet, self._encoder.step_seconds
            time_seconds = (fleet.first_step + int(batch.steps[index])) * step_seconds
            server = fleet.servers[int(batch.servers[index])]
            if len(server) > SHOWN_CHARACTERS:
                server = f"{server[:SHOWN_CHARACTERS]}..."
            self.first_rejections[code] = f"server {server!r} at time {time_seconds}: {message or 'no reason given'}"


def _find_accepted(reply: IngestReply, size: int) -> list[int] | slice:
    """Return the indexes of the samples of a frame that are certain to have been accepted.

    An ack lists errors in the order of the samples. If it does not list all of them, the samples after the last listed
    one are uncertain.
    """
    if reply.accepted == size:
        return slice(None)
    if not reply.accepted:
        return []
    refused = {error.index for error in reply.errors}
    end = size if reply.rejected == len(reply.errors) else max(refused, default=0)
    return [index for index in range(end) if index not in refused]


@dataclass(slots=True)
class PendingFrame:
    """A frame that waits for its answer."""

    batch: RowBatch
    payload: bytes
    intended_at: float = 0.0
    """The time from which its latency counts, in monotonic seconds."""
    generation: int = 0
    """1 until the connection is lost for the first time, then 2, and so on."""
