"""Who carries a replay's connections and subscribers: the workers' common face, and the one in here.

A worker runs here or in a process of its own; the coordinator calls the same methods either way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import aiohttp
import numpy as np
from numpy.typing import NDArray

from streamd.tools.loadtest.errors import LinkLostError, UnreachableError
from streamd.tools.loadtest.ledger import Ledger, LedgerShape
from streamd.tools.loadtest.links import CONNECT_SECONDS, HttpLink, Link, OnReply, WebSocketLink
from streamd.tools.loadtest.plan import SendPlan
from streamd.tools.loadtest.sender import Patience, Sender
from streamd.tools.loadtest.subscriber import Subscriber, SubscriptionOptions
from streamd.tools.loadtest.wire import ClientEncoding, ClientForm, SampleEncoder


@dataclass(frozen=True, slots=True)
class Wire:
    """How samples travel."""

    base_url: str
    transport: str  # "websocket" or "http"
    encoding: ClientEncoding
    form: ClientForm


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """One worker's share of a replay; plain data, so that it can go to another process."""

    plan: SendPlan
    wire: Wire
    patience: Patience
    subscription: SubscriptionOptions
    shape: LedgerShape
    folder: Path | None
    connections: tuple[int, ...]
    subscribers: tuple[int, ...]


@dataclass(slots=True)
class WorkerOutcome:
    """What a worker knows at the end beside the ledger."""

    rejected_by_code: Counter[str] = field(default_factory=Counter)
    first_rejections: dict[str, str] = field(default_factory=dict)  # by code, see ``Sender``
    ack_seconds: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    unanswered: int = 0
    lost: list[str] = field(default_factory=list)

    def add(self, other: WorkerOutcome) -> None:
        """Take in another worker's."""
        self.rejected_by_code += other.rejected_by_code
        self.first_rejections = {**other.first_rejections, **self.first_rejections}
        self.ack_seconds = np.concatenate([self.ack_seconds, other.ack_seconds])
        self.unanswered += other.unanswered
        self.lost += other.lost


class Worker(Protocol):
    """One share of a replay."""

    async def open(self) -> None:
        """Subscribe, then connect. Raises UnreachableError."""

    async def fill(self) -> None:
        """Send the history as fast as acks allow."""

    async def prepare(self) -> None:
        """Encode the measured stretch ahead."""

    async def stream(self, start: float | None, stop: float | None) -> None:
        """Send the measured stretch; see ``Sender.run``."""

    async def outcome(self) -> WorkerOutcome:
        """What it knows so far."""

    async def close(self) -> None:
        """Hang up everything."""


class LocalWorker:
    """Carries its share in this process."""

    def __init__(self, job: WorkerJob, ledger: Ledger) -> None:
        self._job = job
        self._ledger = ledger
        self._sessions: list[aiohttp.ClientSession] = []
        self._senders: list[Sender] = []
        self._subscribers: list[Subscriber] = []

    async def open(self) -> None:
        """See ``Worker.open``."""
        job = self._job
        for index in job.subscribers:
            subscriber = self._subscriber(index)
            self._subscribers.append(subscriber)
            await subscriber.open()
        for index in job.connections:
            sender = self._sender(index)
            self._senders.append(sender)
            try:
                await sender.open()
            except LinkLostError as error:
                raise UnreachableError(str(error)) from error

    async def fill(self) -> None:
        """See ``Worker.fill``."""
        for index, sender in zip(self._job.connections, self._senders, strict=True):
            sender.prepare(self._job.plan.fill(index))
        await asyncio.gather(*(sender.run(None) for sender in self._senders))

    async def prepare(self) -> None:
        """See ``Worker.prepare``."""
        for index, sender in zip(self._job.connections, self._senders, strict=True):
            sender.prepare(self._job.plan.stream(index))

    async def stream(self, start: float | None, stop: float | None) -> None:
        """See ``Worker.stream``."""
        await asyncio.gather(*(sender.run(start, stop, measured=True) for sender in self._senders if not sender.lost))

    async def outcome(self) -> WorkerOutcome:
        """See ``Worker.outcome``."""
        total = WorkerOutcome()
        for sender in self._senders:
            lost = [sender.lost] if sender.lost else []
            seconds = np.array(sender.ack_seconds, dtype=np.float32)
            total.add(
                WorkerOutcome(
                    rejected_by_code=sender.rejected_by_code,
                    first_rejections=sender.first_rejections,
                    ack_seconds=seconds,
                    unanswered=sender.unanswered,
                    lost=lost,
                )
            )
        total.lost += [subscriber.lost for subscriber in self._subscribers if subscriber.lost]
        return total

    async def close(self) -> None:
        """See ``Worker.close``."""
        await asyncio.gather(*(one.close() for one in self._senders), *(one.close() for one in self._subscribers))
        await asyncio.gather(*(session.close() for session in self._sessions))

    def _session(self) -> aiohttp.ClientSession:
        """One connection each: the order of a server's rows is the order of one connection."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=self._job.patience.ack_seconds
        )
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1), timeout=timeout)
        self._sessions.append(session)
        return session

    def _sender(self, index: int) -> Sender:
        plan, wire = self._job.plan, self._job.wire
        make_link: Callable[[OnReply], Link]
        session = self._session()
        if wire.transport == "http":
            make_link = partial(HttpLink, session, wire.base_url, wire.encoding)
        else:
            make_link = partial(WebSocketLink, session, wire.base_url, wire.encoding)
        encoder = SampleEncoder(plan.fleet, plan.step_seconds, wire.form, wire.encoding, wire.transport != "http")
        return Sender(encoder, self._ledger, index, self._job.patience, make_link)

    def _subscriber(self, index: int) -> Subscriber:
        job = self._job
        return Subscriber(
            self._session(),
            job.wire.base_url,
            job.subscription,
            job.plan.fleet,
            job.plan.step_seconds,
            self._ledger,
            index,
            job.patience.reconnect_seconds,
        )


def split_jobs(job: WorkerJob, processes: int) -> list[WorkerJob]:
    """A job's connections and subscribers over so many processes; readers get half of them, at least one."""
    readers = min(len(job.subscribers), max(1, processes // 2)) if job.subscribers else 0
    writers = min(len(job.connections), max(1, processes - readers))
    reading = [replace(job, connections=(), subscribers=job.subscribers[one::readers]) for one in range(readers)]
    writing = [replace(job, connections=job.connections[one::writers], subscribers=()) for one in range(writers)]
    return reading + writing
