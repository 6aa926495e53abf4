"""A replay from beginning to end: fill the windows, stream, wait until the daemon is idle, judge.

Decides the order of the steps; sending, reading and judging are in other modules.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np

from streamd.tools.fleets.fleet import Bools
from streamd.tools.loadtest.daemon import DaemonClient, DaemonContract, DaemonStatus, RowTotals
from streamd.tools.loadtest.errors import UnreachableError
from streamd.tools.loadtest.ledger import Ledger, LedgerCount, LedgerShape
from streamd.tools.loadtest.plan import SendPlan
from streamd.tools.loadtest.processes import RemoteWorker
from streamd.tools.loadtest.progress import ProgressLine
from streamd.tools.loadtest.result import ReplayResult, ReplaySetup, list_notes
from streamd.tools.loadtest.verdict import DueRows, Evidence, Latency
from streamd.tools.loadtest.workers import LocalWorker, Worker, WorkerJob, WorkerOutcome, split_job

POLL_SECONDS = 0.2
LEAD_SECONDS = 0.1
"""The time between encoding and the first frame, so that every process is ready when the stretch begins."""


class Replay:
    """One replay of one plan against one daemon."""

    def __init__(
        self,
        daemon: DaemonClient,
        status: DaemonStatus,
        plan: SendPlan,
        setup: ReplaySetup,
        progress: Callable[[Ledger], ProgressLine],
    ) -> None:
        self._daemon = daemon
        self._first_status = status
        self._contract: DaemonContract = status.contract
        self._plan = plan
        self._setup = setup
        self._shape = LedgerShape(plan.fleet.steps, len(plan.fleet.servers), plan.connections, setup.subscribers)
        self._folder = tempfile.TemporaryDirectory(prefix="replay-") if setup.processes > 1 else None
        self._ledger = Ledger.create(self._shape, Path(self._folder.name) if self._folder else None)
        self._progress = progress(self._ledger)
        self._workers: list[Worker] = []
        self._matches = [setup.subscription.match_servers(plan.fleet.servers)] * setup.subscribers
        self._prior = np.zeros((0, 0), dtype=np.bool_)
        self._filled_status = self._last_status = status
        self._has_restarted = self._has_lost_daemon = False
        self._fill_seconds = self._stream_seconds = self._stream_began = 0.0

    async def run(self, stop: asyncio.Event) -> ReplayResult:
        """Replay until everything is sent and the daemon is idle, or `stop` is set; then judge the results so far."""
        try:
            self._prior = await self._daemon.fetch_held_rows(
                self._plan.fleet, self._contract.context_length, self._contract.step_seconds
            )
            self._workers = self._make_workers()
            work = asyncio.create_task(self._run_stretches())
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
                    await self._update_status()
            outcome = await self._collect_outcome()
            return self._judge(outcome, interrupted)
        finally:
            await asyncio.gather(*(worker.close() for worker in self._workers))
            if self._folder is not None:
                self._folder.cleanup()

    async def _run_stretches(self) -> None:
        await self._call_workers(lambda worker: worker.open())
        history, measured = self._plan.count_rows()
        began = time.monotonic()
        if history:
            async with self._progress.show_stretch("fill", history):
                await self._call_workers(lambda worker: worker.send_history())
            async with self._show_waiting("settle"):
                await self._wait_idle()
        if not self._has_lost_daemon:
            self._filled_status = await self._update_status()
        self._fill_seconds = time.monotonic() - began
        if not measured or (await self._collect_outcome()).losses:
            return
        await self._call_workers(lambda worker: worker.encode_stream())
        is_open_loop = self._plan.pace.is_open_loop
        start = time.monotonic() + (LEAD_SECONDS if is_open_loop else 0.0)
        self._stream_began = time.time() + start - time.monotonic()
        duration = self._setup.duration_seconds
        stop = start + duration if duration is not None else None
        async with self._progress.show_stretch("stream", measured * self._plan.parts):
            await self._call_workers(lambda worker: worker.send_stream(start if is_open_loop else None, stop))
            self._stream_seconds = time.monotonic() - start
        async with self._show_waiting("settle"):
            await self._wait_idle()

    @contextlib.asynccontextmanager
    async def _show_waiting(self, title: str) -> AsyncIterator[None]:
        async with self._progress.show_stretch(
            title, 0, lambda: f"{self._last_status.due} due, {self._last_status.in_flight} in flight"
        ):
            yield

    async def _wait_idle(self) -> None:
        """Wait until no row waits in the daemon and everything that it delivered was received.

        Ends early if nothing has changed for `unchanged_seconds`: the verdict then shows what is missing.
        """
        changed_at = time.monotonic()
        seen: tuple[object, ...] = ()
        while True:
            try:
                status = await self._update_status()
            except UnreachableError:
                self._has_lost_daemon = True
                return
            received = [self._count_arrived(index) for index in range(self._setup.subscribers)]
            if status.is_idle and self._has_closed_all(status) and self._has_received_all(status, received):
                return
            now = (status.rows, status.due, status.in_flight, *received)
            if now != seen:
                seen, changed_at = now, time.monotonic()
            if time.monotonic() - changed_at > self._setup.unchanged_seconds:
                return
            await asyncio.sleep(POLL_SECONDS)

    def _count_arrived(self, subscriber: int) -> int:
        counts = self._ledger.subscriber_counts(subscriber)
        return int(counts[LedgerCount.FORECASTS] + counts[LedgerCount.FOREIGN] + counts[LedgerCount.LAGGED])

    def _has_closed_all(self, status: DaemonStatus) -> bool:
        return self._has_restarted or status.rows.closed - self._first_status.rows.closed >= self._count_new_rows()

    def _count_new_rows(self) -> int:
        is_new = (self._ledger.accepted > 0) & ~self._prior[self._contract.context_length - 1 :]
        return int(is_new.sum())

    def _has_received_all(self, status: DaemonStatus, received: list[int]) -> bool:
        """Whether each subscriber has received as many forecasts as the daemon delivered.

        Only subscribers of the whole fleet can be compared with the daemon's total.
        """
        if self._has_restarted or not all(matches.all() for matches in self._matches):
            return True
        delivered = status.rows.delivered - self._first_status.rows.delivered
        return all(count >= delivered for count in received)

    async def _update_status(self) -> DaemonStatus:
        """Read the daemon's status, and notice if the daemon was restarted."""
        status = await self._daemon.fetch_status()
        last = self._last_status
        if status.uptime_seconds < last.uptime_seconds or status.rows.closed < last.rows.closed:
            self._has_restarted = True
        self._last_status = status
        return status

    def _judge(self, outcome: WorkerOutcome, interrupted: bool) -> ReplayResult:
        contract, plan = self._contract, self._plan
        due = DueRows.compute(self._ledger.accepted > 0, self._prior, contract.context_length, contract.need)
        evidence = Evidence(
            ledger=self._ledger,
            due=due,
            matches=self._matches,
            earlier_generation=self._find_earlier_generation(),
            has_no_last_counts=self._has_lost_daemon or interrupted,
        )
        no_rows = RowTotals()
        rows = self._last_status.rows.count_since(no_rows if self._has_restarted else self._first_status.rows)
        later = self._last_status.rows.count_since(no_rows if self._has_restarted else self._filled_status.rows)
        result = ReplayResult(
            plan=plan,
            setup=self._setup,
            status=self._last_status,
            whole=evidence.judge(rows, 0, plan.fleet.steps, measured=False),
            measured=evidence.judge(later, plan.fill_steps, plan.fleet.steps, measured=True),
            acks=Latency.from_seconds(outcome.ack_seconds),
            outcome=outcome,
            ledger=self._ledger,
            modelled_due=int(due.rows.sum()),
            daemon_rows=rows,
            fill_seconds=self._fill_seconds,
            stream_began=self._stream_began,
            stream_seconds=self._stream_seconds,
            is_interrupted=interrupted,
            has_restarted=self._has_restarted,
            has_lost_daemon=self._has_lost_daemon,
            new_rows=self._count_new_rows(),
            newer_rows=due.newer,
        )
        result.notes = list_notes(result)
        return result

    def _find_earlier_generation(self) -> Bools:
        """Return `(T, N) bool`: the rows first sent before a connection loss during which the daemon was restarted."""
        accepted = self._ledger.accepted
        if not self._has_restarted:
            return np.zeros(accepted.shape, dtype=np.bool_)
        losses = self._ledger.counts[: self._plan.connections, LedgerCount.RECONNECTS]
        last_generation = 1 + losses[np.arange(accepted.shape[1]) % self._plan.connections]
        earlier: Bools = (accepted > 0) & (accepted < last_generation)
        return earlier

    async def _call_workers(self, call: Callable[[Worker], Awaitable[None]]) -> None:
        await asyncio.gather(*(call(worker) for worker in self._workers))

    async def _collect_outcome(self) -> WorkerOutcome:
        total = WorkerOutcome()
        for worker in self._workers:
            total.merge(await worker.collect_outcome())
        return total

    def _make_workers(self) -> list[Worker]:
        """Make one worker in this process, or several in processes of their own, senders apart from subscribers."""
        setup, shape = self._setup, self._shape
        connections, subscribers = tuple(range(shape.connections)), tuple(range(shape.subscribers))
        folder = Path(self._folder.name) if self._folder else None
        job = WorkerJob(
            plan=self._plan,
            wire=setup.wire,
            limits=setup.limits,
            subscription=setup.subscription,
            shape=shape,
            folder=folder,
            connections=connections,
            subscribers=subscribers,
        )
        if folder is None:
            return [LocalWorker(job, self._ledger)]
        return [RemoteWorker(part) for part in split_job(job, setup.processes)]
