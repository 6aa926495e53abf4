"""Tests `streamd/runtime/workers/presence.py`: starts and ends of processes, heard of in any order."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.workers.presence import AWAY, Presence

Draw = Callable[..., int]


@given(st.integers(1, 6), st.booleans(), st.data())
def test_only_the_newest_run_that_has_not_ended_is_there(runs: int, ends: bool, data: st.DataObject) -> None:
    """The starts come in their order and so do the ends, but both in any order among each other, and starts twice."""
    starts = [run for run in range(runs) for _ in range(data.draw(st.integers(1, 2)))]
    lost = list(range(runs if ends else runs - 1))
    presence = Presence([7])
    while starts or lost:
        if not lost or (starts and data.draw(st.booleans())):
            run = starts.pop(0)
            is_here, is_other = presence.meet(7, run)
            assert is_here or not is_other
        else:
            presence.lose(7, lost.pop(0))
    assert presence.is_here(7) == (not ends)
    assert presence.here == ([] if ends else [7])
    assert presence.away == ([7] if ends else [])


def test_runs_that_are_known_from_the_start_are_there() -> None:
    presence = Presence([0, 1, 2], {0: 4, 1: AWAY})
    assert presence.here == [0]
    assert presence.away == [1, 2]
    assert presence.meet(0, 4) == (True, False)
    assert presence.meet(0, 5) == (True, True)
    assert not presence.lose(0, 4), "a newer run is there by now"
    assert presence.lose(0, 5)
    assert presence.meet(0, 5) == (False, False), "its start was heard of late"
