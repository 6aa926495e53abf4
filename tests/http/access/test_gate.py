"""Tests `streamd/http/access/gate.py`: tokens that hold, their limits, and secrets that stay secret."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from streamd.core.access.access_list import AccessList
from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import UnauthorizedError
from streamd.rule_sets import list_rule_sets, load_rule_set
from tests.http.conftest import Start
from tests.support.access_drivers import DRIVERS, INGESTING, PUBLIC, NotedChanges
from tests.support.access_tokens import ALL, TestToken, grant_all, make_access_list, make_test_token
from tests.support.agent_bodies import make_agent_request
from tests.support.http_harness import (
    AS_ADMIN,
    JSON,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    Reply,
    at,
    make_question,
    make_rows,
    make_sample,
    pack,
)

TOKEN = make_test_token("any", grant_all())


async def start_with(start: Start, *tokens: TestToken, **settings: Any) -> HttpDaemon:
    rule_sets = [load_rule_set(name) for name in list_rule_sets()]
    return await start(HttpDaemonSettings(access=make_access_list(*tokens), rule_sets=rule_sets, **settings))


async def send(daemon: HttpDaemon, token: TestToken, samples: Sequence[Any]) -> Reply:
    return await daemon.post_bytes("/v1/samples", pack({"samples": samples}, JSON), **token.headers)


# ---------------------------------------------------------------- tokens
async def test_an_open_daemon_ignores_tokens_that_it_does_not_know(daemon: HttpDaemon) -> None:
    for value in ("Token any", "Bearer x", f"Basic {base64.b64encode(b'a:b').decode()}", "Digest x", "Bearer"):
        reply = await daemon.call("POST", "/write?db=x&u=a&p=b", b"", {"Authorization": value})
        assert reply.status == 204, value


async def test_an_open_daemon_administrates_only_with_the_admin_token(daemon: HttpDaemon, start: Start) -> None:
    await daemon.accept([make_sample("web-01", 0)])
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "nonsense"}):
        reply = await daemon.call("DELETE", "/v1/servers/web-01", headers=headers)
        assert (reply.status, reply.code) == (401, "unauthorized")
    assert (await daemon.call("DELETE", "/v1/servers/web-01", headers=AS_ADMIN)).status == 204
    without = await start(HttpDaemonSettings(admin_token=""))
    reply = await without.call("DELETE", "/v1/servers/web-01", headers=AS_ADMIN)
    assert (reply.status, reply.code) == (403, "forbidden")
    assert "admin_token" in reply.body["message"]


async def test_an_expired_token_is_refused(start: Start) -> None:
    expired = make_test_token("expired", grant_all(), expires=time.time() - 1)
    daemon = await start_with(start, expired, make_test_token("later", grant_all(), expires=time.time() + 1e6))
    reply = await daemon.call("GET", "/v1/servers", headers=expired.headers)
    assert (reply.status, reply.code) == (401, "unauthorized")
    later = make_test_token("later", grant_all())
    assert (await daemon.call("GET", "/v1/servers", headers=later.headers)).status == 200


async def test_a_public_route_ignores_a_wrong_token_and_reveals_no_version(start: Start) -> None:
    daemon = await start_with(start, TOKEN)
    daemon.service.engine.shown["passed_over"] = [{"name": "v", "rule": "newest", "reason": "x"}]
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        reply = await daemon.call("GET", "/readyz", headers=headers)
        assert (reply.status, reply.body) == (200, {"status": "ready"})
    assert "passed_over" in (await daemon.call("GET", "/readyz", headers=TOKEN.headers)).body


async def test_an_unknown_path_is_unknown_to_every_caller(start: Start) -> None:
    daemon = await start_with(start, TOKEN)
    assert (await daemon.get("/nowhere")).status == 404
    assert (await daemon.call("PUT", "/v1/samples")).status == 405


# ---------------------------------------------------------------- limits of a token
async def test_a_sender_beyond_its_rows_is_refused_before_its_body_and_told_how_long_to_wait(start: Start) -> None:
    slow = make_test_token("slow", grant_all(), rows_per_second=2)
    daemon = await start_with(start, slow, TOKEN)
    assert (await send(daemon, slow, make_rows("web-01", 1, range(40)))).status == 200  # 20 in advance, 20 of debt
    refused = await daemon.call("POST", "/v1/samples", b"not even JSON", slow.headers)
    assert (refused.status, refused.code) == (429, "rate_limited")
    assert 5 <= int(refused.headers["Retry-After"]) <= 11, "21 rows at 2 a second, less the time that has passed"
    for path in ("/write", "/api/v1/write", "/v1/metrics", "/api/put", "/telegraf"):
        reply = await daemon.call("POST", path, b"", slow.headers)
        assert reply.status == 503, "a sender such as Prometheus drops its data on 429"
        assert int(reply.headers["Retry-After"]) >= 5
    assert (await send(daemon, TOKEN, make_rows("web-02", 1, [0]))).status == 200, "others are not held back"
    assert (await daemon.call("GET", "/v1/servers", headers=slow.headers)).status == 200


async def test_the_rows_of_agents_are_charged(start: Start) -> None:
    paths = [path for method, path in INGESTING if method == "POST" and path != "/v1/samples"]
    tokens = [make_test_token(f"slow-{number}", grant_all(), rows_per_second=0.001) for number in range(len(paths))]
    daemon = await start_with(start, *tokens)
    for path, token in zip(paths, tokens, strict=True):
        data, headers = make_agent_request(path, "web-01", at(0))
        answers = [await daemon.call("POST", path, data, {**headers, **token.headers}) for _ in range(2)]
        assert [answer.status for answer in answers] in ([200, 503], [204, 503]), path  # one row in advance


async def test_a_socket_beyond_its_rows_is_not_read_until_it_may_send_again(start: Start) -> None:
    slow = make_test_token("slow", grant_all(), rows_per_second=20)
    daemon = await start_with(start, slow)
    async with daemon.session.ws_connect(daemon.url + "/v1/ingest", headers=slow.headers) as socket:
        frame = json.dumps({"samples": make_rows("web-01", 1, range(203))})  # 200 in advance, 3 of debt
        began = time.monotonic()
        await socket.send_str(frame)
        await socket.send_str(json.dumps({"samples": make_rows("web-01", 1, [300])}))
        assert json.loads(await socket.receive_str())["accepted"] == 203
        assert daemon.service.ingest.accepted == 203
        assert json.loads(await socket.receive_str())["accepted"] == 1
        assert time.monotonic() - began > 0.15, "four rows at 20 a second take 0.2 s"


async def test_a_limited_sender_gains_nothing_from_a_new_socket_or_from_a_header(start: Start) -> None:
    slow = make_test_token("slow", grant_all(), rows_per_second=0.001)
    daemon = await start_with(start, slow)
    assert (await send(daemon, slow, make_rows("web-01", 1, range(5)))).status == 200
    for headers in ({}, {"Upgrade": "websocket"}):
        reply = await daemon.call("POST", "/v1/samples", b"not even JSON", {**slow.headers, **headers})
        assert reply.status == 429, headers
    lines = make_agent_request("/telegraf", "web-02", at(0))[0].decode()
    for path, frame in (("/v1/ingest", json.dumps({"samples": make_rows("web-02", 1, [9])})), ("/telegraf", lines)):
        socket = await daemon.session.ws_connect(daemon.url + path, headers=slow.headers)
        await socket.send_str(frame)
        for _ in range(10):
            await daemon.get("/healthz")  # meanwhile the frame would be taken
        assert set(daemon.service.state.directory.slots) == {"web-01"}, path
        connection = socket._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()


async def test_rows_that_other_bodies_took_while_a_body_arrived_count(start: Start) -> None:
    slow = make_test_token("slow", grant_all(), rows_per_second=2)
    daemon = await start_with(start, slow)

    async def send_late() -> AsyncIterator[bytes]:
        assert (await send(daemon, slow, make_rows("web-01", 1, range(40)))).status == 200
        yield json.dumps({"samples": make_rows("web-01", 1, [50])}).encode()

    headers = {**slow.headers, "Content-Type": JSON}
    url = daemon.url + "/v1/samples"
    async with daemon.session.post(url, data=send_late(), headers=headers, expect100=True) as response:
        assert response.status == 429
    assert daemon.service.ingest.accepted == 40


async def test_a_held_back_sender_that_leaves_frees_its_place(start: Start) -> None:
    slow = make_test_token("slow", grant_all(), rows_per_second=0.001)
    access = make_access_list(slow)
    (caller,) = access.callers
    daemon = await start(HttpDaemonSettings(access=access))
    socket = await daemon.session.ws_connect(daemon.url + "/v1/ingest", headers=slow.headers)
    await socket.send_str(json.dumps({"samples": make_rows("web-01", 1, range(5))}))
    assert json.loads(await socket.receive_str())["accepted"] == 5
    assert caller.usage.sockets == 1
    connection = socket._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.abort()
    while caller.usage.sockets:
        await asyncio.sleep(0)


async def test_a_token_opens_as_many_sockets_as_it_may(start: Start) -> None:
    few = make_test_token("few", grant_all(), max_sockets=2)
    daemon = await start_with(start, few, TOKEN)
    async with (
        daemon.session.ws_connect(daemon.url + "/v1/forecasts", headers=few.headers),
        daemon.session.get(daemon.url + "/v1/forecasts/stream", headers=few.headers) as stream,
    ):
        assert stream.status == 200
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await daemon.session.ws_connect(daemon.url + "/v1/ingest", headers=few.headers)
        assert caught.value.status == 429
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await daemon.session.ws_connect(daemon.url + "/telegraf", headers=few.headers)
        assert caught.value.status == 503
        metrics = (await daemon.call("GET", "/metrics", headers=TOKEN.headers)).data.decode()
        assert 'streamd_token_sockets{token="few"} 2.0\n' in metrics
        assert 'streamd_token_limited_total{token="few"} 2.0\n' in metrics
        async with daemon.session.ws_connect(daemon.url + "/v1/ingest", headers=TOKEN.headers):
            pass
    while daemon.http_app.sockets:
        await asyncio.sleep(0)
    async with daemon.session.ws_connect(daemon.url + "/v1/ingest", headers=few.headers):
        pass


async def test_a_token_writes_as_many_servers_as_it_may(start: Start) -> None:
    two = make_test_token("two", grant_all(), max_servers=2)
    daemon = await start_with(start, two, TOKEN)
    reply = await send(daemon, two, [make_sample(server, 0) for server in ("a", "b", "c", "a")])
    assert (reply.body["accepted"], [error["code"] for error in reply.body["errors"]]) == (3, ["too_many_servers"])
    data, headers = make_agent_request("/collectd", "d", at(1))
    reply = await daemon.call("POST", "/collectd", data, {**headers, **two.headers})
    assert (reply.status, [error["code"] for error in reply.body["errors"]]) == (200, ["too_many_servers"])
    assert set(daemon.service.state.directory.slots) == {"a", "b"}
    # 2. A server that is forgotten frees its place, and a sample that leaves no server takes none.
    assert (await daemon.call("DELETE", "/v1/servers/a", headers=TOKEN.headers)).status == 204
    far = make_sample("e", 0)
    assert (await send(daemon, two, [{**far, "time": time.time() + 1e6}])).body["errors"][0]["code"] == "too_far_ahead"
    data, headers = make_agent_request("/collectd", "f", int(time.time() + 1e6))
    assert (await daemon.call("POST", "/collectd", data, {**headers, **two.headers})).body["rejected"] == 1
    data, headers = make_agent_request("/collectd", "d", at(1))
    assert (await daemon.call("POST", "/collectd", data, {**headers, **two.headers})).body["taken"] == 1
    assert set(daemon.service.state.directory.slots) == {"b", "d"}


# ---------------------------------------------------------------- tokens that are gone
async def test_a_revoked_token_ends_its_sockets_and_streams_and_no_others(start: Start) -> None:
    access = make_access_list(TOKEN, make_test_token("kept", grant_all()))
    kept = make_test_token("kept", grant_all())
    daemon = await start(HttpDaemonSettings(access=access))
    sockets = [
        await daemon.session.ws_connect(daemon.url + path, headers=TOKEN.headers)
        for path in ("/v1/ingest", "/v1/forecasts?servers=*", "/telegraf")
    ]
    other = await daemon.session.ws_connect(daemon.url + "/v1/ingest", headers=kept.headers)
    async with daemon.session.get(daemon.url + "/v1/forecasts/stream", headers=TOKEN.headers) as stream:
        assert access.replace([kept.record])
        daemon.http_app.sockets.end_revoked()
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.content.read()
    for socket in sockets:
        while (frame := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
        assert (frame.type, frame.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.POLICY_VIOLATION)
    while len(daemon.http_app.sockets) > 1:
        await asyncio.sleep(0)
    await other.send_str(json.dumps({"samples": [make_sample("web-01", 0)]}))
    assert json.loads(await other.receive_str())["accepted"] == 1
    await other.close()
    assert (await daemon.call("GET", "/v1/servers", headers=TOKEN.headers)).status == 401


def offer(token: TestToken) -> list[str]:
    """Return the protocols with which a page opens a WebSocket."""
    return ["streamd", f"streamd.token.{token.token}"]


async def test_a_page_opens_a_socket_by_a_protocol_within_the_limits_of_its_token(start: Start) -> None:
    few = make_test_token("few", {Scope.SUBSCRIBE: ALL}, max_sockets=1)
    access = make_access_list(few)
    daemon = await start(HttpDaemonSettings(access=access))
    url = daemon.url + "/v1/forecasts?servers=*"
    socket = await daemon.session.ws_connect(url, protocols=offer(few))
    assert socket.protocol == "streamd"
    assert json.loads(await socket.receive_str())["type"] == "subscribed"
    # 1. Its limits and its scopes hold.
    for path, status in (("/v1/forecasts", 429), ("/v1/ingest", 403)):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await daemon.session.ws_connect(daemon.url + path, protocols=offer(few))
        assert caught.value.status == status
    # 2. Another call reads no protocols, also if it claims to open a socket.
    headers = {"Sec-WebSocket-Protocol": ", ".join(offer(few)), "Upgrade": "websocket"}
    assert (await daemon.call("GET", "/v1/forecasts/stream", headers=headers)).status == 401
    # 3. Once the token is revoked, the socket ends.
    access.replace([])
    daemon.http_app.sockets.end_revoked()
    frame = await socket.receive()
    assert (frame.type, frame.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.POLICY_VIOLATION)


async def test_a_revoked_subscriber_gets_no_further_forecast(start: Start) -> None:
    access = make_access_list(TOKEN)
    daemon = await start(HttpDaemonSettings(access=access))
    async with daemon.session.ws_connect(daemon.url + "/v1/forecasts?servers=*", headers=TOKEN.headers) as socket:
        assert json.loads(await socket.receive_str())["type"] == "subscribed"
        access.replace([])
        daemon.http_app.sockets.end_revoked()
        await daemon.service.ingest.take_samples(iter([]))
        await daemon.service.pipeline.wait_idle()
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_a_body_that_is_complete_after_its_token_was_revoked_does_nothing(start: Start) -> None:
    changes = NotedChanges()
    for method, path in (("POST", "/v1/engines/promote"), ("POST", "/v1/samples"), ("POST", "/v1/predict")):
        access = make_access_list(TOKEN)
        daemon = await start(HttpDaemonSettings(access=access, engines=changes))

        async def send_late(access: AccessList = access) -> AsyncIterator[bytes]:
            access.replace([])
            yield b'{"version": "v"}'

        headers = {**TOKEN.headers, "Content-Type": JSON}
        async with daemon.session.request(
            method, daemon.url + path, data=send_late(), headers=headers, expect100=True
        ) as response:
            assert (response.status, (await response.json())["code"]) == (401, "unauthorized"), path
    assert changes.calls == []


async def test_a_request_in_flight_is_answered_though_its_token_is_revoked(start: Start) -> None:
    access = make_access_list(TOKEN)
    daemon = await start(HttpDaemonSettings(access=access, lanes=1))
    daemon.backend.script.hold = True
    headers = {**TOKEN.headers, "Content-Type": "application/msgpack"}
    call = asyncio.create_task(
        daemon.call("POST", "/v1/predict", pack(make_question(1.0), "application/msgpack"), headers)
    )
    while not daemon.service.pipeline.in_flight:
        await asyncio.sleep(0)
    access.replace([])
    daemon.http_app.sockets.end_revoked()
    daemon.release_lanes()
    assert (await call).status == 200


# ---------------------------------------------------------------- secrets
def list_misplaced(secret: str) -> list[tuple[str, dict[str, str]]]:
    """Return queries and headers that carry a secret in a wrong way."""
    encoded = base64.b64encode(secret.encode()).decode()
    values = [f"Bearer {secret}", secret, f"Digest {secret}", f"Basic {encoded}", f"Basic {secret}"]
    queries = [f"token={secret}", f"db=x&u=a&p={secret}"]
    return [(query, {}) for query in queries] + [("", {"Authorization": value}) for value in values]


async def test_no_answer_and_no_line_of_the_log_repeats_a_secret(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "streamd_0123456789ab_" + "5ec2e7" * 10 + "5ec2"
    hidden = (secret, base64.b64encode(secret.encode()).decode())
    daemon = await start_with(start, TOKEN, engines=NotedChanges())
    seen: list[str] = []
    with capture_logs() as logs:
        for method, path in DRIVERS:
            for query, headers in list_misplaced(secret):
                target = f"{path.format(server='web-01', model='streamd', version='v', name='x', id='0')}?{query}"
                reply = await daemon.call(method, target, b"{" if method == "POST" else None, headers)
                assert reply.status == 401 or (method, path) in PUBLIC, (method, target, reply.status)
                seen.append(str(reply.data) + str(reply.headers))
        for path in ("/v1/status", "/metrics", "/v1/servers"):
            reply = await daemon.call("GET", path, headers=TOKEN.headers)
            seen.append(str(reply.data) + str(reply.headers))
    seen += [str(logs), caplog.text]
    assert len(logs) > 10, "refused actions are logged"
    for text in seen:
        assert not [each for each in (*hidden, TOKEN.secret, TOKEN.record.sha256) if each in text]


async def test_no_answer_and_no_line_of_the_log_repeats_a_token_among_the_protocols(
    start: Start, daemon: HttpDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    guarded = await start_with(start, TOKEN)
    seen: list[str] = []
    with capture_logs() as logs:
        for path in ("/v1/forecasts", "/v1/ingest", "/telegraf"):
            for each in (guarded, daemon):  # an open daemon ignores a token that it does not know
                for offered in ([f"streamd.token.{TOKEN.token}x"], ["other", f"streamd.token.{TOKEN.token}"]):
                    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                        await each.session.ws_connect(each.url + path, protocols=offered)
                    assert caught.value.status == 401
                    seen.append(str(caught.value.headers) + caught.value.message)
            async with guarded.session.ws_connect(guarded.url + path, protocols=offer(TOKEN)) as socket:
                assert socket.protocol == "streamd"
                seen.append(str(socket._response.headers))
    for text in [*seen, str(logs), caplog.text]:
        assert TOKEN.secret not in text


async def test_a_defect_while_a_secret_is_there_does_not_log_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await start_with(start, TOKEN)

    def fail(*_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr("streamd.http.routes.health.describe_status", fail)
    with capture_logs() as logs:
        reply = await daemon.call("GET", "/v1/status?token=hunter2", headers=TOKEN.headers)
    assert reply.status == 500
    assert TOKEN.secret not in str(logs) + str(reply.data)
    assert "hunter2" not in str(logs) + str(reply.data)


# ---------------------------------------------------------------- the forms of foreign protocols
async def test_agents_are_refused_in_their_own_form(start: Start) -> None:
    daemon = await start_with(start, TOKEN, make_test_token("reader", {Scope.READ: ALL}))
    reader = make_test_token("reader", {Scope.READ: ALL})
    for headers, status in (({}, 401), (reader.headers, 403)):
        influx = await daemon.call("POST", "/api/v2/write", b"", headers)
        assert (influx.status, influx.body["code"]) == (status, {401: "unauthorized", 403: "forbidden"}[status])
        assert influx.headers["X-Influxdb-Error"]
        remote_write = await daemon.call("POST", "/api/v1/write", b"", headers)
        assert (remote_write.status, remote_write.headers["Content-Type"]) == (status, "text/plain; charset=utf-8")
        otlp = await daemon.call("POST", "/v1/metrics", b"", {**headers, "Content-Type": JSON})
        assert (otlp.status, otlp.body["code"]) == (status, {401: 16, 403: 7}[status])
        put = await daemon.call("POST", "/api/put", b"", headers)
        assert (put.status, put.body["error"]["code"]) == (status, status)


async def test_a_caller_that_is_not_known_to_the_gate_reaches_nothing() -> None:
    access = AccessList([])
    with pytest.raises(UnauthorizedError):
        access.identify(None, (), time.time())
    with pytest.raises(UnauthorizedError):
        Caller("unidentified", {}, is_anonymous=True).require(Scope.READ)


async def test_forecasts_are_resumed_only_for_servers_that_may_be_seen(start: Start) -> None:
    some = make_test_token("some", grant_all(["web-*"]))
    daemon = await start_with(start, some, TOKEN)
    rows = [row for server in ("db-01", "db-02", "web-01") for row in make_rows(server, 1, range(NEED))]
    assert (await send(daemon, TOKEN, rows)).status == 200
    await daemon.service.pipeline.wait_idle()
    headers = {**some.headers, "Last-Event-ID": "0"}
    async with daemon.session.get(daemon.url + "/v1/forecasts/stream", headers=headers) as stream:
        received = b""
        while b"\n\n" not in received:
            received += await stream.content.readany()
    assert b"web-01" in received
    assert b"db-" not in received
    assert b"lagged" not in received
