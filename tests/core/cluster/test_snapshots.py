"""Tests `streamd/core/cluster/snapshots.py`: chunks of servers, when each is written, and what all of them cover."""

from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.snapshots import (
    CHUNK_SERVERS,
    MAX_AGE_SECONDS,
    MIN_TAIL_BYTES,
    REWRITE_SECONDS,
    SnapshotPlan,
    count_chunk_servers,
)

SERVERS = tuple("abcdefgh")


def make_plan(*chunks: str, size: int = 2, snapshot_bytes: int = 1_000) -> SnapshotPlan:
    """Chunks that are in the log, after row 10."""
    plan = SnapshotPlan(size)
    for number, servers in enumerate(chunks):
        plan.load_chunk(number, servers, chunks=len(chunks), covered=10, size_bytes=snapshot_bytes, now=0.0)
    return plan


def servers_of(plan: SnapshotPlan) -> list[str]:
    return ["".join(chunk.servers) for chunk in plan.chunks]


def test_a_chunk_has_so_many_servers_that_a_message_holds_them() -> None:
    assert count_chunk_servers(100) == CHUNK_SERVERS
    assert count_chunk_servers(100_000) == 5
    assert count_chunk_servers(10**9) == 1


def test_new_servers_come_into_chunks_with_space() -> None:
    plan = make_plan("ab", "c")
    plan.follow_servers("abcde", 5, 500, 1.0)
    assert servers_of(plan) == ["ab", "cd", "e"]
    assert [chunk.covered for chunk in plan.chunks] == [10, 10, 5], "the last one is not in the log"
    plan.follow_servers("bcdef", 6, 600, 2.0)
    assert servers_of(plan) == ["b", "cd", "ef"]


def test_a_chunk_that_does_not_change_is_written_again_after_half_a_day() -> None:
    plan = make_plan("ab", "cd")
    assert plan.choose(0, REWRITE_SECONDS - 1) is None
    first = plan.choose(0, REWRITE_SECONDS)
    assert first is plan.chunks[0]
    plan.note_written(first, covered=10, covered_bytes=0, size_bytes=1_000, now=REWRITE_SECONDS)
    assert plan.choose(0, REWRITE_SECONDS) is plan.chunks[1]


def test_the_oldest_chunk_is_written_first() -> None:
    plan = make_plan("ab", "cd")
    assert plan.choose(0, MAX_AGE_SECONDS) is None, "no row came"
    assert plan.choose(100, MAX_AGE_SECONDS - 1) is None, "it is not old"
    first = plan.choose(100, MAX_AGE_SECONDS)
    assert first is plan.chunks[0]
    plan.note_written(first, covered=20, covered_bytes=100, size_bytes=1_000, now=MAX_AGE_SECONDS)
    assert plan.choose(100, MAX_AGE_SECONDS) is plan.chunks[1]


def test_chunks_are_written_earlier_if_many_rows_follow_them() -> None:
    plan = make_plan("ab", "cd", snapshot_bytes=10 * MIN_TAIL_BYTES)
    assert plan.choose(5 * MIN_TAIL_BYTES, 1.0) is None
    assert plan.choose(5 * MIN_TAIL_BYTES + 1, 1.0) is plan.chunks[0]
    assert make_plan("ab").choose(MIN_TAIL_BYTES + 1, 1.0) is not None


def test_what_another_node_wrote_is_adopted() -> None:
    plan = make_plan("ab", "c")
    plan.adopt_chunk(1, "cb", covered=30, size_bytes=500)
    assert servers_of(plan) == ["a", "cb"]
    assert [chunk.covered for chunk in plan.chunks] == [10, 30]
    plan.adopt_chunk(0, "d", covered=40, size_bytes=500)
    assert servers_of(plan) == ["ad", "cb"]
    assert plan.chunks[0].covered == 10, "a is not in it"
    assert plan.snapshot_bytes == 1_000


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), st.sets(st.sampled_from(SERVERS), min_size=1)),
        st.tuples(st.just("forget"), st.sets(st.sampled_from(SERVERS), max_size=1)),
        st.tuples(st.just("write"), st.just(set[str]())),
    ),
    max_size=40,
)


@given(OPERATIONS, st.integers(1, 3))
def test_no_row_that_no_snapshot_has_is_covered(operations: list[tuple[str, set[str]]], size: int) -> None:
    plan, followed, sequence = SnapshotPlan(size), 0, 0
    last_row: dict[str, int] = {}
    unstored: dict[str, list[int]] = {}
    """Rows by server that are in no snapshot."""
    for name, servers in operations:
        if name == "rows":
            sequence += 1
            for server in servers:
                last_row[server] = sequence
                unstored.setdefault(server, []).append(sequence)
        elif name == "forget":
            for server in servers:
                last_row.pop(server, None)
                unstored.pop(server, None)
        else:
            plan.follow_servers(sorted(last_row), followed, followed, 0.0)
            followed = sequence
            chunk = plan.choose(sequence, MAX_AGE_SECONDS)
            if chunk is not None:
                plan.note_written(chunk, covered=sequence, covered_bytes=sequence, size_bytes=1, now=0.0)
                for server in chunk.servers:
                    unstored.pop(server, None)
            covered = plan.find_covered(sequence)
            assert all(row > covered for rows in unstored.values() for row in rows)
