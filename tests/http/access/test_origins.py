"""Tests `streamd/http/access/origins.py`: pages of other sites, and names that point here, are refused."""

import itertools
import socket

import pytest
from aiohttp import WSServerHandshakeError

from streamd.http.access.origins import OriginPolicy
from tests.http.conftest import Start
from tests.support.access_drivers import DRIVERS, NotedChanges
from tests.support.access_tokens import grant_all, make_access_list, make_test_token
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings

TOKEN = make_test_token("any", grant_all())


OWN_HOSTS = [
    *(
        "localhost",
        "LOCALHOST:8002",
        "127.0.0.1",
        "[::1]:8002",
        "10.1.2.3:80",
        socket.gethostname(),
        "streamd.example:1",
    ),
]
"""Addresses, names of this machine, and a name of the settings."""


async def test_addresses_and_own_names_are_answered(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(origins=OriginPolicy(["Streamd.example"])))
    for host in OWN_HOSTS:
        assert (await daemon.call("GET", "/v1/status", headers={"Host": host})).status == 200


OTHER_HOSTS = [
    "evil.example",
    "localhost#evil.example",
    "localhost.evil.example:8002",
    "127.0.0.1.evil.example",
    "",
    "a b",
]


async def test_another_name_is_misdirected_unless_a_token_is_needed(start: Start) -> None:
    daemon = await start(HttpDaemonSettings())
    for host, path in itertools.product(OTHER_HOSTS, ("/v1/status", "/healthz", "/nowhere")):
        reply = await daemon.call("GET", path, headers={"Host": host})
        assert (reply.status, reply.code) == (421, "wrong_host")
        assert "allowed_hosts" in reply.body["message"]
    guarded = await start(HttpDaemonSettings(access=make_access_list(TOKEN)))
    for host in OTHER_HOSTS:
        reply = await guarded.call("GET", "/v1/status", headers={"Host": host, **TOKEN.headers})
        assert reply.status == 200


FOREIGN_ORIGINS = ["http://evil.example", "null", "https://{own}", "http://127.0.0.1:1", "http://127.0.0.1", "file://"]
"""The origins of pages of other sites; `{own}` is the address of the daemon."""


async def test_no_route_serves_a_page_of_another_site(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(access=make_access_list(TOKEN), engines=NotedChanges()))
    for origin, (key, drive) in itertools.product(FOREIGN_ORIGINS, DRIVERS.items()):
        headers = {**TOKEN.headers, "Origin": origin.format(own=daemon.url.partition("//")[2])}
        outcome = await drive(daemon, headers, "web-01")
        assert outcome.status == 403, key
        assert not [name for name in outcome.headers if name.lower().startswith("access-control")]
    assert not len(daemon.service.state.directory)


@pytest.mark.parametrize("path", ["/v1/ingest", "/v1/forecasts", "/telegraf"])
async def test_the_sockets_of_an_open_daemon_refuse_pages_of_other_sites(daemon: HttpDaemon, path: str) -> None:
    with pytest.raises(WSServerHandshakeError) as caught:
        await daemon.session.ws_connect(daemon.url + path, origin="http://evil.example")
    assert caught.value.status == 403
    async with daemon.session.ws_connect(daemon.url + path, origin=daemon.url):
        pass


async def test_own_pages_and_allowed_sites_are_served_without_cors(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(origins=OriginPolicy([], ["https://Dashboards.example", "http://a:81/"])))
    for origin in (daemon.url, "https://dashboards.example", "https://dashboards.example:443", "http://a:81"):
        reply = await daemon.call("GET", "/v1/status", headers={"Origin": origin})
        assert reply.status == 200
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]
    preflight = {"Origin": "https://dashboards.example", "Access-Control-Request-Method": "POST"}
    assert (await daemon.call("OPTIONS", "/v1/samples", headers=preflight)).status == 405


async def test_a_default_port_may_be_left_out(start: Start) -> None:
    daemon = await start(HttpDaemonSettings())
    headers = {"Host": "localhost", "Origin": "http://localhost:80"}
    assert (await daemon.call("GET", "/v1/status", headers=headers)).status == 200
