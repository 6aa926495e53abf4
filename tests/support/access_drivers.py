"""One call of each route for a server, over HTTP or a socket, with the headers of any caller."""

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from streamd.core.alerts.rules import bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from streamd.core.alerts.silences import Silence
from streamd.http.access.rules import ROUTE_RULES, VERSION_RULES, RouteKey
from streamd.http.routes.versions import ChangeReport, VersionList
from tests.support.access_tokens import grant_all, make_test_token
from tests.support.agent_bodies import make_agent_request, make_load_lines
from tests.support.http_harness import (
    JSON,
    MODEL,
    MSGPACK,
    NEED,
    HttpDaemon,
    at,
    make_question,
    make_rows,
    make_sample,
    pack,
)
from tests.support.made_alerts import ServedAlerts, make_alert, make_resolved_alert
from tests.support.open_inference import make_message
from tests.support.predict_inputs import make_inputs
from tests.support.silence_rig import make_silence
from tests.support.small_page import SMALL_SCRIPT

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """The answer to a call: the status of the handshake, and all that was received."""

    status: int
    headers: Headers
    data: bytes


Driver = Callable[[HttpDaemon, Headers, str], Awaitable[Outcome]]
"""Calls a route for a server."""

FIRST_STEP = 100
"""The step of the first row that a driver writes; each later one writes the next step."""

EVERYTHING = make_test_token("everything", grant_all())
"""The token by which the drivers make the daemon forecast; the daemon must know it."""

SEEN = "web-seen"
"""A server whose forecast ends the wait of a driver that subscribes: what is posted before it arrives before it."""


