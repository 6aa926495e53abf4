"""Tests `streamd/cluster/nats/table.py`: compare-and-set over three servers, of keys and of appends to a stream."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from streamd.cluster.log import Appended, Entry, LogAwayError, LogMissingError, StreamPlan, WrongSequenceError
from streamd.cluster.nats.log import NatsLog
from streamd.cluster.nats.settings import NatsSettings
from tests.support.nats_servers import needs_nats_server, run_nats

ROUNDS = 40
START_SECONDS = 30.0
T = TypeVar("T")


async def make_all(log: NatsLog) -> None:
    """Make a stream and a bucket, once the servers have found each other."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                await log.make_stream(StreamPlan(name="s", subjects=("s.x",)))
                await log.make_bucket("b")
                await log.append("s.x", b"")
                await log.table("b").put("first", b"")
            except LogAwayError:
                await asyncio.sleep(0.1)
            else:
                return


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[list[NatsLog]]:
    """Connections to each of three servers."""
    with run_nats(tmp_path, 3) as servers:
        made = [NatsLog(NatsSettings(urls=(url,))) for url in servers.urls * 2]
        for log in made:
            await log.start()
        await make_all(made[0])
        yield made
        for log in made:
            await log.close()


async def read_surely(read: Callable[[], Awaitable[T]]) -> T:
    """Read, however often the servers choose another leader meanwhile."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                return await read()
            except LogAwayError:
                await asyncio.sleep(0.1)


def count_stored(results: Sequence[object]) -> int:
    """Return how many of the writes that all expected the same were surely stored."""
    assert {type(result) for result in results} <= {Appended, int, WrongSequenceError, LogAwayError}
    return sum(isinstance(result, Appended | int) for result in results)


@needs_nats_server
async def test_one_of_several_changes_and_appends_at_once_is_stored_on_three_servers(logs: list[NatsLog]) -> None:
    table = logs[0].table("b")
    last = (await read_surely(lambda: logs[0].read_state("s"))).last
    revision = decided = 0
    for number in range(ROUNDS):
        appends = (log.append("s.x", b"%d" % number, expected_last=last) for log in logs)
        puts = (log.table("b").put("k", b"%d" % number, expected_revision=revision) for log in logs)
        results = await asyncio.gather(*appends, *puts, return_exceptions=True)
        appended, changed = count_stored(results[: len(logs)]), count_stored(results[len(logs) :])
        assert appended <= 1
        assert changed <= 1
        # With no answer while the servers choose a leader, what became of a write is read.
        found = (await read_surely(lambda: logs[0].read_state("s"))).last
        assert found - last in {appended, 1}
        entry = (await read_surely(table.read_all)).get("k", Entry(b"", 0))
        assert changed <= (entry.revision != revision)
        decided += appended + changed
        last, revision = found, entry.revision
    assert decided > ROUNDS


@needs_nats_server
async def test_the_keys_of_a_bucket_that_was_deleted_and_made_anew_are_gone(tmp_path: Path) -> None:
    with run_nats(tmp_path) as servers:
        log = NatsLog(NatsSettings(urls=servers.urls), replicas=1)
        await log.start()
        await log.make_bucket("b")
        table, keys = log.table("b"), dict[str, bytes]()

        def see(key: str, entry: Entry | None) -> None:
            keys.pop(key, None) if entry is None else keys.update({key: entry.value})

        await table.watch(see)
        table.restore = lambda lost: {"kept"} & lost.keys()
        for number in range(3):
            await table.put("old", b"%d" % number)
        await table.put("kept", b"k")
        assert set(await table.read_all()) == {"old", "kept"}
        await log._api.call("STREAM.DELETE.KV_b", b"", dict, "b")
        with pytest.raises(LogMissingError):
            await table.read_all()
        await log.make_bucket("b")
        for number in range(9):  # it is longer than the former one at once
            await log.append("$KV.b.new", b"%d" % number)
        async with asyncio.timeout(START_SECONDS):
            while "old" in keys or keys.get("new") != b"8":
                await asyncio.sleep(0.05)
        assert await table.put("new", b"1", expected_revision=9) == 10
        assert keys == {"new": b"1", "kept": b"k"}, "what is put back is not told to be gone"
        await log.close()


@needs_nats_server
async def test_a_bucket_whose_keys_were_all_purged_is_empty(tmp_path: Path) -> None:
    with run_nats(tmp_path) as servers:
        first, second = (NatsLog(NatsSettings(urls=servers.urls), replicas=1) for _ in range(2))
        for log in (first, second):
            await log.start()
        await first.make_bucket("b")
        revision = await first.table("b").put("old", b"1")
        await first._api.call("STREAM.PURGE.KV_b", b"", dict, "b")
        assert await second.table("b").read_all() == {}
        assert await second.table("b").put("new", b"2", expected_revision=0) == revision + 1
        for log in (first, second):
            await log.close()
