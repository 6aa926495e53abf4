"""Tests `streamd/http/callers.py`: a block ends at once if its caller leaves, and at no other loss or cancellation."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from streamd.http import callers
from streamd.http.callers import cancel_if_caller_leaves
from streamd.http.connections import Connection
from tests.support.http_harness import MSGPACK, HttpDaemon, make_question


class FakeConnection:
    """Stands in for the connection of a caller: `leave` loses it."""

    def __init__(self) -> None:
        self.leave: Callable[[], None] | None = None

    @contextlib.contextmanager
    def call_when_lost(self, request: web.Request, callback: Callable[[], None]) -> Iterator[None]:
        self.leave = callback
        yield
        self.leave = None


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> FakeConnection:
    made = FakeConnection()
    monkeypatch.setattr(callers, "call_when_lost", made.call_when_lost)
    return made


async def wait_in_block(ended: list[str]) -> None:
    try:
        with cancel_if_caller_leaves(make_mocked_request("POST", "/")):
            await asyncio.Event().wait()
    except BaseException as exc:
        ended.append(type(exc).__name__)
        raise


async def start_block(ended: list[str]) -> asyncio.Task[None]:
    task = asyncio.create_task(wait_in_block(ended))
    await asyncio.sleep(0)
    return task


async def test_a_block_whose_caller_leaves_ends_in_the_next_turn_of_the_loop(connection: FakeConnection) -> None:
    ended: list[str] = []
    task = await start_block(ended)
    assert connection.leave is not None
    connection.leave()
    await asyncio.sleep(0)
    assert ended == ["ConnectionResetError"]
    with pytest.raises(ConnectionResetError, match="the caller left"):
        await task
    assert not task.cancelled()
    assert task.cancelling() == 0


@pytest.mark.parametrize("also_leaves", [False, True])
async def test_another_cancellation_of_the_handler_stays_one(connection: FakeConnection, also_leaves: bool) -> None:
    ended: list[str] = []
    task = await start_block(ended)
    assert connection.leave is not None
    if also_leaves:
        connection.leave()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["CancelledError"]


async def test_a_connection_that_is_lost_after_the_answer_cancels_no_handler(daemon: HttpDaemon) -> None:
    assert (await daemon.post("/v1/predict", make_question(1), MSGPACK)).status == 200
    server = daemon.runner.server
    assert server is not None
    (connection,) = server.connections
    assert isinstance(connection, Connection)
    assert connection.on_lost is None