class NotedChanges:
    """A `VersionChanges` that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    async def list_versions(self) -> VersionList:
        return {}

    async def promote(self, version: str, who: str, why: str) -> ChangeReport:
        self.calls.append(("promote", version, who, why))
        return {}

    async def rollback(self, who: str, why: str) -> ChangeReport:
        self.calls.append(("rollback", who, why))
        return {}

    async def start_candidate(self, version: str, share: float, shadow: bool) -> ChangeReport:
        self.calls.append(("start_candidate", version))
        return {}

    async def end_candidate(self) -> ChangeReport:
        self.calls.append(("end_candidate",))
        return {}


_steps = itertools.count(FIRST_STEP)


async def call(daemon: HttpDaemon, headers: Headers, method: str, path: str, data: bytes | None = None) -> Outcome:
    """Call a route; without a body it has no Content-Type."""
    reply = await daemon.call(method, path, data, headers)
    return Outcome(reply.status, reply.headers, reply.data)


# ---------------------------------------------------------------- HTTP
def _get(path: str) -> Driver:
    async def drive(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
        return await call(daemon, headers, "GET", path.replace("{server}", quote(server)))

    return drive


def _delete(path: str) -> Driver:
    async def drive(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
        return await call(daemon, headers, "DELETE", path.replace("{server}", quote(server)))

    return drive


def _post(path: str, message: Any, content_type: str = "application/json") -> Driver:
    async def drive(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
        return await call(daemon, {**headers, "Content-Type": content_type}, "POST", path, pack(message, content_type))

    return drive


async def _post_samples(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
    body = pack({"samples": [make_sample(server, next(_steps))]}, "application/json")
    return await call(daemon, {**headers, "Content-Type": "application/json"}, "POST", "/v1/samples", body)


def _push(path: str) -> Driver:
    async def drive(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
        data, own = make_agent_request(path, server, at(next(_steps)))
        return await call(daemon, {**headers, **own}, "POST", path, data)

    return drive


# ---------------------------------------------------------------- sockets and streams
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
}

Talk = Callable[[HttpDaemon, aiohttp.ClientWebSocketResponse, str], Awaitable[bytes]]
"""Uses an open socket for a server; returns all that was received."""


def _talk(path: str, talk: Talk) -> Driver:
    async def drive(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
        try:
            async with daemon.session.ws_connect(daemon.url + path, headers=headers) as socket:
                return Outcome(101, {}, await talk(daemon, socket, server))
        except aiohttp.WSServerHandshakeError:
            return await call(daemon, {**headers, **UPGRADE}, "GET", path)  # again, for the body of the refusal

    return drive


async def _send_samples(daemon: HttpDaemon, socket: aiohttp.ClientWebSocketResponse, server: str) -> bytes:
    await socket.send_str(json.dumps({"samples": [make_sample(server, next(_steps))]}))
    return str(await socket.receive_str()).encode()


async def _send_lines(daemon: HttpDaemon, socket: aiohttp.ClientWebSocketResponse, server: str) -> bytes:
    """Send lines, and then a frame that cannot be read: only its answer, which is an error, is certain to come."""
    await socket.send_bytes(make_load_lines(server, at(next(_steps))))
    await socket.send_bytes(b"{")
    received = b""
    while b"malformed" not in received:
        received += str(await socket.receive_str()).encode()
    return received


async def _post_forecasts(daemon: HttpDaemon, *servers: str) -> None:
    """Let forecasts of these servers be posted, one after the other."""
    step = next(_steps)
    for server in servers:
        body = pack({"samples": make_rows(server, 7, range(step * 10, step * 10 + NEED))}, JSON)
        assert (await daemon.post_bytes("/v1/samples", body, **EVERYTHING.headers)).body["rejected"] == 0
        await daemon.service.pipeline.wait_idle()


async def _subscribe(daemon: HttpDaemon, socket: aiohttp.ClientWebSocketResponse, server: str) -> bytes:
    await socket.send_str(json.dumps({"type": "subscribe", "servers": ["*"]}))
    assert json.loads(await socket.receive_str())["type"] == "subscribed"
    await _post_forecasts(daemon, server, SEEN)
    received = b""
    while SEEN.encode() not in received:
        received += str(await socket.receive_str()).encode()
    return received


async def _open_stream(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
    url = f"{daemon.url}/v1/forecasts/stream?servers=*&last_event_id=0"
    async with daemon.session.get(url, headers=headers) as response:
        if response.status != 200:
            return Outcome(response.status, dict(response.headers), await response.read())
        posting = asyncio.create_task(_post_forecasts(daemon, server, SEEN))
        received = b""
        while SEEN.encode() not in received:
            received += await response.content.readany()
        await posting
        return Outcome(200, dict(response.headers), received)


def _list_alerts(path: str) -> Driver:
    async def drive(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
        ServedAlerts(daemon.service, make_alert(server=server))
        return await _get(path)(daemon, headers, server)

    return drive


def _list_rules(path: str) -> Driver:
    async def drive(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
        table = {"target": daemon.service.contract.targets[0], "above": 1.0, "servers": [server]}
        rules = bind_alert_rules(AlertSettings(rules={"r": table}), daemon.service.contract)
        ServedAlerts(daemon.service).held.rules += rules
        return await _get(path)(daemon, headers, server)

    return drive


def _silence(server: str) -> Silence:
    return make_silence("s", servers=(server,), ends_at=time.time() + 3_600)


async def _list_silences(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
    ServedAlerts(daemon.service).held.silences.append(_silence(server))
    return await _get("/v1/silences")(daemon, headers, server)


async def _begin_silence(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
    ServedAlerts(daemon.service)
    return await _post("/v1/silences", {"servers": [server], "seconds": 60.0, "why": "a test"})(daemon, headers, server)


async def _end_silence(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
    ServedAlerts(daemon.service).held.silences.append(_silence(server))
    return await _delete("/v1/silences/s")(daemon, headers, server)


async def _open_alert_stream(daemon: HttpDaemon, headers: Headers, server: str) -> Outcome:
    alerts = ServedAlerts(daemon.service, make_alert(server=server))
    async with daemon.session.get(f"{daemon.url}/v1/alerts/stream", headers=headers) as response:
        if response.status != 200:
            return Outcome(response.status, dict(response.headers), await response.read())
        received = b""
        while b'"snapshot":true' not in received:
            received += await response.content.readany()
        alerts.put(make_resolved_alert(server=server), make_alert(server=SEEN))
        while SEEN.encode() not in received:
            received += await response.content.readany()
        return Outcome(200, dict(response.headers), received)


# ---------------------------------------------------------------- all routes
_AGENT_PATHS = [
    *("/api/v1/write", "/receive", "/api/v2/write", "/write", "/telegraf", "/v1/metrics", "/collectd", "/api/put"),
    *("/glances", "/pcp"),
]

INGESTING: dict[RouteKey, Driver] = {
    ("POST", "/v1/samples"): _post_samples,
    ("GET", "/v1/ingest"): _talk("/v1/ingest", _send_samples),
    ("GET", "/telegraf"): _talk("/telegraf", _send_lines),
    **{("POST", path): _push(path) for path in _AGENT_PATHS},
}
"""The routes that write the rows of a server."""

READING: dict[RouteKey, Driver] = {
    ("GET", "/v1/forecasts"): _talk("/v1/forecasts", _subscribe),
    ("GET", "/v1/forecasts/stream"): _open_stream,
    ("GET", "/v1/forecasts/{server}"): _get("/v1/forecasts/{server}"),
    ("GET", "/v1/alerts"): _list_alerts("/v1/alerts"),
    ("GET", "/v1/alerts/stream"): _open_alert_stream,
    ("GET", "/v1/alerts/rules"): _list_rules("/v1/alerts/rules"),
    ("GET", "/v1/silences"): _list_silences,
    ("GET", "/v1/fleet"): _get("/v1/fleet?limit=500"),
    ("GET", "/v1/servers"): _get("/v1/servers?limit=1000"),
    ("GET", "/v1/servers/{server}"): _get("/v1/servers/{server}"),
    ("GET", "/v1/servers/{server}/accuracy"): _get("/v1/servers/{server}/accuracy"),
    ("GET", "/v1/accuracy"): _get("/v1/accuracy?server={server}"),
    ("GET", "/metrics"): _get("/metrics"),
    ("GET", "/metrics/forecasts"): _get("/metrics/forecasts"),
    ("GET", "/v1/status"): _get("/v1/status"),
}
"""The routes that read what servers sent, or what was made of it."""

CHANGING: dict[RouteKey, Driver] = {
    ("DELETE", "/v1/servers"): _delete("/v1/servers?server={server}"),
    ("DELETE", "/v1/servers/{server}"): _delete("/v1/servers/{server}"),
}
"""The routes that change what is stored of a server."""

SILENCING: dict[RouteKey, Driver] = {
    ("POST", "/v1/silences"): _begin_silence,
    ("DELETE", "/v1/silences/{id}"): _end_silence,
}
"""The routes that silence alerts of a server."""

_QUESTION = make_message(make_inputs(1), is_binary=False)[0]


def _list_model_paths(*ends: str) -> Iterator[tuple[str, str]]:
    """Yield routes of a model of the Open Inference Protocol, without and with its version, each with a path of it."""
    for model, shown in (("{model}", "streamd"), ("{model}/versions/{version}", f"streamd/versions/{MODEL}")):
        for end in ends:
            yield f"/v2/models/{model}{end}", f"/v2/models/{shown}{end}"


UNBOUND: dict[RouteKey, Driver] = {
    ("POST", "/v1/predict"): _post("/v1/predict", make_question(1.0), MSGPACK),
    ("POST", "/predict"): _post("/predict", make_question(1.0), MSGPACK),
    ("POST", "/query"): _post("/query?q=CREATE%20DATABASE%20x", {}),
    ("GET", "/v2"): _get("/v2"),
    ("GET", "/v1/engines"): _get("/v1/engines"),
    **{("GET", path): _get(shown) for path, shown in _list_model_paths("", "/config", "/stats")},
    **{("POST", path): _post(shown, _QUESTION) for path, shown in _list_model_paths("/infer")},
}
"""The routes that need a scope and touch no server."""

PROMOTING: dict[RouteKey, Driver] = {
    ("POST", "/v1/engines/promote"): _post("/v1/engines/promote", {"version": "v"}),
    ("POST", "/v1/engines/rollback"): _post("/v1/engines/rollback", {}),
    ("POST", "/v1/engines/candidate"): _post("/v1/engines/candidate", {"version": "v"}),
    ("DELETE", "/v1/engines/candidate"): _delete("/v1/engines/candidate"),
}
"""The routes that change the versions of all servers."""

PUBLIC: dict[RouteKey, Driver] = {
    ("GET", path): _get(path) for path in ("/healthz", "/readyz", "/ping", "/health", "/openapi.json", "/asyncapi.json")
}
PUBLIC |= {("GET", "/"): _get("/"), ("GET", "/assets/{name}"): _get(f"/assets/{SMALL_SCRIPT}")}
PUBLIC |= {("GET", path): _get(path) for path in ("/v2/health/live", "/v2/health/ready")}
PUBLIC |= {("GET", path): _get(shown) for path, shown in _list_model_paths("/ready")}
"""The routes that serve every caller."""

MORE_WAYS: dict[RouteKey, Driver] = {
    ("GET", path): _get(path) for path in ("/v1/forecasts?server={server}", "/v1/servers?server={server}")
}
MORE_WAYS["GET", "/v1/alerts?server={server}"] = _list_alerts("/v1/alerts?server={server}")
MORE_WAYS["GET", "/v1/alerts/rules?server={server}"] = _list_rules("/v1/alerts/rules?server={server}")
"""Other ways to name a server on routes that have a driver."""

DRIVERS: dict[RouteKey, Driver] = {**INGESTING, **READING, **CHANGING, **SILENCING, **UNBOUND, **PROMOTING, **PUBLIC}
"""A driver for each route."""

RULES = {**ROUTE_RULES, **VERSION_RULES}
"""The rule of each route."""
