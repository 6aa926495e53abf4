"""Tests `streamd/cluster/rows/cluster_ingest.py`, `cluster_singles.py` and `append_tickets.py`: any node takes any
agent's samples, with the checks and errors of one host, and answers once they are in the log.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.access.usage import UsageLimits
from streamd.core.cluster.row_batches import RowDecoder, iterate_sections
from streamd.core.errors import DrainingError, InvalidSampleError, StreamdError, UnavailableError
from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.core.state.samples import CellSample, Sample
from tests.support.shard_rig import BEGIN, NAMES, NOW, STEP_SECONDS, RigNode, ShardRig, make_frame, sample

WRITER = Caller("agent", {Scope.INGEST: ("web-*",)})


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ShardRig]:
    rig = ShardRig(tmp_path, shards=3)
    yield rig
    await rig.close()


def cells(node: RigNode, server: str, step: int, **changes: Any) -> CellSample[Any]:
    values = node.service.ingest.rows.cells_type(1.0, 2.0, 3.0)
    return CellSample(**{"server": server, "time": BEGIN + STEP_SECONDS * step, "values": values, **changes})


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ---------------------------------------------------------------- bodies
BAD = (
    sample("web-1", values=None, step=1),
    Sample("", BEGIN, {"cpu": 1.0}),
    Sample("x" * 257, BEGIN, {"cpu": 1.0}),
    Sample("web-2", float("nan"), {"cpu": 1.0}),
    Sample("web-2", NOW + 1e5, {"cpu": 1.0}),
    Sample("web-2", BEGIN, {"cpu": 1e39}),
    Sample("web-2", BEGIN, {"other": 1.0}),
    Sample("web-3", BEGIN, {}, 4),
)


async def test_bad_samples_get_the_errors_of_one_host(rig: ShardRig) -> None:
    node, host = rig.start_node(), rig.start_node()
    body: list[tuple[int, Sample | StreamdError]] = [*enumerate(BAD)]
    body.append((len(BAD), InvalidSampleError("unreadable")))
    assert node.takers.samples is not None
    result = await node.takers.samples.take_samples(iter(body))
    expected = await host.service.ingest.take_samples(iter(body))  # type: ignore[arg-type]
    assert result.as_dict() == expected.as_dict()
    assert node.service.ingest.rejected == host.service.ingest.rejected
    assert node.service.ingest.accepted == host.service.ingest.accepted
    await node.take_over()
    assert set(node.windows()) == {"web-1", "web-3"} == set(host.windows())


CELLS = st.sampled_from([1.0, None, 1e39, float("inf"), float("nan")])


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 8), CELLS), max_size=40))
async def test_a_frame_has_the_errors_and_windows_of_one_host(rows: list[tuple[int, float | None]]) -> None:
    def make() -> ColumnFrame:
        """A frame of its own: takers remember what they know of its lists."""
        return ColumnFrame(
            servers=NameList([f"web-{number}" for number, _ in rows]),
            features=NameList(["cpu", "other", "net"]),
            time=[BEGIN + (1e9 if number == 7 else 0.0) for number, _ in rows],
            values=np.array([[np.nan if cell is None else cell, 2.0, np.nan] for _, cell in rows]).reshape(-1, 3),
        )

    with tempfile.TemporaryDirectory() as folder:
        rig = ShardRig(Path(folder), shards=3)
        node, host = rig.start_node(), rig.start_node()
        assert node.takers.samples is not None
        result = await node.takers.samples.take_frame(make())
        expected = await host.service.ingest.take_frame(make())
        assert result.as_dict() == expected.as_dict()
        await node.take_over()
        assert node.windows() == host.windows()
        await rig.close()


async def test_an_answer_is_given_when_all_rows_are_in_the_log(rig: ShardRig) -> None:
    node = rig.start_node()
    node.log.hold_requests = True
    taking = [
        asyncio.create_task(node.take(sample("web", 1), sample("db", 1))),
        asyncio.create_task(node.take_columns([f"web-{number}" for number in range(40)], 2)),
    ]
    await turns()
    assert not any(task.done() for task in taking)
    assert node.takers.bodies == 2
    node.log.release()
    assert [(await task).accepted for task in taking] == [2, 40]
    assert node.takers.bodies == 0
    await node.take_over()
    assert len(node.windows()) == 16, "as many as there are slots"


async def test_a_log_that_is_away_for_too_long_refuses_bodies(rig: ShardRig) -> None:
    node = rig.start_node(publish_timeout_seconds=0.02)
    rig.log.broker.set_away(True)
    for taking in (node.take(sample("web", 1)), node.take_columns(["db"], 1)):
        with pytest.raises(UnavailableError, match="sending them again is harmless"):
            await taking
    assert node.service.ingest.accepted == 0
    rig.log.broker.set_away(False)
    await node.publisher.wait_empty()
    await node.take_over()
    assert set(node.windows()) == {"web", "db"}, "the rows were kept"


async def test_a_node_that_drains_takes_nothing(rig: ShardRig) -> None:
    node = rig.start_node()
    node.service.ingest.is_draining = True
    for taking in (node.take(sample("web", 1)), node.take_columns(["db"], 1)):
        with pytest.raises(DrainingError):
            await taking
    assert node.takers.singles is not None
    assert not node.takers.singles.begin([cells(node, "web", 1)], WRITER, print)
    with pytest.raises(DrainingError):
        await node.takers.singles.take([cells(node, "web", 1)])


async def test_a_caller_writes_its_servers_only(rig: ShardRig) -> None:
    node = rig.start_node()
    result = await node.take(sample("web-1", 1), sample("db", 1), caller=WRITER)
    assert (result.accepted, [error["code"] for error in result.errors]) == (1, ["forbidden"])
    assert node.takers.samples is not None
    taken = await node.takers.samples.take_frame(make_frame(["web-1", "db"], 2), WRITER)
    assert (taken.accepted, [(error["index"], error["code"]) for error in taken.errors]) == (1, [(1, "forbidden")])


async def test_servers_and_rows_of_a_token_are_counted(rig: ShardRig) -> None:
    node = rig.start_node()
    caller = Caller("agent", {Scope.INGEST: ("*",)}, limits=UsageLimits(max_servers=1, rows_per_second=100.0))
    result = await node.take(sample("web", 1), sample("db", 1), caller=caller)
    assert [error["code"] for error in result.errors] == ["too_many_servers"]
    assert node.takers.singles is not None
    assert not node.takers.singles.begin([cells(node, "web", 1)], caller, print), "it may have to wait"
    assert [error and error.code for error in await node.takers.singles.take([cells(node, "db", 2)], caller)] == [
        "too_many_servers"
    ]


async def test_the_right_to_evict_travels_with_the_rows(rig: ShardRig) -> None:
    node = rig.start_node()
    await node.take(sample("web", 1))
    await node.take(sample("web", 2), caller=Caller("root", {Scope.INGEST: ("*",), Scope.ADMIN: ("*",)}))
    shard = next(shard for shard in range(3) if rig.log.broker.get_stream(NAMES.rows_stream(shard)).messages)
    messages = rig.log.broker.get_stream(NAMES.rows_stream(shard)).messages.values()
    bodies = [body for message in messages for _, body in iterate_sections(message.data)]
    assert [RowDecoder(3).decode(body).may_evict for body in bodies] == [False, True]


# ---------------------------------------------------------------- frames of one sample
async def test_single_samples_are_answered_when_they_are_in_the_log(rig: ShardRig) -> None:
    node = rig.start_node()
    singles = node.takers.singles
    assert singles is not None
    answers: list[list[StreamdError | None] | StreamdError] = []
    node.log.hold_requests = True
    assert singles.begin([cells(node, "web", 1), cells(node, "web", 2)], WRITER_OF_ALL, answers.append)
    assert singles.begin([cells(node, "db", 1), cells(node, "", 1)], WRITER_OF_ALL, answers.append)
    await turns()
    assert answers == []
    node.log.release()
    await node.publisher.wait_empty()
    assert answers[0] == []
    assert isinstance(answers[1], list)
    assert [error and error.code for error in answers[1]] == [None, "invalid_server"]
    assert (node.service.ingest.accepted, node.service.ingest.rejected) == (3, {"invalid_server": 1})
    await node.take_over()
    assert len(node.windows()["web"][1]) == 2


WRITER_OF_ALL = Caller("agent", {Scope.INGEST: ("*",)})


async def test_single_samples_are_refused_when_the_buffer_is_full(tmp_path: Path) -> None:
    rig = ShardRig(tmp_path, buffer_bytes=1)
    node = rig.start_node()
    singles = node.takers.singles
    assert singles is not None
    rig.log.broker.set_away(True)
    answers: list[Any] = []
    assert singles.begin([cells(node, "web", 1)], WRITER_OF_ALL, answers.append)
    assert not singles.begin([cells(node, "web", 2)], WRITER_OF_ALL, answers.append)
    with pytest.raises(UnavailableError, match="buffer_mb"):
        await singles.take([cells(node, "web", 2)])
    await rig.close()
    assert isinstance(answers[0], UnavailableError), "the node has stopped"
