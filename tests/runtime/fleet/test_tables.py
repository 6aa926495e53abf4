"""Tests `streamd/runtime/fleet/tables.py` and what it is made of: what a query shows of servers that report."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.arrays import Numbers, Slots
from streamd.core.fleet.query import FleetQuery
from streamd.runtime.alerts.alert import AlertState
from streamd.runtime.fleet.entries import FleetFormat
from streamd.runtime.fleet.frames import FrameMaker
from tests.support.alert_rig import FIRST_STEP, make_alert_rules, post_forecast
from tests.support.fleet_rig import FleetRig
from tests.support.made_alerts import make_alert

RULES = {
    "cpu_high": {"target": "cpu", "above": 90.0, "quantile": 0.5, "within": 300},
    "mem_low": {"target": "mem", "below": 20.0, "servers": ["db-*"], "severity": "critical"},
}
CRITICAL_LATER = {
    "early": {"target": "cpu", "above": 90.0, "severity": "info"},
    "late": {"target": "cpu", "above": 93.0, "severity": "critical"},
}
STEP_SECONDS = 300


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[FleetRig]:
    made = FleetRig(tmp_path, **RULES)
    yield made
    made.state.close()


# ---------------------------------------------------------------- one server
def test_a_server_shows_its_window_and_its_forecast(rig: FleetRig) -> None:
    rig.forecast("web-1", 60.0, rows=3)
    (entry,) = rig.look()["servers"]
    origin = (FIRST_STEP + 3) * STEP_SECONDS
    assert entry == {
        "server": "web-1",
        "condition": "current",
        "have": 3,
        "need": 2,
        "origin": origin,
        "forecast_origin": origin,
        "missing": [],
        "unknown": [],
        "crossing": None,
        "further": [],
        "alerts": [],
    }


def test_without_rows_or_a_forecast_there_are_no_origins(rig: FleetRig) -> None:
    rig.state.admit("new", 1.0)
    rig.report("pending", rows=2)
    entries = {each["server"]: each for each in rig.look()["servers"]}
    assert (entries["new"]["condition"], entries["new"]["origin"]) == ("warming", None)
    assert entries["pending"]["condition"] == "pending"
    assert entries["pending"]["forecast_origin"] is None


def test_a_crossing_counts_beyond_within_and_if_only_an_outer_curve_crosses(rig: FleetRig) -> None:
    rig.forecast("web-1", 82.0)  # the curve of 0.9 rises from 77 to 92, that of 0.5 to 82
    crossing = rig.look()["servers"][0]["crossing"]
    times = crossing.pop("crosses_at")
    assert crossing == {"rule": "cpu_high", "target": "cpu", "unit": "", "above": 90.0, "severity": "warning"}
    origin = (FIRST_STEP + 2) * STEP_SECONDS
    assert times["earliest"] == pytest.approx(origin + 2.6 * STEP_SECONDS, abs=0.01)
    assert (times["likely"], times["latest"]) == (None, None)


def test_the_rule_that_is_likely_crossed_first_is_shown_of_those_that_apply(rig: FleetRig) -> None:
    rig.forecast("web-1", 18.0)  # below 20 from the beginning, but that rule is for others
    rig.forecast("db-1", 18.0)
    entries = {each["server"]: each["crossing"] for each in rig.look()["servers"]}
    assert entries["web-1"] is None
    assert (entries["db-1"]["rule"], entries["db-1"]["below"]) == ("mem_low", 20.0)


def test_the_crossing_of_the_worst_alert_is_shown_and_ranks_and_the_others_follow(rig: FleetRig) -> None:
    rig.alerts.rules = make_alert_rules(rig.state, CRITICAL_LATER)
    rig.forecast("a", 95.0)
    rig.forecast("b", 95.0)
    both = {each["server"]: each for each in rig.look()["servers"]}
    assert [both["a"]["crossing"]["rule"], *(each["rule"] for each in both["a"]["further"])] == ["early", "late"]
    rig.alerts.put(make_alert("early", "a", severity="info"))
    rig.alerts.put(make_alert("late", "a", severity="critical"))
    rig.alerts.put(make_alert("early", "b", severity="critical"))
    first, second = rig.look()["servers"]
    assert [first["server"], second["server"]] == ["b", "a"], "both are critical, and that of b comes first"
    assert (second["crossing"]["rule"], second["crossing"]["severity"]) == ("late", "critical")
    assert [each["rule"] for each in second["further"]] == ["early"]
    assert second["further"][0]["crosses_at"] == first["crossing"]["crosses_at"]
    rig.alerts.put(make_alert("late", "a", severity="critical", silenced_until=rig.now + 60))
    (entry,) = rig.look(search="a")["servers"]
    assert entry["crossing"]["rule"] == "early", "what is silenced is not wrong"
    assert rig.look(search="a", rule="late")["servers"][0]["further"] == []


def test_an_alert_whose_rule_is_not_crossed_any_more_leaves_the_place_to_one_that_is(rig: FleetRig) -> None:
    rig.forecast("db-1", 95.0)
    rig.alerts.put(make_alert("mem_low", "db-1", severity="critical"))
    rig.alerts.put(make_alert("gone", "db-1", severity="critical"))
    (entry,) = rig.look()["servers"]
    assert entry["crossing"]["rule"] == "cpu_high"


def test_a_forecast_whose_horizon_is_over_crosses_nothing(rig: FleetRig) -> None:
    rig.forecast("web-1", 95.0)
    assert rig.look()["servers"][0]["crossing"] is not None
    rig.late_seconds = 4 * STEP_SECONDS
    assert rig.look()["servers"][0]["crossing"] is None
    assert rig.look()["servers"][0]["condition"] == "stale"


def test_a_newer_forecast_replaces_a_crossing(rig: FleetRig) -> None:
    rig.forecast("web-1", 95.0)
    assert rig.look()["servers"][0]["crossing"] is not None
    rig.forecast("web-1", 30.0)
    assert rig.look()["servers"][0]["crossing"] is None


def test_targets_that_no_agent_sends_any_more_are_missing(rig: FleetRig) -> None:
    rig.report("a", rows=2)
    rig.report("a", rows=2, values={"cpu": 1.0, "net": 1.0})
    rig.report("b", rows=2, values={"cpu": 1.0, "net": 1.0})
    unsent = {each["server"]: (each["missing"], each["unknown"]) for each in rig.look()["servers"]}
    assert unsent == {"a": (["mem"], []), "b": ([], ["mem"])}, "what never came is unknown"
    rig.report("a")
    rig.report("b")
    assert not any(each["missing"] + each["unknown"] for each in rig.look()["servers"])


def test_a_target_that_was_not_sent_for_a_whole_window_is_unknown(rig: FleetRig) -> None:
    rig.report("a", rows=2)
    for rows, unsent in ((7, (["mem"], [])), (1, ([], ["mem"]))):
        rig.report("a", rows=rows, values={"cpu": 1.0, "net": 1.0})
        (entry,) = rig.look()["servers"]
        assert (entry["missing"], entry["unknown"]) == unsent


# ---------------------------------------------------------------- order and choice
def test_servers_are_listed_worst_first(rig: FleetRig) -> None:
    rig.forecast("a-calm", 50.0)
    rig.forecast("b-earliest", 82.0)
    rig.forecast("c-likely", 95.0)
    rig.report("d-pending", rows=2)
    rig.report("e-warming", rows=1)
    for server, severity in (("f-warning", "warning"), ("g-critical", "critical")):
        rig.forecast(server, 50.0)
        rig.alerts.put(make_alert("cpu_high", server, severity=severity))
    expected = ["g-critical", "f-warning", "c-likely", "b-earliest", "d-pending", "e-warming", "a-calm"]
    assert rig.name() == expected
    assert rig.name(offset=2, limit=2) == expected[2:4]
    assert rig.name(sort="name") == sorted(expected)
    assert rig.look()["counts"] == {"firing": 2, "pending": 1, "stale": 0, "warming": 1, "current": 5}


def test_the_oldest_forecast_comes_first_by_age(rig: FleetRig) -> None:
    rig.forecast("a", 50.0, rows=4)
    rig.forecast("b", 50.0, rows=2)
    rig.report("c", rows=3)
    assert rig.name(sort="age") == ["b", "a", "c"]


def test_a_silenced_alert_and_a_pending_one_do_not_count_as_firing(rig: FleetRig) -> None:
    for server in ("a", "b", "c"):
        rig.forecast(server, 50.0)
    rig.alerts.put(make_alert("cpu_high", "b", silenced_until=rig.now + 60, labels={}))
    rig.alerts.put(make_alert("cpu_high", "c", state=AlertState.PENDING, starts_at=None))
    answer = rig.look()
    assert [each["server"] for each in answer["servers"]] == ["a", "b", "c"]
    assert answer["counts"]["firing"] == 0
    assert answer["servers"][1]["alerts"][0]["silenced_until"] == rig.now + 60
    rig.late_seconds += 61
    assert rig.look()["servers"][0]["alerts"][0]["silenced_until"] is None
    assert rig.look()["counts"]["firing"] == 1


def test_alerts_of_a_server_are_worst_first(rig: FleetRig) -> None:
    rig.forecast("a", 50.0)
    for rule, changes in (
        ("later", {"state": AlertState.PENDING, "severity": "critical"}),
        ("bad", {"severity": "info"}),
        ("worse", {"severity": "warning"}),
    ):
        rig.alerts.put(dataclasses.replace(make_alert(rule, "a"), **changes))  # type: ignore[arg-type]
    assert [each["rule"] for each in rig.look()["servers"][0]["alerts"]] == ["worse", "bad", "later"]


def test_a_query_finds_by_name_condition_rule_and_target(rig: FleetRig) -> None:
    rig.forecast("db-1", 18.0)
    rig.forecast("DB-2", 95.0)
    rig.report("web-1", rows=2)
    rig.alerts.put(make_alert("cpu_high", "DB-2", target="cpu"))
    assert rig.name(search="db") == ["DB-2", "db-1"]
    assert rig.name(search="d?-*2") == ["DB-2"]
    assert rig.name(conditions=frozenset({"pending"})) == ["web-1"]
    assert rig.name(conditions=frozenset({"pending", "firing"})) == ["DB-2", "web-1"]
    assert rig.name(rule="mem_low") == ["db-1"]
    assert rig.name(rule="nothing") == []
    of_mem = {each["server"]: each for each in rig.look(target="mem")["servers"]}
    assert list(of_mem) == ["db-1", "web-1", "DB-2"], "only the rule of this target counts"
    assert (of_mem["DB-2"]["alerts"], of_mem["DB-2"]["crossing"]) == ([], None)
    answer = rig.look(search="db", limit=1)
    assert (answer["total"], answer["matching"], len(answer["servers"])) == (3, 2, 1)


def test_groups_have_the_servers_of_a_prefix(rig: FleetRig) -> None:
    rig.forecast("web-1", 82.0)
    rig.forecast("web-2", 95.0)
    rig.forecast("db-1", 50.0)
    rig.report("db-2")
    answer = rig.look(is_grouped=True)
    assert answer["matching"] == 2
    web, db = answer["groups"]
    crossing = web.pop("crossing")
    assert web == {"prefix": "web-", "servers": 2, "firing": 0, "pending": 0, "stale": 0, "warming": 0, "current": 2}
    assert (crossing["server"], crossing["rule"]) == ("web-2", "cpu_high")
    assert (db["prefix"], db["warming"], db["crossing"]) == ("db-", 1, None)
    rig.alerts.put(make_alert("cpu_high", "web-1"))
    assert rig.look(is_grouped=True)["groups"][0]["crossing"]["server"] == "web-1", "its alert fires"
    assert [each["prefix"] for each in rig.look(is_grouped=True, offset=1)["groups"]] == ["db-"]
    assert rig.look(is_grouped=True, offset=5)["groups"] == []


def test_a_prefix_finds_exactly_the_servers_of_its_group(rig: FleetRig) -> None:
    for server in ("web-1.example.com", "web-2:9100", "web-api-1", "Web-3"):
        rig.report(server)
    groups = {each["prefix"]: each["servers"] for each in rig.look(is_grouped=True)["groups"]}
    assert groups == {"web-": 2, "web-api-": 1, "Web-": 1}
    assert rig.name(prefix="web-") == ["web-1.example.com", "web-2:9100"]
    assert rig.name(prefix="web-", search="2") == ["web-2:9100"]
    assert rig.name(prefix="we") == []
    rig.report("web-4")
    assert rig.name(prefix="web-") == ["web-1.example.com", "web-2:9100", "web-4"]
    rig.state.forget(rig.state.directory.slots["web-4"])
    assert rig.name(prefix="web-") == ["web-1.example.com", "web-2:9100"]


# ---------------------------------------------------------------- whose servers
def test_a_caller_sees_and_counts_only_its_servers(rig: FleetRig) -> None:
    for server in ("db-1", "web-1"):
        rig.forecast(server, 95.0)
        rig.alerts.put(make_alert("cpu_high", server))
    caller = Caller("db", {Scope.READ: ["db-*"]})
    answer = rig.look(caller=caller)
    assert [each["server"] for each in answer["servers"]] == ["db-1"]
    assert (answer["total"], answer["matching"], answer["counts"]["firing"]) == (1, 1, 1)
    assert rig.name(caller=caller, search="web") == []
    assert [each["prefix"] for each in rig.look(caller=caller, is_grouped=True)["groups"]] == ["db-"]
    rig.forecast("db-2", 95.0)
    rig.forecast("web-2", 95.0)
    assert rig.name(caller=caller, sort="name") == ["db-1", "db-2"], "also of servers that came later"
    caller.revoke()
    assert rig.look(caller=caller)["total"] == 0


def test_a_slot_that_gets_another_server_shows_nothing_of_the_former_one(rig: FleetRig) -> None:
    slot = rig.forecast("db-1", 95.0)
    caller = Caller("web", {Scope.READ: ["web-*"]})
    assert rig.name(caller=caller) == []
    rig.state.forget(slot)
    assert rig.state.admit("web-1", 1.0)[0] == slot
    (entry,) = rig.look(caller=caller)["servers"]
    assert (entry["server"], entry["crossing"], entry["have"]) == ("web-1", None, 0)
    assert rig.name(search="db") == []


def test_a_slot_that_gets_another_server_while_it_is_read_is_left_out_until_the_next_time(
    rig: FleetRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = rig.forecast("db-1", 50.0)
    rig.forecast("web-1", 50.0)
    assert rig.name(sort="name") == ["db-1", "web-1"]
    get_steps = rig.state.board.get_steps

    def replace_and_get_steps(slots: Slots) -> Numbers:
        monkeypatch.undo()
        rig.state.forget(slot)
        rig.state.admit("other-1", 1.0)
        return get_steps(slots)

    monkeypatch.setattr(rig.state.board, "get_steps", replace_and_get_steps)
    assert rig.name(sort="name") == ["web-1"]
    assert rig.name(sort="name") == ["other-1", "web-1"]


def test_a_forecast_of_another_server_that_has_the_slot_by_now_is_not_taken_for_that_of_the_former(
    rig: FleetRig,
) -> None:
    slot = rig.forecast("web-1", 50.0)

    def replace_server() -> None:
        if "web-1" in rig.state.directory.slots:
            rig.state.forget(slot)
            assert rig.forecast("db-1", 95.0) == slot

    rig.tables.refresh(rig.now, replace_server)
    maker = FrameMaker(FleetQuery(), ANYBODY, Scope.READ, FleetFormat.JSON)
    (entry,) = msgspec.json.decode(rig.tables.make_frame(maker.make_answer) or b"")["servers"]
    assert (entry["server"], entry["crossing"]) == ("web-1", None)
    (entry,) = rig.look()["servers"]
    assert (entry["server"], entry["crossing"]["rule"]) == ("db-1", "cpu_high")


def test_a_server_that_is_forgotten_is_gone(rig: FleetRig) -> None:
    slot = rig.forecast("db-1", 95.0)
    rig.forecast("web-1", 50.0)
    rig.refresh()
    rig.state.forget(slot)
    assert rig.name() == ["web-1"]
    assert rig.look()["total"] == 1


# ---------------------------------------------------------------- rules
def test_other_rules_are_applied_to_forecasts_that_were_read_before(rig: FleetRig) -> None:
    rig.forecast("web-1", 50.0)
    assert rig.look()["servers"][0]["crossing"] is None
    rig.alerts.rules = make_alert_rules(rig.state, {"low": {"target": "cpu", "above": 40.0}})
    assert rig.look()["servers"][0]["crossing"]["rule"] == "low"
    rig.alerts.rules = ()
    assert rig.look()["servers"][0]["crossing"] is None


def test_work_is_done_in_pieces(rig: FleetRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.alerts.screening.MAX_CHUNK_SLOTS", 2)
    rig.alerts.rules = make_alert_rules(rig.state, RULES)[:1]  # so that chunks are made anew
    for number in range(6):
        rig.forecast(f"web-{number}", 95.0)
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1

    rig.tables.refresh(rig.now, pause)
    assert pauses == 1 + 3
    rig.tables.refresh(rig.now, pause)
    assert pauses == 1 + 3 + 1, "a forecast is read once"


def test_a_forecast_that_is_torn_is_read_the_next_time(rig: FleetRig) -> None:
    slot = rig.forecast("web-1", 95.0)
    serials = rig.state.board._arrays["serial"]
    serials[slot] = -serials[slot]  # while it is being posted
    assert rig.look()["servers"][0]["crossing"] is None
    serials[slot] = -serials[slot]
    crossing = rig.look()["servers"][0]["crossing"]
    assert math.isfinite(crossing["crosses_at"]["likely"])


def test_a_forecast_that_is_down_for_a_moment_is_still_there(rig: FleetRig, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = rig.forecast("web-1", 50.0)
    assert rig.look()["servers"][0]["condition"] == "current"
    serials = rig.state.board._arrays["serial"]
    serials[slot] = -serials[slot]
    monkeypatch.setattr(
        "streamd.runtime.fleet.snapshot.time.sleep", lambda seconds: post_forecast(rig.state, slot, 101, 50.0)
    )
    assert rig.look()["servers"][0]["condition"] == "current"


# ---------------------------------------------------------------- windows at other nodes
def admit(rig: FleetRig, server: str) -> int:
    """Give a server a slot and nothing else."""
    slot, _ = rig.state.directory.find_slot()
    rig.state.directory.admit(slot, server, rig.now)
    return slot


def test_a_server_whose_window_is_at_another_node_is_shown_by_its_forecast(rig: FleetRig) -> None:
    rig.forecast("here", 50.0)
    slot = admit(rig, "elsewhere")
    post_forecast(rig.state, slot, rig.newest, 50.0)
    here, elsewhere = ({each["server"]: each for each in rig.look()["servers"]}[name] for name in ("here", "elsewhere"))
    assert (elsewhere["condition"], elsewhere["origin"]) == (here["condition"], here["origin"])
    assert elsewhere["have"] > 0
    assert (elsewhere["missing"], elsewhere["unknown"]) == ([], [])


def test_its_unknown_targets_are_those_of_its_newest_forecast(rig: FleetRig) -> None:
    slot = admit(rig, "elsewhere")
    post_forecast(rig.state, slot, rig.newest, 50.0)
    assert rig.look()["servers"][0]["unknown"] == []
    shape = rig.state.contract.forecast_shape
    values = np.zeros(shape, np.float32)
    values[0] = np.nan
    rig.state.board.post(slot, rig.newest + 1, 2, b"made", values)
    assert rig.look()["servers"][0]["unknown"] == [rig.state.contract.targets[0]]
