"""Tests `streamd/runtime/fleet/frames.py`: a reader gets each entry once, and then what changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.runtime.fleet.entries import FleetFormat
from tests.support.fleet_rig import FleetRig
from tests.support.made_alerts import make_alert


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[FleetRig]:
    made = FleetRig(tmp_path, cpu_high={"target": "cpu", "above": 90.0})
    yield made
    made.state.close()


def name(frame: dict[str, Any]) -> list[str]:
    return [each["server"] for each in frame["servers"]]


@pytest.mark.parametrize("form", FleetFormat)
def test_the_first_frame_has_all_and_later_ones_what_changed(rig: FleetRig, form: FleetFormat) -> None:
    for server in ("a", "b", "c"):
        rig.forecast(server, 50.0)
    follower = rig.follow(form)
    first = follower.read()
    assert (first["type"], first["order"], name(first)) == ("fleet", ["a", "b", "c"], ["a", "b", "c"])
    assert follower.read() is None
    rig.forecast("c", 95.0)
    second = follower.read()
    assert (second["order"], name(second)) == (["c", "a", "b"], ["c"])
    assert second["servers"][0]["crossing"]["rule"] == "cpu_high"


def test_only_entries_in_view_are_sent(rig: FleetRig) -> None:
    for server in ("a", "b", "c"):
        rig.forecast(server, 50.0)
    follower = rig.follow(sort="name", limit=2)
    assert name(follower.read()) == ["a", "b"]
    rig.forecast("c", 60.0)
    assert follower.read() is None
    rig.forecast("b", 60.0)
    assert name(follower.read()) == ["b"]


def test_a_server_that_comes_into_view_is_sent_whole(rig: FleetRig) -> None:
    for server in ("a", "b"):
        rig.forecast(server, 50.0)
    follower = rig.follow(limit=1)
    assert name(follower.read()) == ["a"]
    rig.alerts.put(make_alert("cpu_high", "b"))
    assert name(follower.read()) == ["b"]
    rig.alerts.active.clear()
    again = follower.read()
    assert (again["order"], name(again)) == (["a"], ["a"])


def test_counts_that_change_are_sent_without_entries(rig: FleetRig) -> None:
    rig.forecast("a", 50.0)
    follower = rig.follow(limit=1, sort="name")
    follower.read()
    rig.forecast("b", 50.0)
    frame = follower.read()
    assert (frame["total"], frame["counts"]["current"], frame["servers"]) == (2, 2, [])


def test_groups_are_followed_too(rig: FleetRig) -> None:
    for server in ("a-1", "b-1"):
        rig.forecast(server, 50.0)
    follower = rig.follow(is_grouped=True)
    assert [each["prefix"] for each in follower.read()["groups"]] == ["a-", "b-"]
    assert follower.read() is None
    rig.forecast("b-2", 95.0)
    frame = follower.read()
    assert (frame["order"], [each["prefix"] for each in frame["groups"]]) == (["b-", "a-"], ["b-"])


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["forecast", "report", "forget", "alert", "clear"]), st.sampled_from("abcd"), st.booleans()
    ),
    max_size=12,
)


@settings(max_examples=10)
@given(ACTIONS, st.sampled_from(["worst", "name", "age"]), st.integers(0, 2), st.integers(1, 3))
def test_what_a_reader_has_is_what_a_call_answers(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, str, bool]], sort: str, offset: int, limit: int
) -> None:
    rig = FleetRig(tmp_path_factory.mktemp("state"), cpu_high={"target": "cpu", "above": 90.0})
    follower = rig.follow(sort=sort, offset=offset, limit=limit)
    held: dict[str, Any] = {}
    order: list[str] = []
    for action, server, is_high in actions:
        slot = rig.state.directory.slots.get(server)
        if action == "forecast":
            rig.forecast(server, 95.0 if is_high else 50.0)
        elif action == "report":
            rig.report(server)
        elif action == "alert":
            rig.alerts.put(make_alert("cpu_high", server))
        elif action == "clear":
            rig.alerts.active.pop(("cpu_high", server), None)
        elif slot is not None:
            rig.state.forget(slot)
        frame = follower.read()
        if frame is not None:
            held |= {each["server"]: each for each in frame["servers"]}
            order = frame["order"]
        answer = rig.look(sort=sort, offset=offset, limit=limit)
        assert [held[each] for each in order] == answer["servers"]
    rig.state.close()
