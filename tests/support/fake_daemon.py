"""A small daemon that follows the wire contract, and can be made to break it in one way at a time.

It does not forecast: the values that it sends are the number of the forecast, rising with the quantile.
"""

import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import aiohttp
import msgspec
import numpy as np
from aiohttp import web

STEP_SECONDS = 300
CONTEXT_LENGTH = 8
NEED = 3
FEATURES = ["cpu_user", "cpu_idle", "mem_used", "load_average"]
TARGETS = ["cpu_user", "mem_used"]
QUANTILES = [0.1, 0.5, 0.9]
HORIZON = 4


@dataclass
class Faults:
    """The faults to make; numbers count forecasts or ingest frames, from 1."""

    lose: int = 0
    duplicate: int = 0
    disorder: int = 0
    nan: int = 0
    wrong_context: int = 0
    swallow_ack: int = 0
    throttle: int = 0
    refuse_frame: int = 0
    hang_up_at: int = 0
    lag: int = 0
    """The forecast that is reported as dropped instead of sent."""
    reject: set[str] = field(default_factory=set)
    keep_nothing: bool = False
    """Samples are acknowledged and not kept."""
    ack_short: int = 0
    """The ingest frame whose ack does not count one of the samples."""
    listed_errors: int = 1_000
    """The number of rejections that an ack lists."""
    hold: bool = False
    """No batch runs before the status is read."""
    miscount: int = 0
    """The number of superseded rows that are counted and did not exist."""


@dataclass
class FakeSubscriber:
    """A connection that has subscribed, and its subscribe message."""

    socket: web.WebSocketResponse
    request: dict[str, Any]
    is_msgpack: bool


