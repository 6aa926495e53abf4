"""Tests `streamd/cluster/nodes/heartbeats.py`: what is sent, what is heard, and that nothing else harms."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from streamd.cluster.nodes.heartbeats import Heartbeats, decode_heartbeat, encode_heartbeat, listen_for_heartbeats
from streamd.core.cluster.clocks import ClockBook
from streamd.core.cluster.membership import Heartbeat, Membership, NodePhase
from streamd.core.cluster.shards import NAME_PATTERN, ClusterNames
from tests.support.made_log import MemoryLog
from tests.support.virtual_time import run_in_virtual_time

NAMES = ClusterNames("streamd")


def make_heartbeats(log: MemoryLog, node: str, wall: float) -> tuple[Heartbeats, Membership, ClockBook]:
    clock = asyncio.get_running_loop().time
    membership, clocks = Membership(node, 1, 2.5, clock()), ClockBook(10.0)
    heartbeats = Heartbeats(
        log,
        NAMES,
        membership,
        clocks,
        lambda beat: Heartbeat(node=node, run=1, beat=beat, time=wall, shards=(1, 2)),
        wall=lambda: wall,
        clock=clock,
    )
    return heartbeats, membership, clocks


@given(
    st.builds(
        Heartbeat,
        node=st.from_regex(NAME_PATTERN, fullmatch=True),
        run=st.integers(0, 2**62),
        beat=st.integers(0, 2**62),
        time=st.floats(0, 1e10),
        phase=st.sampled_from(NodePhase),
        hindrances=st.tuples(st.text()),
        cannot_own=st.booleans(),
        shards=st.lists(st.integers(0, 1_023)).map(tuple),
        version=st.text(),
        details=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    )
)
def test_a_heartbeat_is_read_as_it_was_written(heartbeat: Heartbeat) -> None:
    assert decode_heartbeat(encode_heartbeat(heartbeat)) == heartbeat


@given(st.binary(max_size=40))
def test_bytes_that_are_no_heartbeat_are_none(data: bytes) -> None:
    assert decode_heartbeat(data) is None or encode_heartbeat(decode_heartbeat(data)) is not None  # type: ignore[arg-type]


def test_nodes_hear_each_other_and_themselves_and_compare_their_clocks() -> None:
    async def run() -> None:
        first = MemoryLog()
        a, of_a, clocks_of_a = make_heartbeats(first, "a", 1_000.0)
        b, of_b, _ = make_heartbeats(first.connect(), "b", 1_030.0)
        await a.listen()
        await b.listen()
        await a.beat()
        await b.beat()
        await asyncio.sleep(0.1)
        now = asyncio.get_running_loop().time()
        for membership in (of_a, of_b):
            assert [each.node for each in membership.list_alive(now)] == ["a", "b"]
        assert clocks_of_a.list_offsets(now) == {"b": 30.0}

    run_in_virtual_time(run())


def test_a_message_that_is_no_heartbeat_is_counted() -> None:
    async def run() -> None:
        log = MemoryLog()
        heartbeats, membership, _ = make_heartbeats(log, "a", 1_000.0)
        await heartbeats.listen()
        await log.publish(NAMES.node("x"), b"\xc1")
        await asyncio.sleep(0.1)
        for node, at in (("a", float("nan")), ("a", 1e300), ("a.b", 1.0)):
            await log.publish(NAMES.node("x"), encode_heartbeat(Heartbeat(node=node, run=1, beat=1, time=at)))
        await asyncio.sleep(0.1)
        assert heartbeats.unreadable == 4
        assert membership.list_alive(asyncio.get_running_loop().time()) == []
        await heartbeats.close()
        await log.publish(NAMES.node("x"), b"\xc1")
        await asyncio.sleep(0.1)
        assert heartbeats.unreadable == 4

    run_in_virtual_time(run())


def test_a_heartbeat_that_cannot_be_sent_is_lost_without_an_error() -> None:
    async def run() -> None:
        log = MemoryLog()
        heartbeats, membership, _ = make_heartbeats(log, "a", 1_000.0)
        await heartbeats.listen()
        log.cut()
        await heartbeats.beat()
        await asyncio.sleep(0.1)
        assert membership.list_alive(asyncio.get_running_loop().time()) == []

    run_in_virtual_time(run())


def test_who_listens_gets_the_newest_of_each_node() -> None:
    async def run() -> list[Heartbeat]:
        log = MemoryLog()
        heard = asyncio.create_task(listen_for_heartbeats(log.connect(), NAMES, 1.0))
        await asyncio.sleep(0)
        for node, run, beat in (("b", 7, 1), ("a", 1, 5), ("b", 6, 9), ("a", 1, 6)):
            message = Heartbeat(node=node, run=run, beat=beat, time=0.0)
            await log.publish(NAMES.node(node), encode_heartbeat(message))
        return await heard

    found = run_in_virtual_time(run())
    assert [(each.node, each.run, each.beat) for each in found] == [("a", 1, 6), ("b", 7, 1)]
