"""Tests `streamd/runtime/fleet/names.py`: names, orders and selections against those made anew after each change."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.fleet.prefixes import find_prefix
from streamd.core.selection import ServerGlobs
from streamd.runtime.fleet import names as names_module
from streamd.runtime.fleet.names import FleetNames
from streamd.runtime.fleet.snapshot import take_snapshot
from tests.support.fleet_rig import FleetRig

CHANGES = st.lists(
    st.lists(st.sampled_from(["db-1", "db-2", "Web-1", "web-22", "x", "ä-1"]), max_size=3), min_size=1, max_size=6
)


@settings(max_examples=10)
@given(CHANGES)
def test_selections_follow_servers_that_come_and_leave(
    tmp_path_factory: pytest.TempPathFactory, changes: list[list[str]]
) -> None:
    rig = FleetRig(tmp_path_factory.mktemp("state"))
    directory, names = rig.state.directory, FleetNames(rig.state.directory)
    caller, globs = Caller("web", {Scope.READ: ["?eb-*"]}), ServerGlobs(["*-1"])
    for change in changes:
        for name in change:  # each comes if it is not there, else it leaves
            if name in directory.slots:
                rig.state.forget(directory.slots[name])
            else:
                rig.state.admit(name, 1.0)
        names.update(take_snapshot(rig.state, None))
        assert [names.names[slot] for slot in names.ordered] == sorted(directory.slots)
        for selected, expected in (
            (names.select_found("WEB"), lambda name: "web" in name.lower()),
            (names.select_found("d*"), lambda name: name.startswith("d")),
            (names.select_permitted(caller, Scope.READ), lambda name: "eb-" in name),
            (names.select_permitted(ANYBODY, Scope.READ), lambda name: True),
            (names.select_chosen(globs), lambda name: name.endswith("-1")),
        ):
            found = {names.names[slot] for slot in range(directory.capacity) if selected[slot]}
            assert found == {name for name in directory.slots if expected(name)}
        prefixes = names.get_prefixes()
        assert all(names.prefix_names[prefixes[slot]] == find_prefix(name) for name, slot in directory.slots.items())
    rig.state.close()


def test_a_selection_is_decided_once_and_few_are_remembered(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "MAX_SELECTIONS", 2)
    rig = FleetRig(tmp_path_factory.mktemp("state"))
    rig.state.admit("db-1", 1.0)
    names = FleetNames(rig.state.directory)
    names.update(take_snapshot(rig.state, None))
    first = names.select_found("db")
    assert names.select_found("db") is first
    names.select_found("x")
    names.select_found("y")
    assert names.select_found("db") is not first
    rig.state.close()


def test_prefixes_of_servers_that_left_are_forgotten(tmp_path_factory: pytest.TempPathFactory) -> None:
    rig = FleetRig(tmp_path_factory.mktemp("state"))
    names = FleetNames(rig.state.directory)
    for number in range(50):
        rig.state.admit(f"pod{number}-x", 1.0)
        names.update(take_snapshot(rig.state, None))
        assert names.select_prefix(f"pod{number}-").any()
        rig.state.forget(rig.state.directory.slots[f"pod{number}-x"])
    assert len(names.prefix_names) <= 2 * rig.state.directory.capacity + 1
    rig.state.close()
