"""Tests `streamd/tools/loadtest/processes.py`: messages of any size pass the pipe of a worker process."""

import asyncio
import multiprocessing
import threading
from contextlib import suppress
from multiprocessing.connection import Connection

import uvloop

from streamd.tools.loadtest import processes


def send_or_close(pipe: Connection, message: object) -> None:
    """Send a message; close the pipe if that fails, so that its reader does not wait for ever."""
    try:
        processes._send(pipe, message)
    except OSError:
        pipe.close()


def test_a_message_larger_than_the_pipe_arrives_whole_though_uvloop_has_waited_for_the_pipe() -> None:
    ours, theirs = multiprocessing.Pipe()
    answer = list(range(2_000_000))

    async def ask() -> object:
        for pipe in (ours, theirs):  # uvloop makes each of them non-blocking
            waiting = asyncio.ensure_future(processes._wait_readable(pipe))
            await asyncio.sleep(0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        sender = threading.Thread(target=send_or_close, args=(theirs, answer))
        sender.start()
        found = await processes._receive(ours)
        sender.join()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == answer
    ours.close()
    theirs.close()
