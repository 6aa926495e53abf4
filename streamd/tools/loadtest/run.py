"""A replay from beginning to end: ask the contract, fill windows, stream, settle, judge.

Decides the order of things; sending, reading and judging are done by those it calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np

from streamd.tools.fleets.fleet import Bools
from streamd.tools.loadtest.daemon import DaemonClient, DaemonContract, Rows, Status
from streamd.tools.loadtest.errors import UnreachableError
from streamd.tools.loadtest.ledger import Ledger, LedgerCount, LedgerShape
from streamd.tools.loadtest.plan import SendPlan
from streamd.tools.loadtest.processes import RemoteWorker
from streamd.tools.loadtest.progress import ProgressLine
from streamd.tools.loadtest.result import ReplayResult, Setup, notes_on
from streamd.tools.loadtest.verdict import Due, Evidence, Latency
from streamd.tools.loadtest.workers import LocalWorker, Worker, WorkerJob, WorkerOutcome, split_jobs

POLL_SECONDS = 0.2
# Between encoding ahead and the first frame, so that every process is ready when the stretch begins.
LEAD_SECONDS = 0.1


class Replay:
    """One replay of one plan against one daemon."""

    def __init__(
        self,
        daemon: DaemonClient,
        status: Status,
        plan: SendPlan,
        setup: Setup,
        progress: Callable[[Ledger], ProgressLine],
    ) -> None:
        self._daemon = daemon
        self._status = status
        self._contract: DaemonContract = status.contract
        self._plan = plan
        self._setup = setup
        self._shape = LedgerShape(plan.fleet.steps, len(plan.fleet.servers), plan.connections, setup.subscribers)
        self._folder = tempfile.TemporaryDirectory(prefix="replay-") if setup.processes > 1 else None
        self._ledger = Ledger.create(self._shape, None if self._folder is None else Path(self._folder.name))
        self._progress = progress(self._ledger)
        self._workers: list[Worker] = []
        self._covers = [setup.subscription.covers(plan.fleet.servers)] * setup.subscribers
        self._prior = np.zeros((0, 0), dtype=np.bool_)
        self._filled = self._last = status
        self._restarted = self._gone = False
        self._fill_seconds = self._stream_seconds = self._stream_began = 0.0

    async def run(self, stop: asyncio.Event) -> ReplayResult:
        """Replay until all is sent and settled, or ``stop`` is set: then what is known so far is judged."""
        try:
            self._prior = await self._daemon.prior(
                self._plan.fleet, self._contract.context_length, self._contract.step_seconds
            )
            self._workers = self._make_workers()
            work = asyncio.create_task(self._stretches())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            interrupted = not work.done()
            for task in (work, stopping):
                task.cancel()
            await asyncio.wait({work, stopping})
            if not work.cancelled():
                work.result()
            if interrupted:
                with contextlib.suppress(UnreachableError):
                    await self._seen()
            outcome = await self._outcome()
            return self._judge(outcome, interrupted)
        finally:
            await asyncio.gather(*(worker.close() for worker in self._workers))
            if self._folder is not None:
                self._folder.cleanup()

    async def _stretches(self) -> None:
        await self._all(lambda worker: worker.open())
        history, measured = self._plan.rows()
        began = time.monotonic()
        if history:
            async with self._progress.stretch("fill", history):
                await self._all(lambda worker: worker.fill())
            async with self._waiting("settle"):
                await self._settle()
        if not self._gone:
            self._filled = await self._seen()
        self._fill_seconds = time.monotonic() - began
        if not measured or (await self._outcome()).lost:
            return
        await self._all(lambda worker: worker.prepare())
        open_loop = self._plan.pace.open_loop
        start = time.monotonic() + (LEAD_SECONDS if open_loop else 0.0)
        self._stream_began = time.time() + start - time.monotonic()
        duration = self._setup.duration_seconds
        stop = None if duration is None else start + duration
        async with self._progress.stretch("stream", measured * self._plan.parts):
            await self._all(lambda worker: worker.stream(start if open_loop else None, stop))
            self._stream_seconds = time.monotonic() - start
        async with self._waiting("settle"):
            await self._settle()

    @contextlib.asynccontextmanager
    async def _waiting(self, title: str) -> AsyncIterator[None]:
        async with self._progress.stretch(title, 0, lambda: f"{self._last.due} due, {self._last.in_flight} in flight"):
            yield

    async def _settle(self) -> None:
        """Wait until the daemon has nothing waiting and everything that it delivered is here.

        Ends early when nothing has changed for ``settle_seconds``: the verdict then says what is missing.
        """
        changed_at = time.monotonic()
        seen: tuple[object, ...] = ()
        while True:
            try:
                status = await self._seen()
            except UnreachableError:
                self._gone = True
                return
            received = [self._arrived(index) for index in range(self._setup.subscribers)]
            if status.idle and self._all_closed(status) and self._all_here(status, received):
                return
            now = (status.rows, status.due, status.in_flight, *received)
            if now != seen:
                seen, changed_at = now, time.monotonic()
            if time.monotonic() - changed_at > self._setup.settle_seconds:
                return
            await asyncio.sleep(POLL_SECONDS)

    def _arrived(self, subscriber: int) -> int:
        counts = self._ledger.subscriber(subscriber)
        return int(counts[LedgerCount.FORECASTS] + counts[LedgerCount.FOREIGN] + counts[LedgerCount.LAGGED])

    def _all_closed(self, status: Status) -> bool:
        return self._restarted or status.rows.closed - self._status.rows.closed >= self._fresh_rows()

    def _fresh_rows(self) -> int:
        fresh = (self._ledger.accepted > 0) & ~self._prior[self._contract.context_length - 1 :]
        return int(fresh.sum())

    def _all_here(self, status: Status, received: list[int]) -> bool:
        """Only a subscriber of the whole fleet can be compared with the daemon's total."""
        if self._restarted or not all(covers.all() for covers in self._covers):
            return True
        delivered = status.rows.delivered - self._status.rows.delivered
        return all(count >= delivered for count in received)

    async def _seen(self) -> Status:
        """The daemon's status; notices when it is another daemon than at the beginning."""
        status = await self._daemon.status()
        if status.uptime_seconds < self._last.uptime_seconds or status.rows.closed < self._last.rows.closed:
            self._restarted = True
        self._last = status
        return status

    def _judge(self, outcome: WorkerOutcome, interrupted: bool) -> ReplayResult:
        contract, plan = self._contract, self._plan
        due = Due.model(self._ledger.accepted > 0, self._prior, contract.context_length, contract.need)
        evidence = Evidence(self._ledger, due, self._covers, self._earlier_life(), self._gone or interrupted)
        nothing = Rows()
        rows = self._last.rows.since(nothing if self._restarted else self._status.rows)
        later = self._last.rows.since(nothing if self._restarted else self._filled.rows)
        result = ReplayResult(
            plan=plan,
            setup=self._setup,
            status=self._last,
            whole=evidence.judge(rows, 0, plan.fleet.steps, measured=False),
            measured=evidence.judge(later, plan.fill_steps, plan.fleet.steps, measured=True),
            acks=Latency.of(outcome.ack_seconds),
            outcome=outcome,
            ledger=self._ledger,
            modelled_due=int(due.rows.sum()),
            daemon_rows=rows,
            fill_seconds=self._fill_seconds,
            stream_began=self._stream_began,
            stream_seconds=self._stream_seconds,
            interrupted=interrupted,
            restarted=self._restarted,
            gone=self._gone,
            fresh_rows=self._fresh_rows(),
            newer_rows=due.newer,
        )
        result.notes = notes_on(result)
        return result

    def _earlier_life(self) -> Bools:
        """Rows first sent before their connection was lost, if the daemon was another one afterwards."""
        accepted = self._ledger.accepted
        if not self._restarted:
            return np.zeros(accepted.shape, dtype=np.bool_)
        losses = self._ledger.counts[: self._plan.connections, LedgerCount.RECONNECTS]
        last_life = 1 + losses[np.arange(accepted.shape[1]) % self._plan.connections]
        earlier: Bools = (accepted > 0) & (accepted < last_life)
        return earlier

    async def _all(self, call: Callable[[Worker], Awaitable[None]]) -> None:
        await asyncio.gather(*(call(worker) for worker in self._workers))

    async def _outcome(self) -> WorkerOutcome:
        total = WorkerOutcome()
        for worker in self._workers:
            total.add(await worker.outcome())
        return total

    def _make_workers(self) -> list[Worker]:
        """One worker here, or senders and subscribers apart in processes of their own."""
        setup, shape = self._setup, self._shape
        connections, subscribers = tuple(range(shape.connections)), tuple(range(shape.subscribers))
        folder = None if self._folder is None else Path(self._folder.name)
        job = WorkerJob(
            self._plan,
            setup.wire,
            setup.patience,
            setup.subscription,
            shape,
            folder,
            connections,
            subscribers,
        )
        if folder is None:
            return [LocalWorker(job, self._ledger)]
        return [RemoteWorker(part) for part in split_jobs(job, setup.processes)]
