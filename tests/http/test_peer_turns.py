"""Tests `streamd/http/peer_turns.py`: the work of peers in one turn of the loop is limited, and its order is fair."""

import asyncio

from streamd.http.peer_turns import FRAMES_A_SLICE, WAKES_A_TURN, FrameSlices, PeerTurns


class WorkClock:
    """Seconds that pass only by the work of a test."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_turn_is_over_after_its_time_and_begins_with_the_next_turn_of_the_loop() -> None:
    clock = WorkClock()
    turns = PeerTurns(clock, 1.0)
    assert not turns.is_over()
    clock.now += 0.9
    assert not turns.is_over()
    clock.now += 0.1
    assert turns.is_over()
    await asyncio.sleep(0)
    assert not turns.is_over()


async def test_the_first_work_of_a_turn_is_never_late() -> None:
    """However long a turn lasts, one peer proceeds in each, so none waits for ever."""
    clock = WorkClock()
    turns = PeerTurns(clock, 0.0)
    for _ in range(3):
        assert not turns.is_over()
        assert turns.is_over()
        await asyncio.sleep(0)


async def run_peer(turns: PeerTurns, clock: WorkClock, name: str, steps: int, seconds: float, done: list[str]) -> None:
    for _ in range(steps):
        if turns.is_over():
            await turns.wait()
        clock.now += seconds
        done.append(name)


async def test_peers_with_much_work_alternate_and_none_uses_more_than_its_turn() -> None:
    clock, done = WorkClock(), list[str]()
    turns = PeerTurns(clock, 1.0)
    peers = [asyncio.create_task(run_peer(turns, clock, name, 40, 0.25, done)) for name in "abcde"]
    worked = []
    while not all(peer.done() for peer in peers):
        before = clock.now
        await asyncio.sleep(0)
        worked.append(clock.now - before)
    assert max(worked) <= 1.25
    assert all(done.count(name) == 40 for name in "abcde")
    for end in range(50, 200, 25):  # no peer is ever far ahead of another
        counts = [done[:end].count(name) for name in "abcde"]
        assert max(counts) - min(counts) <= 12


async def test_peers_with_little_work_share_a_turn() -> None:
    clock, done = WorkClock(), list[str]()
    turns = PeerTurns(clock, 1.0)
    assert not turns.is_over()
    clock.now += 1.0
    peers = [asyncio.create_task(run_peer(turns, clock, str(number), 1, 0.01, done)) for number in range(20)]
    count = 0
    while not all(peer.done() for peer in peers):
        await asyncio.sleep(0)
        count += 1
    assert done == [str(number) for number in range(20)]
    assert count <= 20 / WAKES_A_TURN + 5


async def test_callbacks_wait_in_the_same_queue() -> None:
    clock, done = WorkClock(), list[str]()
    turns = PeerTurns(clock, 1.0)

    def work(name: str) -> None:
        clock.now += 1.0
        done.append(name)

    for name in "abc":
        turns.call_in_turn(lambda name=name: work(name))  # type: ignore[misc]
    assert done == []
    for count in (1, 2, 3):
        await asyncio.sleep(0)
        assert len(done) == count
    assert (done, len(turns), turns.waits) == (list("abc"), 0, 3)


async def test_a_peer_that_is_cancelled_while_it_waits_delays_no_other() -> None:
    clock, done = WorkClock(), list[str]()
    turns = PeerTurns(clock, 0.0)
    _, cancelled, other = (asyncio.create_task(run_peer(turns, clock, name, 1, 0.5, done)) for name in "abc")
    await asyncio.sleep(0)
    assert (done, len(turns)) == (["a"], 2)
    cancelled.cancel()
    await other
    assert done == ["a", "c"]


async def test_a_slice_of_frames_ends_if_others_wait() -> None:
    clock = WorkClock()
    turns = PeerTurns(clock, 1.0)
    slices = FrameSlices(turns)
    assert not slices.is_over(FRAMES_A_SLICE)
    turns.call_in_turn(lambda: None)
    assert not slices.is_over(FRAMES_A_SLICE - 1)
    assert slices.is_over(1)
    await slices.wait()
    assert not slices.is_over(1)
