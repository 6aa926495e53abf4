"""Tests `streamd/server/cluster/versions.py`: two daemons over a real server of NATS change versions and share alerts.

The tests go on from each other: versions change, one node is killed, and the servers of NATS stay.
"""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon_process import DaemonProcess
from tests.support.nats_servers import needs_nats_server, run_nats
from tests.support.node_processes import NodeProcesses, wait_until
from tests.support.served_versions import (
    AUTHORIZED,
    CALENDAR,
    FIRST_STEP,
    SETTINGS,
    WINDOW,
    make_both,
    make_version,
    samples_of,
)
from tests.support.version_calls import (
    list_versions,
    predict,
    promote,
    read_serving,
    roll_back,
    start_candidate,
)

pytestmark = needs_nats_server

SHARDS = 2
SERVERS = range(6)
RULES = """
[alerts]
max_forecast_age_seconds = inf
[alerts.rules.always]
target = "a"
above = -1e9
quantile = 0.4
for = 1
min_rows = 1
"""


class Pair(NodeProcesses):
    """The nodes `a` and `b`, each with a repository of its own."""

    def find_engines(self, name: str) -> Path:
        return self.folder / f"engines-{name}"

    def make_settings(self, name: str) -> dict[str, str]:
        return {**super().make_settings(name), "STREAMD_ENGINES": str(self.find_engines(name))}

    @property
    def both(self) -> list[DaemonProcess]:
        return [self.nodes[name] for name in "ab"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "config.toml").write_text(RULES, encoding="utf-8")
    with run_nats(folder) as nats:
        nodes = Pair(folder, nats, SHARDS, SETTINGS, "--config", str(folder / "config.toml"))
        try:
            for name in "ab":
                nodes.find_engines(name).mkdir()
                make_both(nodes.find_engines(name))
            nodes.await_shared("a", "b")
            yield nodes
        finally:
            nodes.end()


def list_alerts(node: DaemonProcess, state: str = "firing") -> dict[str, dict[str, Any]]:
    """Return alerts by server, without what depends on the moment of the answer."""
    status, body = node.get(f"/v1/alerts?state={state}&limit=1000")
    assert status == 200, body
    for alert in body["alerts"]:
        del alert["seconds_until"]
    return {alert["server"]: alert for alert in body["alerts"]}


# ---------------------------------------------------------------- versions
def test_a_promotion_at_one_node_is_served_by_both_when_it_is_answered(pair: Pair) -> None:
    a, b = pair.both
    status, answer = promote(a, CALENDAR, who="ann", why="a test")
    assert status == 200, answer
    assert (answer["engine"], answer["before"]) == (CALENDAR, WINDOW)
    assert [(each["node"], each["serving"], each["state"]) for each in answer["nodes"]] == [
        ("a", CALENDAR, "switched"),
        ("b", CALENDAR, "switched"),
    ]
    assert [read_serving(node) for node in (a, b)] == [CALENDAR, CALENDAR]
    assert predict(b) == CALENDAR
    for node in (a, b):
        assert list_versions(node)["history"][0]["who"] == "ann"
    cluster = list_versions(b)["cluster"]
    assert (cluster["serving"], cluster["change"]["kind"], cluster["change"]["node"]) == (CALENDAR, "promote", "a")


def test_a_reload_at_one_node_keeps_the_version_of_the_cluster(pair: Pair) -> None:
    _, b = pair.both
    (pair.find_engines("b") / "promoted.json").unlink()  # alone, it would serve the newest one
    b.signal(signal.SIGHUP)
    wait_until(lambda: b.get("/v1/status")[1]["reload"]["state"] == "serving", "it has reloaded")
    assert read_serving(b) == CALENDAR


