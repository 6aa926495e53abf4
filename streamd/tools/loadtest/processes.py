"""Workers in processes of their own, for loads that one Python process cannot send or receive.

Calls and answers use a pipe; rows use only the ledger's files.
"""

import asyncio
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from streamd.tools.loadtest.errors import ReplayError
from streamd.tools.loadtest.ledger import Ledger
from streamd.tools.loadtest.workers import LocalWorker, WorkerJob, WorkerOutcome

PROCESS_JOIN_SECONDS = 5.0


class RemoteWorker:
    """A worker that runs its job in a process of its own, and is called through a pipe."""

    def __init__(self, job: WorkerJob) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_run_worker_process, args=(job, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._calls = 0

    async def open(self) -> None:
        """Subscribe, then connect, as `Worker.open`."""
        await self._call("open")

    async def send_history(self) -> None:
        """Send the history, as `Worker.send_history`."""
        await self._call("send_history")

    async def encode_stream(self) -> None:
        """Encode the measured stretch, as `Worker.encode_stream`."""
        await self._call("encode_stream")

    async def send_stream(self, start: float | None, stop: float | None) -> None:
        """Send the measured stretch, as `Worker.send_stream`."""
        await self._call("send_stream", start, stop)

    async def collect_outcome(self) -> WorkerOutcome:
        """Return the results so far, as `Worker.collect_outcome`."""
        found: WorkerOutcome = await self._call("collect_outcome")
        return found

    async def close(self) -> None:
        """Close the pipe and wait for the process; kill it if it does not end."""
        self._pipe.close()
        await asyncio.to_thread(self._process.join, PROCESS_JOIN_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)

    async def _call(self, method: str, *arguments: Any) -> Any:
        self._calls += 1
        try:
            _send(self._pipe, (self._calls, method, arguments))
            number, answer = await _receive(self._pipe)
            while number != self._calls:  # The answer belongs to an earlier call, which was cancelled.
                number, answer = await _receive(self._pipe)
        except (EOFError, OSError) as error:
            raise ReplayError(f"a worker process ended during {method!r}") from error
        if isinstance(answer, ReplayError):
            raise answer
        return answer


def _run_worker_process(job: WorkerJob, pipe: Connection) -> None:
    """Run a worker process until the coordinator closes its pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The coordinator gets SIGINT too, and ends this process.
    assert job.folder is not None
    worker = LocalWorker(job, Ledger.open(job.shape, job.folder))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_answer_calls(worker, pipe))


async def _answer_calls(worker: LocalWorker, pipe: Connection) -> None:
    """Answer calls until the coordinator closes the pipe. A new call cancels the one that still runs."""
    try:
        while True:
            number, method, arguments = await _receive(pipe)
            call = asyncio.ensure_future(getattr(worker, method)(*arguments))
            interruption = asyncio.ensure_future(_wait_readable(pipe))
            await asyncio.wait({call, interruption}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                call.cancel()
            interruption.cancel()
            await asyncio.wait({call, interruption})
            if not call.cancelled():
                error = call.exception()
                if error is not None and not isinstance(error, ReplayError):
                    raise error
                _send(pipe, (number, error or call.result()))
    except (EOFError, OSError):
        pass  # The coordinator has closed its end.
    finally:
        await worker.close()


async def _receive(pipe: Connection) -> Any:
    if not pipe.poll():
        await _wait_readable(pipe)
    _let_block(pipe)
    return pipe.recv()


def _send(pipe: Connection, message: Any) -> None:
    _let_block(pipe)
    pipe.send(message)


def _let_block(pipe: Connection) -> None:
    """Undo what uvloop does to a descriptor that it waits for: a message larger than the pipe would fail half-way."""
    os.set_blocking(pipe.fileno(), True)


async def _wait_readable(pipe: Connection) -> None:
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
