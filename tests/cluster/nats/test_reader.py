"""Tests `streamd/cluster/nats/reader.py`: what consumers leave out is read all the same."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.cluster.log import LogAwayError, LogGapError, LogMessage
from streamd.cluster.nats.api import StreamContent
from streamd.cluster.nats.reader import NatsReader, ReadCounts
from streamd.cluster.nats.stream_ends import StreamEnds

Script = list[list[int] | str]
"""What a consumer does: sequences that it gives, "idle", "expired", or "lost"."""


def message(sequence: int) -> LogMessage:
    return LogMessage("s", b"%d" % sequence, sequence)


class MadeStream:
    """Stands for JetStream: a stream with some messages, and consumers that do what a test says."""

    def __init__(self, last: int, *consumers: Script) -> None:
        self.connection = self
        self.ends = StreamEnds()
        self.present = set(range(1, last + 1))
        self.last = last
        self.counts = ReadCounts()
        self.read: list[int] = []
        """The sequences that were asked for one by one."""
        self.began_after: list[int] = []
        self._consumers = list(consumers)

    async def wait_connected(self) -> None:
        """Nothing to wait for."""

    async def read_content(self, stream: str) -> StreamContent:
        first = min(self.present, default=self.last + 1)
        removed = set(range(first, self.last + 1)) - self.present
        return StreamContent(first=first, last=self.last, removed=removed, subjects=("s",))

    async def read_message(self, stream: str, sequence: int) -> LogMessage | None:
        self.read.append(sequence)
        return message(sequence) if sequence in self.present else None

    def open(self, *_: object) -> "MadeConsumer":
        return MadeConsumer(self, self._consumers.pop(0) if self._consumers else ["expired"])

    def remove(self, sequences: Iterable[int]) -> None:
        self.present -= set(sequences)


class MadeConsumer:
    def __init__(self, stream: MadeStream, script: Script) -> None:
        self.is_idle = self.has_expired = False
        self._stream = stream
        self._script = script

    async def begin(self, after: int, seconds: float) -> None:
        self._stream.began_after.append(after)

    async def read(self, after: int) -> list[LogMessage]:
        await asyncio.sleep(0)
        given = self._script.pop(0) if self._script else "idle"
        self.is_idle = self.has_expired = False
        if isinstance(given, list):
            return [message(sequence) for sequence in given if sequence > after]
        if given == "lost":
            raise LogAwayError("lost")
        self.is_idle, self.has_expired = True, given == "expired"
        return []

    async def close(self) -> None:
        """Nothing to end."""


@pytest.fixture(autouse=True)
def waits_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.cluster.nats.reader._RETRY_SECONDS", 0.0)


async def read(
    stream: MadeStream, monkeypatch: pytest.MonkeyPatch, *, after: int = 0, allow_gaps: bool = False, **options: Any
) -> list[int]:
    monkeypatch.setattr("streamd.cluster.nats.reader.NatsConsumer", stream.open)
    chosen: dict[str, Any] = {"after": after, "until_end": True, "allow_gaps": allow_gaps} | options
    reader = NatsReader(stream, "stream", "s", counts=stream.counts, **chosen)  # type: ignore[arg-type]
    found: list[int] = []
    async for batch in reader.read_batches():
        found += [each.sequence for each in batch]
        if not chosen["until_end"] and found[-1] == stream.last:
            break
    return found


@pytest.mark.parametrize("allow_gaps", [False, True])
async def test_what_a_consumer_leaves_out_is_read_by_its_sequence(
    allow_gaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = MadeStream(40, [[1, 2], [30, 31, 40]])
    assert await read(stream, monkeypatch, allow_gaps=allow_gaps) == list(range(1, 41))
    assert sorted(stream.read) == [*range(3, 30), *range(32, 40)]
    assert stream.counts.fetched == len(stream.read)


@pytest.mark.parametrize("allow_gaps", [False, True])
async def test_a_consumer_that_never_comes_to_the_end_is_replaced_and_then_done_without(
    allow_gaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = MadeStream(5, [[1, 2], "idle"], ["idle"], ["lost"])
    assert await read(stream, monkeypatch, allow_gaps=allow_gaps) == [1, 2, 3, 4, 5]
    assert stream.began_after == [0, 2]
    assert stream.read == [3, 4, 5]


@pytest.mark.parametrize("until_end", [False, True])
async def test_the_last_message_that_a_consumer_leaves_out_is_read_too(
    until_end: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = MadeStream(4, [[1, 2, 3], "idle", "expired"], ["idle", "expired"], ["idle", "expired"])
    assert await read(stream, monkeypatch, until_end=until_end) == [1, 2, 3, 4]
    assert stream.read == [4]


@settings(max_examples=40)
@given(data=st.data(), last=st.integers(1, 60), allow_gaps=st.booleans(), until_end=st.booleans())
def test_each_message_is_read_once_and_in_order_whatever_consumers_leave_out(
    data: st.DataObject, last: int, allow_gaps: bool, until_end: bool
) -> None:
    batches = st.lists(st.sets(st.integers(1, last)).map(sorted), max_size=4)
    scripts: list[Script] = []
    for _ in range(data.draw(st.integers(0, 3))):
        script: Script = []
        after = 0
        for batch in data.draw(batches):
            script.append([at for at in batch if at > after])
            after = max([after, *batch])
        scripts.append([each or "idle" for each in script] + data.draw(st.sampled_from([["lost"], ["expired"]])))
    stream = MadeStream(last, *scripts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamd.cluster.nats.reader._RETRY_SECONDS", 0.0)
        assert asyncio.run(read(stream, patch, allow_gaps=allow_gaps, until_end=until_end)) == list(range(1, last + 1))


async def test_a_reader_without_an_end_notices_a_consumer_that_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = MadeStream(4, [[1, 2], "idle", "expired"], [[3, 4]])
    assert await read(stream, monkeypatch, until_end=False) == [1, 2, 3, 4]
    assert stream.began_after == [0, 2]


async def test_after_a_lost_consumer_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = MadeStream(4, [[1, 2], "lost"], [[3, 4]])
    assert await read(stream, monkeypatch) == [1, 2, 3, 4]
    assert not stream.read


async def test_a_hole_in_a_stream_that_has_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = MadeStream(9, [[1, 2], [7, 8, 9]])
    stream.remove([1, 2, 3])
    with pytest.raises(LogGapError, match="3 were removed"):
        await read(stream, monkeypatch, after=2)


async def test_holes_that_were_there_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = MadeStream(9, [[2, 5, 9]])
    stream.remove([1, 3, 4, 6, 7, 8])
    assert await read(stream, monkeypatch, allow_gaps=True) == [2, 5, 9]
    assert not stream.read


async def test_what_replaced_a_message_that_was_removed_unread_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = MadeStream(4, [[1], [3, 4], [5, 6]])
    content = stream.read_content

    async def replace_after(name: str) -> StreamContent:
        found = await content(name)
        stream.remove([2])
        stream.last = 6
        stream.present |= {5, 6}
        return found

    monkeypatch.setattr(stream, "read_content", replace_after)
    assert await read(stream, monkeypatch, allow_gaps=True) == [1, 3, 4, 5, 6]


async def test_a_server_that_knows_only_a_former_end_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = MadeStream(9, [[1, 2, 5, 9]], [[3, 4, 5, 6, 7, 8, 9]])
    content, answers = stream.read_content, [9, 4]

    async def be_behind(name: str) -> StreamContent:
        found = await content(name)
        last = answers.pop(0) if answers else 9
        return StreamContent(first=1, last=last, removed=(), subjects=found.subjects)

    monkeypatch.setattr(stream, "read_content", be_behind)
    assert await read(stream, monkeypatch, allow_gaps=True) == list(range(1, 10))


async def test_an_empty_stream_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = MadeStream(0)
    assert await read(stream, monkeypatch) == []
    assert not stream.began_after