class FakeDaemon:
    """The daemon; serves within `running`, and counts in `rows`."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.url = ""
        self.windows: dict[str, dict[int, set[str]]] = {}
        self.open_rows: dict[str, int] = {}
        self.waiting: dict[str, int] = {}
        self.subscribers: list[FakeSubscriber] = []
        self.rows = dict.fromkeys(("closed", "warming", "due", "delivered", "superseded", "failed", "forgotten"), 0)
        self.frames = self.forecasts = self.requests = 0
        self.bodies: list[dict[str, Any]] = []
        self._sockets: set[web.WebSocketResponse] = set()

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["FakeDaemon"]:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/status", self._serve_status)
        app.router.add_get("/v1/servers", self._serve_servers)
        app.router.add_post("/v1/samples", self._serve_samples)
        app.router.add_get("/v1/ingest", self._serve_ingest)
        app.router.add_get("/v1/forecasts", self._serve_subscription)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await self.drop_connections()
            await runner.cleanup()

    async def drop_connections(self) -> None:
        for socket in list(self._sockets):
            await socket.close()

    # ---------------------------------------------------------------- decisions

    def take_samples(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        errors = []
        samples = _parse_samples(body)
        for index, (server, time, values) in enumerate(samples):
            if server in self.faults.reject:
                errors.append({"index": index, "code": "sample_too_old", "message": "rejected on request"})
                continue
            if not self.faults.keep_nothing:
                self._add_sample(server, math.floor(time / STEP_SECONDS), values)
        accepted = len(samples) - len(errors) - (self.frames == self.faults.ack_short > 0)
        return {"accepted": accepted, "rejected": len(errors), "errors": errors[: self.faults.listed_errors]}

    def _add_sample(self, server: str, step: int, values: set[str]) -> None:
        window = self.windows.setdefault(server, {})
        newest = max(window, default=step)
        previous = max((one for one in window if one < step), default=None)
        fresh = step not in window
        window.setdefault(step, set()).update(values)
        if step < newest:
            return  # The row is late: it is part of the window, and is not due.
        if fresh:
            if server in self.open_rows:
                self._close_row(server)
            self.open_rows[server] = step
        if self.open_rows.get(server) == step and previous is not None and window[step] >= window[previous]:
            self._close_row(server)

    def _close_row(self, server: str) -> None:
        step = self.open_rows.pop(server)
        self.rows["closed"] += 1
        if self._count_context(server, step) < NEED:
            self.rows["warming"] += 1
            return
        self.rows["due"] += 1
        if server in self.waiting:
            self.rows["superseded"] += 1
        self.waiting[server] = step

    def _count_context(self, server: str, step: int) -> int:
        return sum(1 for one in self.windows[server] if step - CONTEXT_LENGTH < one <= step)

    async def deliver_waiting(self) -> None:
        while self.waiting:
            server, step = self.waiting.popitem()
            self.rows["delivered"] += 1
            self.forecasts += 1
            for subscriber in self.subscribers:
                if any(fnmatchcase(server, glob) for glob in subscriber.request["servers"]):
                    await self.deliver_forecast(subscriber, server, step)

    async def deliver_forecast(self, subscriber: FakeSubscriber, server: str, step: int) -> None:
        number, faults = self.forecasts, self.faults
        if number == faults.lose:
            return
        if number == faults.lag:
            await _send_frame(subscriber, {"type": "lagged", "dropped": 1})
            return
        values = np.full((1, len(TARGETS), HORIZON, len(QUANTILES)), float(number % 100))
        values += np.arange(len(QUANTILES))
        if number == faults.disorder:
            values[0, 0, 0] = values[0, 0, 0, ::-1].copy()
        if number == faults.nan:
            values[0, 1, 2, 0] = np.nan
        context = self._count_context(server, step) + (number == faults.wrong_context)
        frame = _make_frame(subscriber, server, (step + 1) * STEP_SECONDS, context, values)
        for _ in range(2 if number == faults.duplicate else 1):
            await _send_frame(subscriber, frame)

    # ---------------------------------------------------------------- routes that receive samples or subscriptions

    async def _serve_ingest(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        self._sockets.add(socket)
        async for message in socket:
            is_msgpack = message.type is aiohttp.WSMsgType.BINARY
            body = msgspec.msgpack.decode(message.data) if is_msgpack else msgspec.json.decode(message.data)
            self.frames += 1
            if self.frames == self.faults.hang_up_at:
                self.faults.hang_up_at = 0
                await socket.close()
                break
            reply = self._make_reply(body)
            if reply is not None:
                await _send_body(socket, reply, is_msgpack)
            if not self.faults.hold:
                await self.deliver_waiting()
        self._sockets.discard(socket)
        return socket

    def _make_reply(self, body: dict[str, Any]) -> dict[str, Any] | None:
        if self.frames == self.faults.refuse_frame:
            return {"type": "error", "code": "malformed_frame", "message": "rejected on request"}
        reply = {"type": "ack", "id": body["id"], **self.take_samples(body)}
        return None if self.frames == self.faults.swallow_ack else reply

    async def _serve_samples(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.requests == self.faults.throttle:
            return web.json_response({"code": "too_busy"}, status=429, headers={"Retry-After": "0.01"})
        raw = await request.read()
        is_msgpack = request.content_type == "application/msgpack"
        answer = self.take_samples(msgspec.msgpack.decode(raw) if is_msgpack else msgspec.json.decode(raw))
        if not self.faults.hold:
            await self.deliver_waiting()
        encode = msgspec.msgpack.encode if is_msgpack else msgspec.json.encode
        return web.Response(body=encode(answer), content_type=request.content_type)

    async def _serve_subscription(self, request: web.Request) -> web.StreamResponse:
        if "server" in request.query:
            return await self._serve_latest(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.add(socket)
        async for message in socket:
            is_msgpack = message.type is aiohttp.WSMsgType.BINARY
            message_body = msgspec.msgpack.decode(message.data) if is_msgpack else msgspec.json.decode(message.data)
            subscriber = FakeSubscriber(socket, message_body, is_msgpack)
            await _send_frame(subscriber, {**message_body, "type": "subscribed"})
            self.subscribers.append(subscriber)
        self.subscribers = [one for one in self.subscribers if one.socket is not socket]
        self._sockets.discard(socket)
        return socket

    # ---------------------------------------------------------------- routes that are read

    async def _serve_status(self, request: web.Request) -> web.Response:
        for server in list(self.open_rows):  # When the status is read, no open row waits for more samples.
            self._close_row(server)
        await self.deliver_waiting()
        contract = {"features": FEATURES, "targets": TARGETS, "quantiles": QUANTILES}
        lengths = {"context_length": CONTEXT_LENGTH, "horizon": HORIZON}
        rows = {**self.rows, "superseded": self.rows["superseded"] + self.faults.miscount}
        answer = {
            "contract": {**contract, **lengths, "step_seconds": STEP_SECONDS, "need": NEED},
            "rows": rows,
            "due": len(self.waiting),
            "in_flight": 0,
            "uptime_seconds": 1.0,
            "backend": "fake",
        }
        return web.json_response(answer)

    async def _serve_servers(self, request: web.Request) -> web.Response:
        if "server" in request.query:
            return await self._serve_window(request)
        names = sorted(self.windows)
        begin = int(request.query.get("cursor", "0"))
        end = begin + 2  # Pages are small, so that the client must read several.
        found = [
            {"server": name, "have": len(self.windows[name]), "origin": self._compute_origin(name)} for name in names
        ]
        return web.json_response({"servers": found[begin:end], "next": end if end < len(names) else None})

    async def _serve_latest(self, request: web.Request) -> web.Response:
        server, shape = request.query["server"], (len(TARGETS), HORIZON, len(QUANTILES))
        values = np.broadcast_to(np.arange(len(QUANTILES), dtype=np.float32), shape)
        tensor = {"shape": shape, "dtype": "float32", "data": np.ascontiguousarray(values).tobytes()}
        head = {"type": "forecast", "targets": TARGETS, "quantiles": QUANTILES, "step_seconds": STEP_SECONDS}
        answer = {**head, "server": server, "origin": self._compute_origin(server), "values": tensor}
        return web.Response(body=msgspec.msgpack.encode(answer), content_type="application/msgpack")

    async def _serve_window(self, request: web.Request) -> web.Response:
        name = request.query["server"]
        window, origin = self.windows[name], self._compute_origin(name)
        newest = round(origin / STEP_SECONDS) - 1
        values = [
            [1.0 if feature in window.get(step, ()) else None for feature in FEATURES]
            for step in range(newest - CONTEXT_LENGTH + 1, newest + 1)
        ]
        found = {"server": name, "step_seconds": STEP_SECONDS, "origin": origin, "values": values}
        return web.json_response({**found, "features": FEATURES, "have": len(window)})

    def _compute_origin(self, server: str) -> float:
        return (max(self.windows[server]) + 1) * STEP_SECONDS


def _parse_samples(body: dict[str, Any]) -> list[tuple[str, float, set[str]]]:
    if "samples" in body:
        return [(one["server"], one["time"], set(one["values"])) for one in body["samples"]]
    columns = body["columns"]
    tensor, servers, times = columns["values"], columns["servers"], columns["time"]
    if isinstance(tensor, dict):
        values = np.frombuffer(tensor["data"], dtype=tensor["dtype"]).reshape(tensor["shape"])
    else:
        values = np.array(tensor, dtype=float)
    times = times if isinstance(times, list) else [times] * len(servers)
    given = [{name for name, value in zip(columns["features"], line, strict=True) if value == value} for line in values]
    return list(zip(servers, times, given, strict=True))


def _make_frame(
    subscriber: FakeSubscriber, server: str, origin: int, context: int, values: np.ndarray
) -> dict[str, Any]:
    head = {"step_seconds": STEP_SECONDS, "model": "fake", "targets": TARGETS, "quantiles": QUANTILES}
    values = values.astype(subscriber.request.get("dtype", "float32"))
    if subscriber.request.get("batch"):
        many = {"servers": [server], "origins": [origin], "contexts": [context]}
        return {"type": "forecasts", **many, **head, "values": _encode_values(subscriber, values)}
    one = {"server": server, "origin": origin, "context": context}
    return {"type": "forecast", **one, **head, "values": _encode_values(subscriber, values[0])}


def _encode_values(subscriber: FakeSubscriber, values: np.ndarray) -> Any:
    if subscriber.is_msgpack:
        return {"shape": list(values.shape), "dtype": values.dtype.name, "data": values.tobytes()}
    return values.tolist()


async def _send_frame(subscriber: FakeSubscriber, frame: dict[str, Any]) -> None:
    await _send_body(subscriber.socket, frame, subscriber.is_msgpack)


async def _send_body(socket: web.WebSocketResponse, frame: dict[str, Any], is_msgpack: bool) -> None:
    if is_msgpack:
        await socket.send_bytes(msgspec.msgpack.encode(frame))
    else:
        await socket.send_str(msgspec.json.encode(frame).decode())
