"""Tests `streamd/cluster/log.py`: what a log promises, of the made one and over a real server of NATS alike."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from streamd.cluster.log import (
    Appended,
    Entry,
    Log,
    LogAwayError,
    LogFullError,
    LogGapError,
    LogSettingsError,
    NoAnswerError,
    StreamPlan,
    StreamState,
    WrongSequenceError,
)
from streamd.cluster.nats.log import NatsLog
from streamd.cluster.nats.settings import NatsSettings
from streamd.core.errors import TooLargeError
from tests.support.made_broker import MadeBroker
from tests.support.made_log import MemoryLog
from tests.support.nats_servers import NatsServers, needs_nats_server, run_nats

NUMBERS = itertools.count()


class Cluster:
    """Connections to one log, and names of streams that no other test has."""

    def __init__(self, servers: NatsServers | None) -> None:
        self._servers = servers
        self._broker = MadeBroker()
        self._logs: list[Log] = []
        self.name = f"c{next(NUMBERS)}"

    async def connect(self) -> Log:
        """Return a further connection."""
        log: Log
        if self._servers is None:
            log = MemoryLog(self._broker)
        else:
            log = NatsLog(NatsSettings(urls=self._servers.urls), replicas=1)
            await log.start()
        self._logs.append(log)
        return log

    async def make(self, log: Log, *, max_bytes: int = -1) -> tuple[str, str]:
        """Make a stream with one subject; returns both names."""
        stream = f"{self.name}_{next(NUMBERS)}"
        subject = f"{self.name}.s.{stream}"
        plan = StreamPlan(name=stream, subjects=(subject,), max_bytes=max_bytes)
        await log.make_stream(plan)
        return stream, subject

    async def make_chain(self, log: Log) -> tuple[str, str, str]:
        """Make a stream with two subjects, of which the second has parts; returns its name and both."""
        stream = f"{self.name}_{next(NUMBERS)}"
        subject, record = f"{self.name}.f.{stream}", f"{self.name}.t.{stream}"
        plan = StreamPlan(name=stream, subjects=(subject, f"{record}.*"), allows_rollup=True)
        await log.make_stream(plan)
        return stream, subject, record

    async def make_rollup(self, log: Log) -> tuple[str, str]:
        """Make a stream whose subjects begin with the one that is returned."""
        stream = f"{self.name}_{next(NUMBERS)}"
        subject = f"{self.name}.r.{stream}"
        await log.make_stream(StreamPlan(name=stream, subjects=(f"{subject}.*",), allows_rollup=True))
        return stream, subject

    async def make_bucket(self, log: Log) -> str:
        """Make a bucket with a name of its own."""
        bucket = f"{self.name}_b{next(NUMBERS)}"
        await log.make_bucket(bucket)
        return bucket

    async def close(self) -> None:
        for log in self._logs:
            await log.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    """One server for all tests."""
    with run_nats(Path(tmp_path_factory.mktemp("nats"))) as running:
        yield running


@pytest.fixture(params=["memory", pytest.param("nats", marks=needs_nats_server)])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    made = Cluster(request.getfixturevalue("servers") if request.param == "nats" else None)
    yield made
    await made.close()


@pytest.fixture
async def log(cluster: Cluster) -> Log:
    return await cluster.connect()


async def read_all(
    log: Log, stream: str, subject: str, after: int = 0, *, allow_gaps: bool = False
) -> list[tuple[int, bytes]]:
    """Return the sequences and the data of all messages that are there."""
    found = []
    async for batch in log.read(stream, subject, after=after, until_end=True, allow_gaps=allow_gaps):
        found += [(message.sequence, message.data) for message in batch]
    return found


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until something has arrived."""
    async with asyncio.timeout(5.0):
        while not is_so():
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- appends
async def test_an_append_returns_its_place_in_the_stream(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    assert (await log.read_state(stream)).last == 0
    appended = [await log.append(subject, data) for data in (b"a", b"b")]
    assert [(each.sequence, each.is_duplicate) for each in appended] == [(1, False), (2, False)]
    state = await log.read_state(stream)
    assert (state.first, state.last, state.messages) == (1, 2, 2)
    assert state.bytes > 0


async def test_an_append_that_states_another_last_sequence_is_refused(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    await log.append(subject, b"a", expected_last=0)
    for stated in (0, 2):
        with pytest.raises(WrongSequenceError) as refused:
            await log.append(subject, b"b", expected_last=stated)
        assert refused.value.last == 1
    assert (await log.append(subject, b"c", expected_last=1)).sequence == 2
    assert await read_all(log, stream, subject) == [(1, b"a"), (2, b"c")]


async def test_the_last_sequence_stays_when_all_is_purged(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    for data in (b"a", b"b"):
        await log.append(subject, data)
    await log.purge(stream, subject, below=3)
    assert await log.read_state(stream) == StreamState(first=3, last=2, messages=0, bytes=0)
    with pytest.raises(WrongSequenceError):
        await log.append(subject, b"c", expected_last=0)
    assert (await log.append(subject, b"c", expected_last=2)).sequence == 3


async def test_an_append_with_the_same_id_counts_once(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    other = await cluster.connect()
    first = await log.append(subject, b"a", message_id="7", expected_last=0)
    again = await other.append(subject, b"a", message_id="7", expected_last=0)
    assert (first.sequence, again.sequence, again.is_duplicate) == (1, 1, True)
    assert await read_all(log, stream, subject) == [(1, b"a")]


async def test_of_many_appends_that_state_the_same_sequence_one_is_stored(cluster: Cluster, log: Log) -> None:
    _, subject = await cluster.make(log)
    logs = [log, await cluster.connect(), await cluster.connect()]
    for last in range(5):
        appends = (each.append(subject, b"x", expected_last=last) for each in logs)
        results = await asyncio.gather(*appends, return_exceptions=True)
        assert sum(isinstance(result, WrongSequenceError) for result in results) == len(logs) - 1


async def test_a_full_stream_refuses_more_and_has_what_it_took(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log, max_bytes=10_000)
    await log.append(subject, bytes(6_000))
    with pytest.raises(LogFullError, match=r"maximum bytes|is full"):
        await log.append(subject, bytes(6_000))
    assert (await log.read_state(stream)).messages == 1
    await log.purge(stream, subject, below=2)
    assert (await log.append(subject, bytes(6_000))).sequence == 2


async def test_the_longest_message_is_taken_and_a_longer_one_is_refused(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    data = bytes(log.max_message_bytes)
    await log.append(subject, data)
    assert await read_all(log, stream, subject) == [(1, data)]
    with pytest.raises(TooLargeError, match=f"{log.max_message_bytes}"):
        await log.append(subject, data + b"x")


async def test_a_rollup_leaves_the_newest_message_of_its_subject(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make_rollup(log)
    for key, data in (("a", b"1"), ("b", b"2"), ("a", b"3")):
        await log.append(f"{subject}.{key}", data, rolls_up=True)
    assert await read_all(log, stream, f"{subject}.*", allow_gaps=True) == [(2, b"2"), (3, b"3")]


async def test_a_whole_stream_is_read_with_all_its_subjects(cluster: Cluster, log: Log) -> None:
    stream, subject, record = await cluster.make_chain(log)
    for name in (subject, f"{record}.0", subject, f"{record}.1", f"{record}.0"):
        state = await log.read_state(stream)
        await log.append(name, name.encode(), expected_last=state.last, rolls_up=name != subject)
    await log.purge(stream, subject, below=3)
    found = await read_all(log, stream, ">", allow_gaps=True)
    assert found == [(3, subject.encode()), (4, f"{record}.1".encode()), (5, f"{record}.0".encode())]
    assert await read_all(log, stream, ">", after=4, allow_gaps=True) == found[2:]


async def test_headers_and_the_time_of_the_log_come_with_a_message(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    await log.append(subject, b"a", headers={"Fence": "7"})
    [batch] = [batch async for batch in log.read(stream, subject, until_end=True)]
    assert (batch[0].subject, batch[0].headers["Fence"]) == (subject, "7")
    last = await log.read_last(stream, subject)
    assert last is not None
    assert last.headers["Fence"] == "7"
    assert last.time == pytest.approx(batch[0].time, abs=1e-6)
    assert last.time > 1.6e9


# ---------------------------------------------------------------- reading
async def test_a_reader_begins_after_a_sequence_and_ends_where_the_stream_ended(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    written = [(n, b"%d" % n) for n in range(1, 601)]
    await asyncio.gather(*(log.append(subject, b"%d" % n) for n in range(1, 601)))
    assert await read_all(log, stream, subject) == written
    assert await read_all(log, stream, subject, after=598) == written[-2:]
    assert await read_all(log, stream, subject, after=600) == []


async def test_an_empty_stream_ends_at_once(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    assert await read_all(log, stream, subject) == []
    windows, prefix = await cluster.make_rollup(log)
    assert await read_all(log, windows, f"{prefix}.*", allow_gaps=True) == []


async def test_an_endless_reader_gets_what_comes_later(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    await log.append(subject, b"a")
    found: list[bytes] = []

    async def read() -> None:
        async for batch in (await cluster.connect()).read(stream, subject):
            found.extend(message.data for message in batch)

    task = asyncio.create_task(read())
    await wait_until(lambda: found == [b"a"])
    await log.append(subject, b"b")
    await wait_until(lambda: found == [b"a", b"b"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_reader_notices_what_was_purged_unread(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    for _ in range(6):
        await log.append(subject, b"x")
    await log.purge(stream, subject, below=4)
    assert [sequence for sequence, _ in await read_all(log, stream, subject)] == [4, 5, 6]
    assert [sequence for sequence, _ in await read_all(log, stream, subject, after=3)] == [4, 5, 6]
    with pytest.raises(LogGapError, match="3 to 3"):
        await read_all(log, stream, subject, after=2)
    await log.purge(stream, subject, below=7)
    assert await read_all(log, stream, subject, after=6) == []
    with pytest.raises(LogGapError, match="6 to 6"):
        await read_all(log, stream, subject, after=5)


async def test_a_reader_that_is_ahead_of_its_stream_notices(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    await log.append(subject, b"x")
    with pytest.raises(LogGapError, match="ends at 1"):
        await read_all(log, stream, subject, after=5)


async def test_a_purge_removes_what_is_below(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make_rollup(log)
    for key in ("a", "b", "a"):
        await log.append(f"{subject}.{key}", b"x")
    await log.purge(stream, f"{subject}.a", below=2)
    assert [at for at, _ in await read_all(log, stream, f"{subject}.*", allow_gaps=True)] == [2, 3]


async def test_the_last_message_of_a_subject_is_found(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make_rollup(log)
    assert await log.read_last(stream, f"{subject}.a") is None
    for key in ("a", "b"):
        await log.append(f"{subject}.{key}", key.encode())
    last = await log.read_last(stream, f"{subject}.a")
    assert last is not None
    assert (last.sequence, last.data) == (1, b"a")
    of_all = await log.read_last(stream, f"{subject}.*")
    assert of_all is not None
    assert of_all.data == b"b"


# ---------------------------------------------------------------- what is published
async def test_messages_reach_all_who_listen_until_they_do_not(cluster: Cluster, log: Log) -> None:
    heard: list[tuple[str, bytes]] = []
    other = await cluster.connect()
    for each in (log, other):
        await each.subscribe(f"{cluster.name}.nodes.*", lambda message: heard.append((message.subject, message.data)))
    unsubscribe = await log.subscribe(f"{cluster.name}.nodes.a", lambda message: heard.append(("a", b"")))
    await unsubscribe()
    await log.publish(f"{cluster.name}.nodes.a", b"1")
    await wait_until(lambda: len(heard) == 2)
    assert heard == [(f"{cluster.name}.nodes.a", b"1")] * 2


async def test_a_request_is_answered_by_the_one_who_serves_it(cluster: Cluster, log: Log) -> None:
    async def answer(data: bytes) -> bytes:
        if not data:
            raise ValueError("an empty request")
        return data * 2

    unserve = await (await cluster.connect()).serve(f"{cluster.name}.ask.a", answer)
    assert await log.request(f"{cluster.name}.ask.a", b"x", timeout_seconds=5.0) == b"xx"
    with pytest.raises(NoAnswerError, match="an empty request"):
        await log.request(f"{cluster.name}.ask.a", b"", timeout_seconds=5.0)
    with pytest.raises(NoAnswerError, match="no node answers there"):
        await log.request(f"{cluster.name}.ask.b", b"x", timeout_seconds=5.0)
    await unserve()
    with pytest.raises(NoAnswerError):
        await log.request(f"{cluster.name}.ask.a", b"x", timeout_seconds=0.5)


async def test_a_request_without_an_answer_ends_in_time(cluster: Cluster, log: Log) -> None:
    asked = asyncio.Event()

    async def answer(data: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return data

    await (await cluster.connect()).serve(f"{cluster.name}.ask.a", answer)
    with pytest.raises(NoAnswerError, match="no answer in"):
        await log.request(f"{cluster.name}.ask.a", b"x", timeout_seconds=0.05)
    await asked.wait()


# ---------------------------------------------------------------- tables
async def test_a_key_is_set_only_with_its_revision(cluster: Cluster, log: Log) -> None:
    table = log.table(await cluster.make_bucket(log))
    first = await table.put("a", b"1", expected_revision=0)
    with pytest.raises(WrongSequenceError) as refused:
        await table.put("a", b"2", expected_revision=0)
    assert refused.value.last == first
    other = await table.put("b", b"1", expected_revision=0)
    second = await table.put("a", b"2", expected_revision=first)
    assert first < other < second
    assert await table.read_all() == {"a": Entry(b"2", second), "b": Entry(b"1", other)}
    assert await table.put("b", b"3") > second


async def test_a_deleted_key_is_not_there_and_can_be_set_again(cluster: Cluster, log: Log) -> None:
    table = log.table(await cluster.make_bucket(log))
    first = await table.put("a", b"1")
    with pytest.raises(WrongSequenceError):
        await table.delete("a", expected_revision=first + 5)
    await table.delete("a", expected_revision=first)
    assert await table.read_all() == {}
    again = await table.put("a", b"2", expected_revision=0)
    assert again > first + 1
    assert await table.read_all() == {"a": Entry(b"2", again)}


async def test_of_several_nodes_one_gets_each_key(cluster: Cluster, log: Log) -> None:
    bucket = await cluster.make_bucket(log)
    tables = [(await cluster.connect()).table(bucket) for _ in range(3)]
    for key in ("a", "b", "c", "d"):
        puts = (table.put(key, b"%d" % number, expected_revision=0) for number, table in enumerate(tables))
        results = await asyncio.gather(*puts, return_exceptions=True)
        won = [number for number, result in enumerate(results) if isinstance(result, int)]
        assert len(won) == 1
        assert all(isinstance(result, WrongSequenceError) for n, result in enumerate(results) if n not in won)
        assert (await tables[0].read_all())[key].value == b"%d" % won[0]


async def test_changes_of_other_keys_do_not_refuse_one(cluster: Cluster, log: Log) -> None:
    bucket = await cluster.make_bucket(log)
    tables = [(await cluster.connect()).table(bucket) for _ in range(3)]
    puts = [table.put(f"{n}.{k}", b"", expected_revision=0) for n, table in enumerate(tables) for k in range(8)]
    assert len(set(await asyncio.gather(*puts))) == 24
    assert len(await log.table(bucket).read_all()) == 24


async def test_who_watches_gets_all_keys_and_then_each_change(cluster: Cluster, log: Log) -> None:
    bucket = await cluster.make_bucket(log)
    table = log.table(bucket)
    first = await table.put("a", b"1")
    seen: list[tuple[str, Entry | None]] = []
    unwatch = await (await cluster.connect()).table(bucket).watch(lambda key, entry: seen.append((key, entry)))
    assert seen == [("a", Entry(b"1", first))]
    second = await table.put("b", b"2")
    await wait_until(lambda: len(seen) == 2)
    await table.delete("a")
    await wait_until(lambda: len(seen) == 3)
    assert seen[1:] == [("b", Entry(b"2", second)), ("a", None)]
    await unwatch()
    await table.put("c", b"3")
    assert len(await table.read_all()) == 2
    assert len(seen) == 3


# ---------------------------------------------------------------- making
async def test_streams_are_made_once_and_refused_with_other_settings(cluster: Cluster, log: Log) -> None:
    stream, subject = await cluster.make(log)
    await log.append(subject, b"a")
    plan = StreamPlan(name=stream, subjects=(subject,))
    other = await cluster.connect()
    await other.make_stream(plan)
    assert (await log.read_state(stream)).messages == 1
    with pytest.raises(LogSettingsError, match=stream):
        await other.make_stream(StreamPlan(name=stream, subjects=(subject,), allows_rollup=True))


async def test_a_connection_knows_that_it_is_there(cluster: Cluster, log: Log) -> None:
    assert log.is_connected
    assert log.away_since is None
    await log.close()
    assert not log.is_connected


# ---------------------------------------------------------------- faults of the made log
@pytest.fixture
async def made() -> AsyncIterator[MemoryLog]:
    log = MemoryLog()
    await log.make_stream(StreamPlan(name="s", subjects=("s.x",)))
    await log.make_bucket("b")
    yield log
    await log.close()


async def start_append(log: MemoryLog, data: bytes, expected_last: int | None = None) -> "asyncio.Task[Appended]":
    """Begin an append, and return once it is on its way."""
    task = asyncio.create_task(log.append("s.x", data, expected_last=expected_last))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_an_append_whose_answer_is_lost_is_stored_and_one_that_is_refused_is_not(made: MemoryLog) -> None:
    made.lose_answers = 1
    with pytest.raises(LogAwayError):
        await made.append("s.x", b"a", message_id="1")
    made.refuse = 1
    with pytest.raises(LogAwayError):
        await made.append("s.x", b"b")
    assert (await made.append("s.x", b"a", message_id="1")).is_duplicate
    assert await read_all(made, "s", "s.x") == [(1, b"a")]


async def test_an_append_that_timed_out_may_still_arrive_after_that_of_another(made: MemoryLog) -> None:
    other = made.connect()
    made.hold_requests = True
    late = await start_append(made, b"late")
    fenced = await start_append(made, b"fenced", expected_last=0)
    made.time_out_held()
    with pytest.raises(LogAwayError):
        await late
    with pytest.raises(LogAwayError):
        await fenced
    await other.append("s.x", b"marker", expected_last=0)
    made.release()
    assert await read_all(other, "s", "s.x") == [(1, b"marker"), (2, b"late")]


async def test_an_answer_that_is_held_comes_when_it_is_released(made: MemoryLog) -> None:
    made.hold_answers = True
    held = await start_append(made, b"a")
    assert not held.done()
    assert await read_all(made.connect(), "s", "s.x") == [(1, b"a")]
    made.release()
    assert (await held).sequence == 1


async def test_a_cut_loses_what_is_on_its_way_and_readers_go_on_after_it(made: MemoryLog) -> None:
    other = made.connect()
    read: list[int] = []
    heard: list[bytes] = []
    seen: list[str] = []

    async def follow() -> None:
        async for batch in made.read("s", "s.x"):
            read.extend(message.sequence for message in batch)

    reader = asyncio.create_task(follow())
    await made.subscribe("n", lambda message: heard.append(message.data))
    await made.table("b").watch(lambda key, entry: seen.append(key))
    made.hold_requests = True
    lost = await start_append(made, b"lost")
    made.cut()
    with pytest.raises(LogAwayError):
        await lost
    assert not made.is_connected
    await other.append("s.x", b"a")
    await other.publish("n", b"a")
    await other.table("b").put("k", b"")
    made.heal()
    made.release()
    await wait_until(lambda: read == [1] and seen == ["k"])
    assert heard == []
    await other.append("s.x", b"b")
    await other.publish("n", b"b")
    await wait_until(lambda: read == [1, 2] and heard == [b"b"])
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


async def test_without_a_leader_appends_fail_and_messages_pass(made: MemoryLog) -> None:
    heard: list[bytes] = []
    await made.subscribe("n", lambda message: heard.append(message.data))
    made.broker.has_leader = False
    with pytest.raises(LogAwayError, match="leader"):
        await made.append("s.x", b"a")
    with pytest.raises(LogAwayError, match="leader"):
        await made.table("b").put("k", b"")
    await made.publish("n", b"a")
    await wait_until(lambda: heard == [b"a"])


async def test_messages_are_dropped_repeated_and_held_as_a_test_says(made: MemoryLog) -> None:
    heard: list[bytes] = []
    await made.subscribe("n", lambda message: heard.append(message.data))
    made.drop_messages = made.repeat_messages = 1
    for data in (b"dropped", b"twice"):
        await made.publish("n", data)
    await wait_until(lambda: heard == [b"twice", b"twice"])
    made.hold_messages = True
    await made.publish("n", b"held")
    await asyncio.sleep(0)
    assert len(heard) == 2
    made.release()
    await wait_until(lambda: heard[2:] == [b"held"])


async def test_the_whole_log_may_be_away_and_keeps_what_it_has(made: MemoryLog) -> None:
    await made.append("s.x", b"a")
    made.broker.set_away(True)
    assert not made.is_connected
    with pytest.raises(LogAwayError):
        await made.append("s.x", b"b")
    made.broker.set_away(False)
    assert await read_all(made, "s", "s.x") == [(1, b"a")]
