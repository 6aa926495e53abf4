"""Workers in processes of their own, for loads that one Python process can't make or read.

Calls and answers go through a pipe; rows go through the ledger's files and never through it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from streamd.tools.loadtest.errors import ReplayError
from streamd.tools.loadtest.ledger import Ledger
from streamd.tools.loadtest.workers import LocalWorker, WorkerJob, WorkerOutcome

JOIN_SECONDS = 5.0


class RemoteWorker:
    """Carries its share in a process of its own; calls go through a pipe."""

    def __init__(self, job: WorkerJob) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(job, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._calls = 0

    async def open(self) -> None:
        """See ``Worker.open``."""
        await self._call("open")

    async def fill(self) -> None:
        """See ``Worker.fill``."""
        await self._call("fill")

    async def prepare(self) -> None:
        """See ``Worker.prepare``."""
        await self._call("prepare")

    async def stream(self, start: float | None, stop: float | None) -> None:
        """See ``Worker.stream``."""
        await self._call("stream", start, stop)

    async def outcome(self) -> WorkerOutcome:
        """See ``Worker.outcome``."""
        found: WorkerOutcome = await self._call("outcome")
        return found

    async def close(self) -> None:
        """Hang up and wait for the process; kill it if it does not end."""
        self._pipe.close()
        await asyncio.to_thread(self._process.join, JOIN_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)

    async def _call(self, method: str, *arguments: Any) -> Any:
        self._calls += 1
        try:
            self._pipe.send((self._calls, method, arguments))
            number, answer = await _receive(self._pipe)
            while number != self._calls:  # the answer to a call that was cancelled meanwhile
                number, answer = await _receive(self._pipe)
        except (EOFError, OSError) as error:
            raise ReplayError(f"a worker process ended during {method!r}") from error
        if isinstance(answer, ReplayError):
            raise answer
        return answer


def _serve(job: WorkerJob, pipe: Connection) -> None:
    """A worker process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator hears it, and tells
    assert job.folder is not None
    worker = LocalWorker(job, Ledger.open(job.shape, job.folder))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_answer_calls(worker, pipe))


async def _answer_calls(worker: LocalWorker, pipe: Connection) -> None:
    """Answer calls until the coordinator hangs up. A new call cancels the one that still runs."""
    try:
        while True:
            number, method, arguments = await _receive(pipe)
            call = asyncio.ensure_future(getattr(worker, method)(*arguments))
            interruption = asyncio.ensure_future(_readable(pipe))
            await asyncio.wait({call, interruption}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                call.cancel()
            interruption.cancel()
            await asyncio.wait({call, interruption})
            if not call.cancelled():
                error = call.exception()
                if error is not None and not isinstance(error, ReplayError):
                    raise error
                pipe.send((number, error or call.result()))
    except (EOFError, OSError):
        pass  # the coordinator has closed its end
    finally:
        await worker.close()


async def _receive(pipe: Connection) -> Any:
    if not pipe.poll():
        await _readable(pipe)
    return pipe.recv()


async def _readable(pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pipe.fileno(), _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(pipe.fileno())


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
