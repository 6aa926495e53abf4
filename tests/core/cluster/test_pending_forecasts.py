"""Tests `streamd/core/cluster/pending_forecasts.py` against a dictionary."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.pending_forecasts import ForecastRows, PendingForecasts

NAMES = [f"web-{number}" for number in range(6)]
ADDED = st.tuples(
    st.sampled_from(["one", "two"]),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 5), min_size=1),
)
TAKEN = st.integers(1, 4)
DROPPED = st.sampled_from(NAMES)


def make_rows(model: str, steps: dict[str, int]) -> ForecastRows:
    """Make forecasts whose numbers say of which server and step they are."""
    count = len(steps)
    slots = np.array([NAMES.index(name) for name in steps])
    newest = np.array(list(steps.values()))
    return ForecastRows(
        model=model,
        servers=tuple(steps),
        slots=slots,
        generations=np.zeros(count, np.int64),
        steps=newest,
        contexts=np.ones(count, np.int64),
        since=np.zeros(count),
        values=(slots * 100.0 + newest)[:, None, None, None].astype(np.float32),
        checks=(slots * 100 + newest).astype(np.uint64),
        is_posted=np.zeros(count, np.bool_),
    )


def check_rows(rows: ForecastRows) -> None:
    expected = rows.slots * 100 + rows.steps
    assert rows.values[:, 0, 0, 0].tolist() == expected.tolist() == rows.checks.tolist()
    assert [NAMES[slot] for slot in rows.slots.tolist()] == list(rows.servers)


@given(actions=st.lists(st.one_of(ADDED, TAKEN, DROPPED), max_size=40))
def test_it_is_a_dictionary_of_the_newest_forecasts(actions: list[object]) -> None:
    pending, expected = PendingForecasts(), dict[str, tuple[str, int]]()
    for action in actions:
        if isinstance(action, tuple):
            model, steps = action
            pending.add(make_rows(model, steps))
            for name, step in steps.items():
                if name not in expected or expected[name][1] < step:
                    expected[name] = model, step
        elif isinstance(action, int):
            rows = pending.take(action)
            assert (rows is None) == (not expected)
            if rows is not None:
                check_rows(rows)
                first = next(iter(expected.values()))[0]
                wanted = [name for name in list(expected)[:action] if expected[name][0] == first]
                assert sorted(rows.servers) == sorted(wanted)
                for name, step in zip(rows.servers, rows.steps.tolist(), strict=True):
                    assert expected.pop(name) == (rows.model, step)
        elif isinstance(action, str):
            pending.drop(action)
            expected.pop(action, None)
        assert len(pending) == len(expected)


def test_what_was_replaced_takes_no_memory_for_long() -> None:
    pending = PendingForecasts()
    pending.add(make_rows("one", {"web-0": 0}))
    for step in range(2_000):
        pending.add(make_rows("one", dict.fromkeys(NAMES[1:], step)))
    assert pending._stored < 400
    rows = pending.take(10)
    assert rows is not None
    check_rows(rows)
    assert rows.steps.tolist().count(1_999) == 5


def test_only_what_readers_lack_is_posted() -> None:
    pending = PendingForecasts()
    pending.add(make_rows("one", {"web-0": 1, "web-1": 1}))
    assert [rows.servers for rows in pending.iterate_unposted()] == [("web-0", "web-1")]
    pending.mark_posted()
    assert not list(pending.iterate_unposted())
    pending.add(make_rows("two", {"web-1": 2}))
    assert [(rows.servers, rows.model) for rows in pending.iterate_unposted()] == [(("web-1",), "two")]
    rows = pending.take(1)
    assert rows is not None
    assert rows.is_posted.all()
