"""Tests `streamd/server/cluster/part.py`: two daemons share a fleet over a real server of NATS.

Each begins with both nodes, started again if a test before has ended them; their servers stay.
"""

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from streamd.client import Client, ServerForecast
from streamd.core.cluster.shards import find_shard
from tests.support.daemon_process import NEED, make_small_settings, make_whole_rows, run_command
from tests.support.nats_servers import needs_nats_server, run_nats
from tests.support.node_processes import PATIENCE_SECONDS, NodeProcesses, wait_until

pytestmark = needs_nats_server

DOCUMENT = Path(__file__).parents[2] / "docs" / "cluster.md"
SHARDS = 4
SERVERS = [f"web-{number}" for number in range(8)]
ADMIN_TOKEN = "an-administrator-of-this-test"


class TwoNodes(NodeProcesses):
    """The nodes `a` and `b`, by name; their user of NATS may do what the document says, and no more."""

    @property
    def url(self) -> str:
        """The URL of NATS, with the login of a node."""
        [url] = self.nats.urls
        return url.replace("//", "//node:a-password@")

    def make_settings(self, name: str) -> dict[str, str]:
        return super().make_settings(name) | {"STREAMD_NATS": self.url}

    def read_windows(self, name: str) -> dict[str, Any]:
        return {server: self.nodes[name].get(f"/v1/servers/{server}")[1] for server in SERVERS}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    folder = tmp_path_factory.mktemp("two")
    with run_nats(folder, settings=read_documented_accounts()) as nats:
        nodes = TwoNodes(folder, nats, SHARDS, {"STREAMD_ADMIN_TOKEN": ADMIN_TOKEN})
        try:
            nodes.await_shared("a", "b")
            for name, steps in (("a", range(NEED // 2)), ("b", range(NEED // 2, NEED))):
                status, body = nodes.nodes[name].call("POST", "/v1/samples", {"samples": make_samples(steps)})
                assert (status, body["rejected"]) == (200, 0)
            yield nodes
        finally:
            nodes.end()


def read_documented_accounts() -> str:
    """Return the accounts of `nats.conf` that the document of clusters gives."""
    blocks = re.findall(r"```text\n(accounts .*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    [accounts] = [re.sub(r"\$[A-Z_]+PASSWORD", "a-password", block) for block in blocks]
    return accounts


def make_samples(steps: range) -> list[dict[str, Any]]:
    features = ("cpu_user", "mem_used", "net_in")
    return [row for server in SERVERS for row in make_whole_rows(server, list(steps), features)]


def test_two_nodes_share_the_shards(two: TwoNodes) -> None:
    two.await_shared("a", "b")
    cluster = two.read_cluster("a")
    assert cluster["unowned"] == []
    assert [node["node"] for node in cluster["nodes"]] == ["a", "b"]
    assert two.nodes["b"].get("/readyz")[0] == 200


def test_samples_of_any_node_are_forecast_and_each_node_answers_for_every_server(two: TwoNodes) -> None:
    assert len({find_shard(server, SHARDS) for server in SERVERS}) == SHARDS
    for server in SERVERS:
        for node in two.nodes.values():
            path = f"/v1/forecasts/{server}"
            wait_until(lambda node=node, path=path: node.get(path)[1].get("type") == "forecast", path)  # type: ignore[misc]
    a, b = (two.nodes[name] for name in "ab")
    assert [each["server"] for each in a.get("/v1/servers")[1]["servers"]] == SERVERS
    assert a.get("/v1/servers") == b.get("/v1/servers")
    assert two.read_windows("a") == two.read_windows("b")


def test_a_server_is_forgotten_from_any_node(two: TwoNodes) -> None:
    extra = {"server": "extra", "time": 1_700_000_100, "values": {"cpu_user": 1.0}}
    assert two.nodes["a"].call("POST", "/v1/samples", {"samples": [extra]})[0] == 200
    wait_until(lambda: two.nodes["b"].get("/v1/servers/extra")[0] == 200, "its owner has the row")
    token = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    assert two.nodes["b"].call("DELETE", "/v1/servers/extra", **token)[0] == 204
    for node in two.nodes.values():
        assert node.get("/v1/servers/extra")[0] == 404
    assert two.nodes["a"].call("DELETE", "/v1/servers/extra", **token)[0] == 404


def test_the_command_shows_the_nodes(two: TwoNodes) -> None:
    two.await_shared("a", "b")
    url = two.url
    shown = run_command("cluster", "status", "--cluster", url, "--json", cwd=two.folder)
    assert shown.returncode == 0, shown.stderr
    status = json.loads(shown.stdout)
    assert [(node["node"], node["shards"]) for node in status["nodes"]] == [("a", 2), ("b", 2)]
    assert status["unowned"] == []


def test_a_node_that_is_drained_gives_its_shards_away_until_it_is_not(two: TwoNodes) -> None:
    two.await_shared("a", "b")
    url = two.url
    drained = run_command("cluster", "drain", "b", "--cluster", url, cwd=two.folder)
    assert drained.returncode == 0, drained.stderr
    assert two.count_owned() == {"a": SHARDS, "b": 0}
    assert two.nodes["b"].get("/readyz")[1]["degraded"] == ["drained"]
    assert run_command("cluster", "undrain", "b", "--cluster", url, cwd=two.folder).returncode == 0
    two.await_shared("a", "b")


def test_a_second_node_of_a_name_is_refused(two: TwoNodes) -> None:
    given = {**make_small_settings(), **two.make_settings("a")}
    refused = run_command("serve", "--state-dir", str(two.folder / "c"), cwd=two.folder, **given)
    assert refused.returncode == 2
    assert "[cluster] node: another node of the cluster 'streamd' is named 'a'" in refused.stderr


def test_after_the_death_of_a_node_the_other_one_has_its_windows(two: TwoNodes) -> None:
    two.await_shared("a", "b")
    before = two.read_windows("a")
    began = time.monotonic()
    two.nodes["b"].signal(signal.SIGKILL)
    two.drop("b").end()
    two.await_shared("a")
    assert time.monotonic() - began < 8
    assert two.read_windows("a") == before
    status, body = two.nodes["a"].call("POST", "/v1/samples", {"samples": make_samples(range(NEED, NEED + 1))})
    assert (status, body["rejected"]) == (200, 0)
    origin = 1_700_000_100 + 300 * (NEED + 1)
    for server in SERVERS:
        path = f"/v1/forecasts/{server}"
        wait_until(
            lambda path=path: two.nodes["a"].get(path)[1].get("origin") == origin // 300 * 300,  # type: ignore[misc]
            f"{server} is forecast at its new owner",
        )


def test_readers_go_on_at_the_other_node_while_the_first_lives_and_after_its_death(two: TwoNodes) -> None:
    two.await_shared("a", "b")
    asyncio.run(follow_over_a_death(two))


async def follow_over_a_death(two: TwoNodes) -> None:
    """Read with the client of both nodes, and the event stream of one after the other.

    The first node is killed; rows come before that, at the same time, and after it.
    """
    steps = range(NEED + 1, NEED + 4)
    await asyncio.to_thread(send_step, two, steps[0])
    last_id = await read_events(two.nodes["a"].url, 0, steps[0])
    found: dict[str, float] = {}
    addresses = [two.nodes[name].url for name in "ab"]
    async with Client(addresses) as client, client.subscribe(last_event_id=last_id) as events:
        for step in steps[1:]:
            await asyncio.to_thread(send_step, two, step)
            if step == steps[1]:
                last_id = await read_events(two.nodes["b"].url, last_id, step)
                two.nodes["a"].signal(signal.SIGKILL)
                two.drop("a").end()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while any(found.get(server) != make_origin(step) for server in SERVERS):
                    if isinstance(event := await anext(events), ServerForecast):
                        assert found.get(event.server, 0.0) < event.origin, "none comes twice"
                        found[event.server] = event.origin
    await read_events(two.nodes["b"].url, last_id, steps[-1])


async def read_events(url: str, last_id: int, step: int) -> int:
    """Read a stream of events behind an id, until each server has a forecast of this step; returns the last id."""
    origins: dict[str, float] = {}
    headers = {"Last-Event-ID": str(last_id)}
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        aiohttp.ClientSession() as session,
        session.get(f"{url}/v1/forecasts/stream", headers=headers) as stream,
    ):
        async for line in stream.content:
            if line.startswith(b"id:"):
                last_id = int(line[3:])
            elif line.startswith(b"data:"):
                forecast = json.loads(line[5:])
                origins[forecast["server"]] = forecast["origin"]
            if all(origins.get(server) == make_origin(step) for server in SERVERS):
                break
    return last_id


def send_step(two: TwoNodes, step: int) -> None:
    """Send a row of each server to the node `b`."""
    status, body = two.nodes["b"].call("POST", "/v1/samples", {"samples": make_samples(range(step, step + 1))})
    assert (status, body["rejected"]) == (200, 0)


def make_origin(step: int) -> float:
    """Return the origin of a forecast whose newest row is this step."""
    return (1_700_000_100 + 300 * (step + 1)) // 300 * 300


def test_a_node_that_stops_hands_over_all_that_it_has(two: TwoNodes) -> None:
    two.await_shared("a", "b")
    before = two.read_windows("a")
    stopped = two.drop("a")
    stopped.signal(signal.SIGTERM)
    assert stopped.wait() == 0
    assert stopped.lines[-1]["complete"]
    assert "not_handed_over" not in {line["event"] for line in stopped.lines}
    stopped.end()
    two.await_shared("b")
    assert two.read_windows("b") == before


def test_nats_has_refused_nothing_that_a_node_needs(two: TwoNodes) -> None:
    log = (two.folder / "0.log").read_text(encoding="utf-8")
    assert "Violation" not in log
