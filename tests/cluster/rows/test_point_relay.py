"""Tests `streamd/cluster/rows/point_relay.py`, `point_batches.py` and `received_samples.py`: points of other
protocols make the rows that they make on one host, whichever node takes them and whoever owns their servers.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.cluster.log import LogMessage
from streamd.cluster.rows.point_batches import check_series_size, decode_points, encode_points
from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.aggregation.points import ServerSeries
from streamd.core.cluster.row_batches import MAX_SECTION_BYTES, iterate_sections, make_rows_message
from streamd.core.cluster.snapshots import SnapshotPlan
from streamd.core.errors import DrainingError, MalformedError, TooLargeError, UnavailableError
from streamd.core.mapping.series import Kind, SourceSeries
from streamd.core.state.samples import Sample
from streamd.runtime.aggregation.batch import CommitResult
from streamd.runtime.aggregation.point_intake import PointIntake
from streamd.runtime.service import ServiceLimits
from streamd.runtime.state.state import WindowLimits
from tests.support.collector_rig import RULES
from tests.support.contracts import make_contract
from tests.support.shard_rig import BEGIN, NAMES, STEP_SECONDS, RigNode, ShardRig

Sent = tuple[str, str, float, float]
"""Host, metric, seconds since `BEGIN`, value."""


def start_rig(folder: Path, **options: Any) -> ShardRig:
    limits = WindowLimits(capacity=8, need=2, late_steps=8, grace_seconds=10.0)
    return ShardRig(folder, **{"rule_sets": [RULES], "window_limits": limits, **options})


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ShardRig]:
    rig = start_rig(tmp_path)
    yield rig
    await rig.close()


async def send(points: PointIntake, *sent: Sent, caller: Caller | None = None) -> CommitResult:
    batch = points.start_batch("test") if caller is None else points.start_batch("test", caller)
    for host, metric, seconds, value in sent:
        batch.add_point(SourceSeries(metric, {"host": host} if host else {}), BEGIN + seconds, value)
    return await points.commit(batch)


def steps_of(host: str, *values: float) -> list[Sent]:
    """A gauge's value in each of several steps."""
    return [(host, "load", STEP_SECONDS * step + 5.0, value) for step, value in enumerate(values)]


async def test_points_of_two_nodes_make_the_rows_of_one_host(rig: ShardRig) -> None:
    first, second, host = rig.start_node(), rig.start_node(), rig.start_node()
    parts = [steps_of("web", 1.0, 2.0, 3.0), [("web", "load", 20.0, 5.0), ("db", "cpu", 30.0, 7.0)]]
    for node, part in zip((first, second), parts, strict=True):
        assert (await send(node.takers.points, *part)).taken == len(part)
        await send(host.service.collector, *part)
    await second.take_over()
    assert second.windows() == host.windows()
    assert len(second.windows()["web"][1]) == 2


async def test_an_owner_that_dies_in_the_middle_of_a_step_leaves_the_rows_of_one_host(rig: ShardRig) -> None:
    first, second, host = rig.start_node(), rig.start_node(), rig.start_node()
    await first.take_over()
    bodies = [
        [
            (server, metric, STEP_SECONDS * step + at, 10.0 * step + at / 8)
            for server in ("web", "db")
            for metric in ("cpu", "load")
        ]
        for step in range(4)
        for at in (5.0, 80.0, 155.0, 230.0)
    ]
    for place, body in enumerate(bodies):
        await send(host.service.collector, *body)
        await send((first if place < 10 else second).takers.points, *body)
        if place == 8:
            await first.held[0].snapshots.write_due(10_000.0)
        if place == 9:  # the first two of four bodies of a step; the node dies before it answers the second one
            await first.read_rows()
            first.log.kill()
            await send(second.takers.points, *body)
            await second.take_over()
    await second.read_rows()
    assert second.windows() == host.windows()
    assert all(len(rows) == 3 for _, rows, *_ in second.windows().values())


# ---------------------------------------------------------------- any order of what may happen
POINT = st.tuples(
    st.sampled_from(["web", "db", "app"]),
    st.sampled_from(["cpu", "load", "status"]),
    st.integers(0, 40).map(lambda at: at * 75.0),
    st.integers(0, 9).map(float),
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.lists(POINT, min_size=1, max_size=8).map(tuple)),
        st.tuples(st.sampled_from(["snapshot", "read", "take over"]), st.just(0), st.just(())),
    ),
    min_size=4,
    max_size=16,
)
Operation = tuple[str, int, tuple[Sent, ...]]