def test_a_rollback_at_the_other_node_is_served_by_both(pair: Pair) -> None:
    a, b = pair.both
    status, answer = roll_back(b, who="ann", why="worse")
    assert (status, answer["engine"], answer["before"]) == (200, WINDOW, CALENDAR)
    assert [read_serving(node) for node in (a, b)] == [WINDOW, WINDOW]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: shutil.rmtree(folder), "no engine version"),
        (lambda folder: make_version(folder.parent, folder.name, "decoder_cont"), "another network"),
    ],
)
def test_a_node_that_has_not_the_same_files_stops_the_change_for_both(
    pair: Pair, damage: Callable[[Path], object], reason: str
) -> None:
    a, b = pair.both
    third = "third_20260103_000000"
    for name in "ab":
        shutil.rmtree(pair.find_engines(name) / third, ignore_errors=True)
        make_version(pair.find_engines(name), third, "encoder_cont")
    folder = pair.find_engines("b") / third
    if reason == "another network":
        shutil.rmtree(folder)
    damage(folder)
    status, answer = promote(a, third)
    assert (status, answer["code"]) == (409, "reload_refused")
    assert answer["message"].startswith("nothing was changed at any node: b: ")
    assert reason in answer["message"]
    assert [read_serving(node) for node in (a, b)] == [WINDOW, WINDOW]
    for name in "ab":
        shutil.rmtree(pair.find_engines(name) / third, ignore_errors=True)


def test_a_candidate_is_tried_by_both(pair: Pair) -> None:
    a, b = pair.both
    status, answer = start_candidate(a, CALENDAR, share=0.5)
    assert status == 200, answer
    for node in (a, b):
        assert node.get("/v1/status")[1]["candidate"]["share"] == 0.5
    assert b.call("DELETE", "/v1/engines/candidate", **AUTHORIZED) == (200, {"ended": CALENDAR})
    for node in (a, b):
        assert node.get("/v1/status")[1]["candidate"] is None


# ---------------------------------------------------------------- alerts
def test_both_nodes_show_the_alerts_of_all_servers(pair: Pair) -> None:
    a, b = pair.both
    samples = [each for number in SERVERS for each in samples_of(number, range(FIRST_STEP, FIRST_STEP + 4))]
    assert a.call("POST", "/v1/samples", {"samples": samples})[1]["rejected"] == 0
    for node in (a, b):
        wait_until(lambda node=node: len(list_alerts(node)) == len(SERVERS), "all alerts fire")  # type: ignore[misc]
    assert list_alerts(a) == list_alerts(b)


def test_a_silence_of_one_node_holds_at_both(pair: Pair) -> None:
    a, b = pair.both
    wanted = {"servers": ["s1"], "seconds": 3_600, "why": "a test"}
    status, begun = b.call("POST", "/v1/silences", wanted, **AUTHORIZED)
    assert status == 201
    wait_until(lambda: a.get("/v1/silences")[1] == {"silences": [begun["silence"]]}, "the other node has it")
    for node in (a, b):
        wait_until(
            lambda node=node: list_alerts(node)["s1"]["silenced_until"] is not None,  # type: ignore[misc]
            "the alert is marked",
        )


def test_alerts_go_on_when_their_node_is_killed_and_one_that_joins_serves_the_same(pair: Pair) -> None:
    a, b = pair.both
    assert promote(a, CALENDAR)[0] == 200
    before = {name: each["starts_at"] for name, each in list_alerts(a).items()}
    b.signal(signal.SIGKILL)
    pair.drop("b").end()
    pair.await_shared("a")
    samples = [each for number in SERVERS for each in samples_of(number, [FIRST_STEP + 4])]
    assert a.call("POST", "/v1/samples", {"samples": samples})[1]["rejected"] == 0
    newest = (FIRST_STEP + 5) * 60
    wait_until(lambda: {each["origin"] for each in list_alerts(a).values()} == {newest}, "it evaluates all")
    assert list_alerts(a, "resolved") == {}
    # 2. A node that comes back with an older record serves what the cluster does before it owns anything.
    (pair.find_engines("b") / "promoted.json").unlink()
    pair.await_shared("a", "b")
    assert [read_serving(node) for node in pair.both] == [CALENDAR, CALENDAR]
    # What is only refreshed comes a few seconds later to nodes that do not own the server.
    for node in pair.both:
        assert {name: each["starts_at"] for name, each in list_alerts(node).items()} == before
