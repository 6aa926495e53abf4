"""Tests `streamd/client/seen_origins.py`: what a reader has twice, and what it lacks, after it was away."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.client.seen_origins import SeenOrigins

STEP = 300
forecasts = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=6)


@settings(max_examples=50)
@given(st.lists(forecasts, max_size=6), st.booleans())
def test_each_server_is_judged_by_its_last_forecast_before(visits: list[list[tuple[str, int]]], at_once: bool) -> None:
    """Visits are parted by a return. Of each server only the first forecast of a visit can be one that it has."""
    seen, last = SeenOrigins(STEP), dict[str, int]()
    for visit in visits:
        seen.note_return()
        first_of_visit = dict(reversed(visit))
        expected_passed, expected_repeated = 0, []
        met: set[str] = set()
        for place, (server, step) in enumerate(visit):
            if server in last and server not in met:
                if first_of_visit[server] == last[server]:
                    expected_repeated.append(place)
                else:
                    expected_passed += max(step - last[server] - 1, 0)
            met.add(server)
        last |= dict(visit)
        servers, origins = [server for server, _ in visit], [step * STEP for _, step in visit]
        if at_once:
            assert seen.note_many(servers, origins) == (expected_passed, expected_repeated)
        else:
            found = [seen.note(server, origin) for server, origin in zip(servers, origins, strict=True)]
            assert sum(filter(None, found)) == expected_passed
            assert [place for place, passed in enumerate(found) if passed is None] == expected_repeated


def test_memory_is_bounded() -> None:
    seen = SeenOrigins(STEP, max_servers=2)
    assert seen.note_many(["a", "b", "c"], [0, 0, 0]) == (0, [])
    seen.note_return()
    assert seen.note("a", 0) == 0, "the first one was dropped"
    assert seen.note("c", 0) is None


def test_memory_is_bounded_over_many_returns() -> None:
    seen = SeenOrigins(STEP, max_servers=2)
    for name in "abcd":
        seen.note(name, 0)
        seen.note_return()
    assert [seen.note(name, 0) for name in "abcd"] == [0, 0, None, None]