class Scenario:
    """Two nodes that own a shard in turns, and one host that takes the same points."""

    def __init__(self, folder: Path) -> None:
        self.rig = start_rig(folder, contract=make_contract(context_length=26))
        self.nodes = [self.start(), self.start()]
        self.host = self.start()
        self.owner = 0
        self.now = 0.0

    def start(self) -> RigNode:
        return divide(self.rig.start_node())

    async def do(self, name: str, number: int, sent: Sequence[Sent]) -> None:
        owner = self.nodes[self.owner]
        if name == "send":
            # A body comes when its newest point is measured, and nothing comes before what came already.
            newest = BEGIN + max(seconds for _, _, seconds, _ in sent)
            self.rig.log.broker.now = max(self.rig.log.broker.now, newest)
            await send(self.nodes[number].takers.points, *sent)
            await send(self.host.service.collector, *sent)
        elif name == "snapshot":
            self.now += 10_000.0
            await owner.held[0].snapshots.write_due(self.now)
        elif name == "read":
            await owner.read_rows()
        else:
            self.owner = 1 - self.owner
            self.nodes[self.owner].held = self.nodes[self.owner].hold()
            divide(self.nodes[self.owner])
            await self.nodes[self.owner].take_over()


def divide(node: RigNode) -> RigNode:
    """Let each server have a snapshot of its own."""
    node.held[0].snapshots.plan = SnapshotPlan(1)
    return node


@settings(max_examples=12)
@given(OPERATIONS)
async def test_any_owner_has_the_rows_of_one_host(operations: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(Path(folder))
        scenario.rig.log.broker.now = BEGIN
        try:
            await scenario.nodes[0].take_over()
            for name, number, sent in operations:
                await scenario.do(name, number, sent)
            await scenario.nodes[scenario.owner].read_rows()
            expected = scenario.host.windows()
            assert scenario.nodes[scenario.owner].windows() == expected
            last = scenario.start()
            await last.take_over()
            assert last.windows() == expected
        finally:
            await scenario.rig.close()


# ---------------------------------------------------------------- what is refused
async def test_points_that_come_twice_count_once(rig: ShardRig) -> None:
    node, host = rig.start_node(), rig.start_node()
    sent = [("web", "cpu", 75.0 * place, 10.0 * place) for place in range(12)]
    for _ in range(2):
        await send(node.takers.points, *sent)
    await send(host.service.collector, *sent)
    await node.take_over()
    assert node.windows() == host.windows()


async def test_points_ahead_of_the_clusters_clock_are_rejected_where_they_come(rig: ShardRig) -> None:
    node = rig.start_node()
    result = await send(
        node.takers.points, ("web", "load", 1.0, 1.0), ("web", "load", 1e6, 1.0), ("web", "load", -1e10, 1.0)
    )
    assert (result.taken, result.rejected) == (1, 2)
    assert sorted(error.code for error in result.errors) == ["too_far_ahead", "too_old"]


async def test_points_of_no_server_and_of_servers_that_are_none_are_counted(rig: ShardRig) -> None:
    node = rig.start_node()
    result = await send(
        node.takers.points, ("", "load", 1.0, 1.0), ("x" * 300, "load", 1.0, 1.0), ("web", "other", 1.0, 1.0)
    )
    assert (result.taken, result.rejected, result.ignored, result.without_server) == (0, 1, 2, 1)
    assert result.errors[0].code == "invalid_server"


async def test_points_of_servers_that_the_sender_may_not_write_are_rejected(rig: ShardRig) -> None:
    node = rig.start_node()
    caller = Caller("agent", {Scope.INGEST: ("web-*",)})
    result = await send(node.takers.points, ("web-1", "load", 1.0, 1.0), ("db", "load", 1.0, 1.0), caller=caller)
    assert (result.taken, result.rejected) == (1, 1)
    assert result.errors[0].code == "forbidden"


async def test_nothing_is_taken_while_the_node_stops_or_the_buffer_is_full(tmp_path: Path) -> None:
    rig = start_rig(tmp_path, buffer_bytes=1)
    node = rig.start_node()
    rig.log.broker.set_away(True)
    sending = asyncio.create_task(send(node.takers.points, ("web", "load", 1.0, 1.0)))
    while not node.publisher.queued_bytes:
        await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="buffer_mb"):
        node.takers.points.check_open()
    rig.log.broker.set_away(False)
    await sending
    node.takers.points.check_open()
    node.service.collector.is_draining = True
    with pytest.raises(DrainingError):
        node.takers.points.check_open()
    await rig.close()


