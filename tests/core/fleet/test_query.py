"""Tests `streamd/core/fleet/query.py`: what is understood, and what is refused with the place and what was expected."""

from typing import Any

import pytest

from streamd.core.errors import InvalidSelectionError
from streamd.core.fleet.query import FleetQuery, make_fleet_query

TARGETS = ("cpu", "disk_usage")


def test_without_fields_a_query_is_for_all_servers_worst_first() -> None:
    assert make_fleet_query(TARGETS) == FleetQuery(search="", conditions=frozenset(), sort="worst", offset=0, limit=100)


def test_an_empty_target_or_rule_is_none() -> None:
    assert make_fleet_query(TARGETS, prefix="", target="", rule="", conditions=[""]) == FleetQuery()


def test_the_fields_are_kept() -> None:
    made = make_fleet_query(
        TARGETS,
        search="Db",
        prefix="db-",
        target="cpu",
        rule="r",
        conditions=["stale", "firing"],
        sort="age",
        is_grouped=True,
    )
    assert made == FleetQuery(
        search="Db",
        prefix="db-",
        target="cpu",
        rule="r",
        conditions=frozenset({"stale", "firing"}),
        sort="age",
        is_grouped=True,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"search": "x" * 257}, "search has 257 characters, expected at most 256"),
        ({"search": "".join(f"[{each}]" for each in map(chr, range(0x4E00, 0x4E40)))}, "a glob that is too large"),
        ({"prefix": "x" * 257}, "prefix has 257 characters, expected at most 256"),
        ({"target": "gpu"}, "target is 'gpu', expected one of cpu, disk_usage"),
        ({"conditions": ["stale", "bad"]}, "condition is 'bad', expected one of firing, pending, stale, warming, curr"),
        ({"sort": "best"}, "sort is 'best', expected one of worst, name, age"),
        ({"offset": -1}, "offset is -1, expected 0 to"),
        ({"limit": 0}, "limit is 0, expected 1 to 500"),
        ({"limit": 501}, "limit is 501, expected 1 to 500"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSelectionError) as raised:
        make_fleet_query(TARGETS, **fields)
    assert message in str(raised.value)
