"""The worker interface, which runs a share of a replay's connections and subscribers, and the worker of this process.

A worker in a process of its own has the same methods: see `processes.py`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import aiohttp
import numpy as np
from numpy.typing import NDArray

from streamd.tools.daemon_token import make_token_headers, read_token
from streamd.tools.loadtest.errors import LinkLostError, UnreachableError
from streamd.tools.loadtest.ledger import Ledger, LedgerShape
from streamd.tools.loadtest.links import CONNECT_SECONDS, HttpLink, Link, OnReply, WebSocketLink
from streamd.tools.loadtest.plan import SendPlan
from streamd.tools.loadtest.sender import ConnectionLimits, Sender
from streamd.tools.loadtest.subscriber import Subscriber, SubscriptionOptions
from streamd.tools.loadtest.wire import ClientEncoding, ClientForm, SampleEncoder


@dataclass(frozen=True, slots=True)
class WireOptions:
    """The route and the form in which samples are sent."""

    base_url: str
    transport: str
    """`websocket` or `http`."""
    encoding: ClientEncoding
    form: ClientForm


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJob:
    """The share of a replay that one worker runs; plain data, so that it can be sent to another process."""

    plan: SendPlan
    wire: WireOptions
    limits: ConnectionLimits
    subscription: SubscriptionOptions
    shape: LedgerShape
    folder: Path | None
    connections: tuple[int, ...]
    subscribers: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class WorkerOutcome:
    """The results of a worker that are not in the ledger."""

    rejected_by_code: Counter[str] = field(default_factory=Counter)
    first_rejections: dict[str, str] = field(default_factory=dict)
    """By code: the first sample that was rejected, and the daemon's message."""
    ack_seconds: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    unanswered_samples: int = 0
    losses: list[str] = field(default_factory=list)
    """The reason for each connection or subscription that was lost."""

    def merge(self, other: Self) -> None:
        """Add the results of another worker."""
        self.rejected_by_code += other.rejected_by_code
        self.first_rejections = {**other.first_rejections, **self.first_rejections}
        self.ack_seconds = np.concatenate([self.ack_seconds, other.ack_seconds])
        self.unanswered_samples += other.unanswered_samples
        self.losses += other.losses


class Worker(Protocol):
    """The interface of what runs one share of a replay. The methods are called in the order in which they are here."""

    async def open(self) -> None:
        """Subscribe, then connect. Raises `UnreachableError`."""

    async def send_history(self) -> None:
        """Send the history as fast as acks arrive."""

    async def encode_stream(self) -> None:
        """Encode the measured stretch in advance."""

    async def send_stream(self, start: float | None, stop: float | None) -> None:
        """Send the measured stretch, from `start` to `stop` as `Sender.send_prepared` takes them."""

    async def collect_outcome(self) -> WorkerOutcome:
        """Return the results so far."""

    async def close(self) -> None:
        """Close all connections and subscriptions."""


class LocalWorker:
    """A worker that runs its job in this process."""

    def __init__(self, job: WorkerJob, ledger: Ledger) -> None:
        self._job = job
        self._ledger = ledger
        self._sessions: list[aiohttp.ClientSession] = []
        self._senders: list[Sender] = []
        self._subscribers: list[Subscriber] = []

    async def open(self) -> None:
        """Subscribe, then connect, as `Worker.open`."""
        job = self._job
        for index in job.subscribers:
            subscriber = self._make_subscriber(index)
            self._subscribers.append(subscriber)
            await subscriber.open()
        for index in job.connections:
            sender = self._make_sender(index)
            self._senders.append(sender)
            try:
                await sender.open()
            except LinkLostError as error:
                raise UnreachableError(str(error)) from error

    async def send_history(self) -> None:
        """Send the history, as `Worker.send_history`."""
        for index, sender in zip(self._job.connections, self._senders, strict=True):
            sender.prepare(self._job.plan.plan_history(index))
        await asyncio.gather(*(sender.send_prepared(None) for sender in self._senders))

    async def encode_stream(self) -> None:
        """Encode the measured stretch, as `Worker.encode_stream`."""
        for index, sender in zip(self._job.connections, self._senders, strict=True):
            sender.prepare(self._job.plan.plan_stream(index))

    async def send_stream(self, start: float | None, stop: float | None) -> None:
        """Send the measured stretch, as `Worker.send_stream`."""
        await asyncio.gather(
            *(sender.send_prepared(start, stop, measured=True) for sender in self._senders if not sender.loss)
        )

    async def collect_outcome(self) -> WorkerOutcome:
        """Return the results so far, as `Worker.collect_outcome`."""
        total = WorkerOutcome()
        for sender in self._senders:
            losses = [sender.loss] if sender.loss else []
            seconds = np.array(sender.ack_seconds, dtype=np.float32)
            total.merge(
                WorkerOutcome(
                    rejected_by_code=sender.rejected_by_code,
                    first_rejections=sender.first_rejections,
                    ack_seconds=seconds,
                    unanswered_samples=sender.unanswered_samples,
                    losses=losses,
                )
            )
        total.losses += [subscriber.loss for subscriber in self._subscribers if subscriber.loss]
        return total

    async def close(self) -> None:
        """Close all connections and subscriptions, as `Worker.close`."""
        await asyncio.gather(*(one.close() for one in self._senders), *(one.close() for one in self._subscribers))
        await asyncio.gather(*(session.close() for session in self._sessions))

    def _make_session(self) -> aiohttp.ClientSession:
        """Make a session of a single connection, because only one connection keeps the rows of a server in order."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=self._job.limits.ack_seconds
        )
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1), timeout=timeout, headers=make_token_headers(read_token(None))
        )
        self._sessions.append(session)
        return session

    def _make_sender(self, index: int) -> Sender:
        plan, wire = self._job.plan, self._job.wire
        make_link: Callable[[OnReply], Link]
        session = self._make_session()
        if wire.transport == "http":
            make_link = partial(HttpLink, session, wire.base_url, wire.encoding)
        else:
            make_link = partial(WebSocketLink, session, wire.base_url, wire.encoding)
        encoder = SampleEncoder(
            fleet=plan.fleet,
            step_seconds=plan.step_seconds,
            form=wire.form,
            encoding=wire.encoding,
            has_ids=wire.transport != "http",
        )
        return Sender(encoder, self._ledger, index, limits=self._job.limits, make_link=make_link)

    def _make_subscriber(self, index: int) -> Subscriber:
        job = self._job
        return Subscriber(
            self._make_session(),
            job.wire.base_url,
            job.subscription,
            fleet=job.plan.fleet,
            step_seconds=job.plan.step_seconds,
            ledger=self._ledger,
            index=index,
            reconnect_seconds=job.limits.reconnect_seconds,
        )


def split_job(job: WorkerJob, processes: int) -> list[WorkerJob]:
    """Split a job over so many processes: half of them read forecasts, at least one; the others send."""
    readers = min(len(job.subscribers), max(1, processes // 2)) if job.subscribers else 0
    writers = min(len(job.connections), max(1, processes - readers))
    reading = [replace(job, connections=(), subscribers=job.subscribers[one::readers]) for one in range(readers)]
    writing = [replace(job, connections=job.connections[one::writers], subscribers=()) for one in range(writers)]
    return reading + writing
