"""Tests `streamd/http/documents/routes.py`: the documents are served to every caller, and once only."""

import pytest

from streamd.http.access.rules import ROUTE_RULES
from streamd.http.documents.asyncapi import make_asyncapi
from streamd.http.documents.openapi import make_openapi
from tests.http.conftest import Start
from tests.support.access_drivers import EVERYTHING, NotedChanges
from tests.support.access_tokens import make_access_list
from tests.support.http_harness import CONTRACT, JSON, HttpDaemon, HttpDaemonSettings

PATHS = {"/openapi.json": make_openapi, "/asyncapi.json": make_asyncapi}


@pytest.mark.parametrize("path", PATHS)
async def test_a_document_describes_the_daemon_that_serves_it(daemon: HttpDaemon, path: str) -> None:
    reply = await daemon.get(path)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == JSON
    assert reply.body == PATHS[path](CONTRACT, ROUTE_RULES)


@pytest.mark.parametrize("path", PATHS)
async def test_a_document_needs_no_token(start: Start, path: str) -> None:
    daemon = await start(HttpDaemonSettings(access=make_access_list(EVERYTHING)))
    reply = await daemon.get(path)
    assert reply.status == 200
    assert EVERYTHING.secret.encode() not in reply.data


@pytest.mark.parametrize("path", PATHS)
async def test_a_caller_who_has_the_document_gets_none(daemon: HttpDaemon, path: str) -> None:
    tag = (await daemon.get(path)).headers["Etag"]
    for known in (tag, f'"other", {tag}', "*"):
        reply = await daemon.call("GET", path, headers={"If-None-Match": known})
        assert (reply.status, reply.data, reply.headers["Etag"]) == (304, b"", tag)
    assert (await daemon.call("GET", path, headers={"If-None-Match": '"other"'})).status == 200


async def test_the_routes_that_change_versions_are_described_where_they_are(start: Start) -> None:
    assert "/v1/engines/promote" not in (await (await start(HttpDaemonSettings())).get("/openapi.json")).body["paths"]
    daemon = await start(HttpDaemonSettings(engines=NotedChanges()))
    assert "/v1/engines/promote" in (await daemon.get("/openapi.json")).body["paths"]