async def test_a_server_without_a_slot_at_its_owner_is_counted_there(tmp_path: Path) -> None:
    rig = start_rig(tmp_path, window_limits=WindowLimits(capacity=1, need=2, late_steps=8, grace_seconds=10.0))
    node = rig.start_node()
    assert (await send(node.takers.points, ("web", "load", 1.0, 1.0), ("db", "load", 1.0, 1.0))).taken == 2
    await node.take_over()
    assert node.held[0].applier.describe()["rejected"] == {"no_capacity": 1}
    await rig.close()


async def test_plain_samples_that_are_means_are_taken_as_points(tmp_path: Path) -> None:
    rig = start_rig(tmp_path, limits=ServiceLimits(rows_are_means=True))
    node = rig.start_node()
    assert node.takers.samples is None
    samples = [Sample("web", BEGIN + at, {"cpu": value}) for at, value in ((1.0, 1.0), (2.0, 3.0), (700.0, 9.0))]
    result = await node.service.ingest.take_samples(enumerate(samples))
    assert (result.accepted, result.rejected) == (3, 0)
    await node.take_over()
    assert node.windows()["web"][1][0][2] == (2.0, None, None)
    await rig.close()


async def test_a_table_that_is_full_of_former_series_begins_anew(tmp_path: Path) -> None:
    rig = start_rig(tmp_path, limits=ServiceLimits(max_series=2))
    node = rig.start_node()
    for number in range(5):
        for _ in range(2):  # the first try finds the table full
            result = await send(node.takers.points, (f"web-{number}", "load", 1.0, 1.0))
        assert result.taken == 1
    await rig.close()


# ---------------------------------------------------------------- sections
def make_entry(name: str) -> ServerSeries:
    return ServerSeries(server=None, definition=name.encode(), kind=Kind.GAUGE, uses=())  # type: ignore[arg-type]


def test_many_points_are_several_sections_in_their_order() -> None:
    entries = [make_entry(f"series-{number}" * 100) for number in range(300)]
    points = [(entries[place % 300], float(place), float(place)) for place in range(3_000)]
    sections = list(encode_points("web", points, may_evict=True))
    assert len(sections) > 2
    assert max(map(len, sections)) < MAX_SECTION_BYTES + 4_096
    found = []
    for _, body in iterate_sections(make_rows_message(sections)):
        decoded = decode_points(body)
        assert (decoded.server, decoded.may_evict) == ("web", True)
        names = [decoded.definitions[place] for place in decoded.series.tolist()]
        found += list(zip(names, decoded.times.tolist(), decoded.values.tolist(), strict=True))
    assert found == [(entry.definition, time, value) for entry, time, value in points]


def test_a_series_that_no_message_holds_is_refused() -> None:
    check_series_size(make_entry("x" * 1_000))
    with pytest.raises(TooLargeError, match="take 200000 bytes"):
        check_series_size(make_entry("x" * 200_000))


@given(st.integers(0, 400), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
def test_bytes_that_are_no_points_are_refused_or_read_as_valid_points(cut: int, changes: list[tuple[int, int]]) -> None:
    points = [(make_entry(f"series-{place % 3}"), float(place), 1.0) for place in range(10)]
    (section,) = encode_points("web", points, may_evict=False)
    body = bytearray(section[5:])
    for place, value in changes:
        body[place % len(body)] = value
    with contextlib.suppress(MalformedError):
        decoded = decode_points(memoryview(bytes(body[: cut or None])))
        assert len(decoded.times) == len(decoded.values) == len(decoded.series)
        assert all(place < len(decoded.definitions) for place in decoded.series.tolist())


async def test_a_series_that_the_owner_maps_to_another_server_is_ignored(rig: ShardRig) -> None:
    node = rig.start_node()
    await send(node.takers.points, ("web", "load", 1.0, 1.0))
    data = rig.log.broker.get_stream(NAMES.rows_stream(0)).messages[1].data
    # The section says "web" twice: as its server, and in the labels of its series.
    at = data.index(b"web")
    await node.held[0].applier.apply([LogMessage("", data[:at] + b"wob" + data[at + 3 :], 1)])
    assert node.windows() == {}
    assert node.held[0].applier.counts.unreadable == 0
