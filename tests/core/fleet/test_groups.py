"""Tests `streamd/core/fleet/groups.py`: groups against counting in a loop."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.fleet.conditions import Condition
from streamd.core.fleet.crossing_table import NO_CROSSING, FirstCrossings
from streamd.core.fleet.groups import group_servers

TIMES = st.integers(0, 3).map(float) | st.just(math.inf)
SERVERS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(Condition), TIMES), min_size=1, max_size=12
)


@given(SERVERS, st.data())
def test_groups_are_counted_in_the_order_of_their_first_servers(
    servers: list[tuple[int, int, Condition, float]], data: st.DataObject
) -> None:
    ranked = data.draw(st.permutations(range(len(servers)))).copy()
    ranked = ranked[: data.draw(st.integers(0, len(servers)))]
    prefixes, severities, conditions, likely = (np.array(column) for column in zip(*servers, strict=True))
    crossings = FirstCrossings(
        np.where(np.isfinite(likely), 0, NO_CROSSING), np.zeros(len(servers)), likely, np.zeros(len(servers))
    )
    groups = group_servers(
        np.array(ranked, np.int64),
        prefixes,
        severities=severities.astype(np.int8),
        conditions=conditions.astype(np.int8),
        crossings=crossings,
    )
    order = list(dict.fromkeys(servers[slot][0] for slot in ranked))
    assert groups.prefixes.tolist() == order
    for place, prefix in enumerate(order):
        members = [slot for slot in ranked if servers[slot][0] == prefix]
        assert groups.servers[place] == len(members)
        assert groups.firing[place] == sum(servers[slot][1] > 0 for slot in members)
        for condition in Condition:
            expected = sum(servers[slot][2] is condition for slot in members)
            assert groups.conditions[place, condition] == expected
        crossing = [slot for slot in members if math.isfinite(servers[slot][3])]
        worst = min(crossing, key=lambda slot: (-servers[slot][1], servers[slot][3])) if crossing else NO_CROSSING
        assert groups.first[place] == worst
