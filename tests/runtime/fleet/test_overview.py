"""Tests `streamd/runtime/fleet/overview.py` and `reader.py`: the thread runs while somebody looks, and hands over."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamd.core.access.caller import ANYBODY
from streamd.core.access.scopes import Scope
from streamd.core.errors import UnavailableError
from streamd.core.fleet.query import FleetQuery
from streamd.runtime.fleet import overview as overview_module
from streamd.runtime.fleet.entries import FleetFormat
from streamd.runtime.fleet.overview import FleetOverview
from streamd.runtime.fleet.reader import FleetReader
from tests.support.fleet_rig import FleetRig

BY_NAME = FleetQuery(sort="name")


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FleetRig]:
    monkeypatch.setattr(overview_module, "REFRESH_SECONDS", 0.01)
    made = FleetRig(tmp_path)
    yield made
    made.state.close()


@pytest.fixture
async def overview(rig: FleetRig) -> Any:
    made = FleetOverview(rig.state, rig.alerts, wall=lambda: rig.now)
    yield made
    await asyncio.to_thread(made.close)


def follow(overview: FleetOverview, query: FleetQuery = BY_NAME) -> FleetReader:
    return overview.open(query, ANYBODY, Scope.READ, FleetFormat.JSON)


async def ask(overview: FleetOverview) -> Any:
    answer = await overview.answer(BY_NAME, ANYBODY, Scope.READ, FleetFormat.JSON)
    return msgspec.json.decode(answer)


async def read(reader: FleetReader) -> list[str]:
    frame = msgspec.json.decode(await reader.read())
    return [each["server"] for each in frame["servers"]]


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_call_is_answered(rig: FleetRig, overview: FleetOverview) -> None:
    rig.forecast("a", 50.0)
    assert not overview.is_running
    answer = await ask(overview)
    assert [each["server"] for each in answer["servers"]] == ["a"]
    assert (overview.is_running, len(overview)) == (True, 0)


async def test_a_reader_gets_all_at_once_and_then_what_changes(rig: FleetRig, overview: FleetOverview) -> None:
    for server in ("a", "b"):
        rig.forecast(server, 50.0)
    reader = follow(overview)
    assert await read(reader) == ["a", "b"]
    waiting = asyncio.create_task(read(reader))
    rig.forecast("b", 60.0)
    assert await waiting == ["b"]
    reader.close()
    reader.close()
    assert len(overview) == 0


async def test_several_readers_have_their_own_queries(rig: FleetRig, overview: FleetOverview) -> None:
    for server in ("a", "b"):
        rig.forecast(server, 50.0)
    readers = [follow(overview, FleetQuery(search=search)) for search in ("a", "b", "")]
    assert await asyncio.gather(*map(read, readers)) == [["a"], ["b"], ["a", "b"]]


async def test_a_reader_that_is_slow_gets_the_newest_state(rig: FleetRig, overview: FleetOverview) -> None:
    rig.forecast("a", 50.0)
    reader = follow(overview)
    await read(reader)
    for _ in range(3):
        rig.forecast("a", 60.0)
        await ask(overview)
    frame = msgspec.json.decode(await reader.read())
    assert frame["servers"][0]["have"] == 8
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(), 0.05)


async def test_the_thread_ends_without_readers_and_starts_again(
    rig: FleetRig, overview: FleetOverview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview_module, "IDLE_SECONDS", 0.01)
    rig.forecast("a", 50.0)
    await ask(overview)
    await wait_until(lambda: not overview.is_running)
    reader = follow(overview)
    assert await read(reader) == ["a"]
    await wait_until(lambda: not overview.is_running)
    rig.forecast("b", 50.0)
    assert await read(reader) == ["b"], "it still knows what the reader has"


async def test_a_failure_is_an_error_for_those_who_have_nothing_yet(
    rig: FleetRig, overview: FleetOverview, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.forecast("a", 50.0)
    reader = follow(overview)
    await read(reader)
    with monkeypatch.context() as context:
        context.setattr("streamd.runtime.fleet.tables.take_snapshot", lambda *_: 1 / 0)
        waiting = asyncio.create_task(read(reader))
        await wait_until(lambda: overview.failures > 0)
        with pytest.raises(UnavailableError, match="cannot be made"):
            await ask(overview)
        await wait_until(lambda: overview.failures > 2)
        assert not waiting.done()
    rig.forecast("a", 60.0)
    assert await waiting == ["a"]


async def test_one_reader_that_fails_does_not_disturb_another(
    rig: FleetRig, overview: FleetOverview, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.forecast("a", 50.0)
    bad = follow(overview)
    monkeypatch.setattr(bad, "make_frame", lambda *_: 1 / 0)
    with pytest.raises(UnavailableError):
        await bad.read()
    assert await read(follow(overview)) == ["a"]


async def test_a_reader_that_leaves_while_it_waits_gets_nothing(rig: FleetRig, overview: FleetOverview) -> None:
    rig.forecast("a", 50.0)
    reader = follow(overview)
    await read(reader)
    waiting = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    rig.forecast("a", 60.0)
    assert (await ask(overview))["total"] == 1
    reader.close()


async def test_when_the_daemon_stops_readers_learn_of_it(rig: FleetRig, overview: FleetOverview) -> None:
    rig.forecast("a", 50.0)
    reader = follow(overview)
    await read(reader)
    waiting = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    await asyncio.to_thread(overview.close)
    with pytest.raises(UnavailableError, match="stopping"):
        await waiting
    with pytest.raises(UnavailableError, match="stopping"):
        await ask(overview)


async def test_a_close_ends_a_refresh_between_two_pieces_of_work(
    rig: FleetRig, overview: FleetOverview, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.forecast("a", 50.0)
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def refresh(tables: object, now: float, pause: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(began.set)
        while True:
            pause()

    monkeypatch.setattr("streamd.runtime.fleet.tables.FleetTables.refresh", refresh)
    asking = asyncio.create_task(ask(overview))
    await began.wait()
    await asyncio.to_thread(overview.close)
    with pytest.raises(UnavailableError, match="stopping"):
        await asking


async def test_for_a_reader_that_leaves_meanwhile_no_frame_is_made(rig: FleetRig, overview: FleetOverview) -> None:
    made: list[str] = []

    def make_and_leave(*_: object) -> bytes:
        made.append("first")
        second.close()
        return b"{}"

    def make(*_: object) -> bytes:
        made.append("second")
        return b"{}"

    loop = asyncio.get_running_loop()
    first, second = FleetReader(overview, make_and_leave), FleetReader(overview, make)
    frames = [loop.create_future(), loop.create_future()]
    with overview._condition:  # so that the thread finds both of them waiting
        overview.want(first, frames[0])
        overview.want(second, frames[1])
    assert await frames[0] == b"{}"
    await ask(overview)
    assert (made, frames[1].done()) == (["first"], False)
    first.close()
