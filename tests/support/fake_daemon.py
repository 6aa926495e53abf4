"""A small, honest daemon of the wire contract, which can be told to be dishonest in one way at a time.

It forecasts nothing: what it sends back is the row's number in every quantile, in order.
"""

from __future__ import annotations

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
    """What to do wrong; numbers count forecasts or ingest frames, from 1."""

    lose: int = 0
    duplicate: int = 0
    disorder: int = 0
    nan: int = 0
    wrong_context: int = 0
    swallow_ack: int = 0
    throttle: int = 0
    refuse_frame: int = 0
    hang_up_at: int = 0
    lag: int = 0  # forecasts told as dropped instead of sent
    reject: set[str] = field(default_factory=set)
    keep_nothing: bool = False  # acks samples and forgets them
    ack_short: int = 0  # the ingest frame whose ack leaves a sample out
    errors_told: int = 1_000  # rejections that an ack spells out
    hold: bool = False  # runs nothing before it is asked for its status
    miscount: int = 0  # superseded rows too many


@dataclass
class Reader:
    socket: web.WebSocketResponse
    asked: dict[str, Any]
    packed: bool


class FakeDaemon:
    """Serve with ``running``; everything it counted is to be read from ``rows``."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.url = ""
        self.windows: dict[str, dict[int, set[str]]] = {}
        self.open_rows: dict[str, int] = {}
        self.waiting: dict[str, int] = {}
        self.readers: list[Reader] = []
        self.rows = dict.fromkeys(("closed", "warming", "due", "delivered", "superseded", "failed", "forgotten"), 0)
        self.frames = self.forecasts = self.requests = 0
        self.bodies: list[dict[str, Any]] = []
        self._sockets: set[web.WebSocketResponse] = set()

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[FakeDaemon]:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/servers", self._servers)
        app.router.add_post("/v1/samples", self._samples)
        app.router.add_get("/v1/ingest", self._ingest)
        app.router.add_get("/v1/forecasts", self._subscribe)
        app.router.add_get("/v1/forecasts/{server}", self._latest)
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

    # What the daemon decides.

    def take(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        errors = []
        samples = _samples_of(body)
        for index, (server, time, values) in enumerate(samples):
            if server in self.faults.reject:
                errors.append({"index": index, "code": "sample_too_old", "message": "told to"})
                continue
            if not self.faults.keep_nothing:
                self._add(server, math.floor(time / STEP_SECONDS), values)
        accepted = len(samples) - len(errors) - (self.frames == self.faults.ack_short > 0)
        return {"accepted": accepted, "rejected": len(errors), "errors": errors[: self.faults.errors_told]}

    def _add(self, server: str, step: int, values: set[str]) -> None:
        window = self.windows.setdefault(server, {})
        newest = max(window, default=step)
        previous = max((one for one in window if one < step), default=None)
        fresh = step not in window
        window.setdefault(step, set()).update(values)
        if step < newest:
            return  # late: part of the window, never due again
        if fresh:
            if server in self.open_rows:
                self._close(server)
            self.open_rows[server] = step
        if self.open_rows.get(server) == step and previous is not None and window[step] >= window[previous]:
            self._close(server)

    def _close(self, server: str) -> None:
        step = self.open_rows.pop(server)
        self.rows["closed"] += 1
        if self._context(server, step) < NEED:
            self.rows["warming"] += 1
            return
        self.rows["due"] += 1
        if server in self.waiting:
            self.rows["superseded"] += 1
        self.waiting[server] = step

    def _context(self, server: str, step: int) -> int:
        return sum(1 for one in self.windows[server] if step - CONTEXT_LENGTH < one <= step)

    async def flush(self) -> None:
        while self.waiting:
            server, step = self.waiting.popitem()
            self.rows["delivered"] += 1
            self.forecasts += 1
            for reader in self.readers:
                if any(fnmatchcase(server, glob) for glob in reader.asked["servers"]):
                    await self._deliver(reader, server, step)

    async def _deliver(self, reader: Reader, server: str, step: int) -> None:
        number, faults = self.forecasts, self.faults
        if number == faults.lose:
            return
        if number == faults.lag:
            await _send(reader, {"type": "lagged", "dropped": 1})
            return
        values = np.full((1, len(TARGETS), HORIZON, len(QUANTILES)), float(number % 100))
        values += np.arange(len(QUANTILES))
        if number == faults.disorder:
            values[0, 0, 0] = values[0, 0, 0, ::-1].copy()
        if number == faults.nan:
            values[0, 1, 2, 0] = np.nan
        context = self._context(server, step) + (number == faults.wrong_context)
        frame = _forecast(reader, server, (step + 1) * STEP_SECONDS, context, values)
        for _ in range(2 if number == faults.duplicate else 1):
            await _send(reader, frame)

    # What comes in.

    async def _ingest(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        self._sockets.add(socket)
        async for message in socket:
            packed = message.type is aiohttp.WSMsgType.BINARY
            body = msgspec.msgpack.decode(message.data) if packed else msgspec.json.decode(message.data)
            self.frames += 1
            if self.frames == self.faults.hang_up_at:
                self.faults.hang_up_at = 0
                await socket.close()
                break
            reply = self._answer(body)
            if reply is not None:
                await _write(socket, reply, packed)
            if not self.faults.hold:
                await self.flush()
        self._sockets.discard(socket)
        return socket

    def _answer(self, body: dict[str, Any]) -> dict[str, Any] | None:
        if self.frames == self.faults.refuse_frame:
            return {"type": "error", "code": "malformed_frame", "message": "told to"}
        reply = {"type": "ack", "id": body["id"], **self.take(body)}
        return None if self.frames == self.faults.swallow_ack else reply

    async def _samples(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.requests == self.faults.throttle:
            return web.json_response({"code": "too_busy"}, status=429, headers={"Retry-After": "0.01"})
        raw = await request.read()
        packed = request.content_type == "application/msgpack"
        answer = self.take(msgspec.msgpack.decode(raw) if packed else msgspec.json.decode(raw))
        if not self.faults.hold:
            await self.flush()
        encode = msgspec.msgpack.encode if packed else msgspec.json.encode
        return web.Response(body=encode(answer), content_type=request.content_type)

    async def _subscribe(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.add(socket)
        async for message in socket:
            packed = message.type is aiohttp.WSMsgType.BINARY
            asked = msgspec.msgpack.decode(message.data) if packed else msgspec.json.decode(message.data)
            reader = Reader(socket, asked, packed)
            await _send(reader, {**asked, "type": "subscribed"})
            self.readers.append(reader)
        self.readers = [one for one in self.readers if one.socket is not socket]
        self._sockets.discard(socket)
        return socket

    # What can be asked.

    async def _status(self, request: web.Request) -> web.Response:
        for server in list(self.open_rows):  # by the time somebody asks, every grace is over
            self._close(server)
        await self.flush()
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

    async def _servers(self, request: web.Request) -> web.Response:
        if "server" in request.query:
            return await self._window(request)
        names = sorted(self.windows)
        begin = int(request.query.get("cursor", "0"))
        end = begin + 2  # small pages, so that paging is used
        found = [{"server": name, "have": len(self.windows[name]), "origin": self._origin(name)} for name in names]
        return web.json_response({"servers": found[begin:end], "next": end if end < len(names) else None})

    async def _latest(self, request: web.Request) -> web.Response:
        origin = self._origin(request.match_info["server"])
        values = np.broadcast_to(np.arange(len(QUANTILES), dtype=float), (len(TARGETS), HORIZON, len(QUANTILES)))
        head = {"type": "forecast", "targets": TARGETS, "quantiles": QUANTILES}
        return web.json_response({**head, "origin": origin, "values": values.tolist()})

    async def _window(self, request: web.Request) -> web.Response:
        name = request.query["server"]
        window, origin = self.windows[name], self._origin(name)
        newest = round(origin / STEP_SECONDS) - 1
        values = [
            [1.0 if feature in window.get(step, ()) else None for feature in FEATURES]
            for step in range(newest - CONTEXT_LENGTH + 1, newest + 1)
        ]
        found = {"server": name, "step_seconds": STEP_SECONDS, "origin": origin, "values": values}
        return web.json_response({**found, "features": FEATURES, "have": len(window)})

    def _origin(self, server: str) -> float:
        return (max(self.windows[server]) + 1) * STEP_SECONDS


def _samples_of(body: dict[str, Any]) -> list[tuple[str, float, set[str]]]:
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


def _forecast(reader: Reader, server: str, origin: int, context: int, values: np.ndarray) -> dict[str, Any]:
    head = {"step_seconds": STEP_SECONDS, "model": "fake", "targets": TARGETS, "quantiles": QUANTILES}
    values = values.astype(reader.asked.get("dtype", "float32"))
    if reader.asked.get("batch"):
        many = {"servers": [server], "origins": [origin], "contexts": [context]}
        return {"type": "forecasts", **many, **head, "values": _values(reader, values)}
    one = {"server": server, "origin": origin, "context": context}
    return {"type": "forecast", **one, **head, "values": _values(reader, values[0])}


def _values(reader: Reader, values: np.ndarray) -> Any:
    if reader.packed:
        return {"shape": list(values.shape), "dtype": values.dtype.name, "data": values.tobytes()}
    return values.tolist()


async def _send(reader: Reader, frame: dict[str, Any]) -> None:
    await _write(reader.socket, frame, reader.packed)


async def _write(socket: web.WebSocketResponse, frame: dict[str, Any], packed: bool) -> None:
    if packed:
        await socket.send_bytes(msgspec.msgpack.encode(frame))
    else:
        await socket.send_str(msgspec.json.encode(frame).decode())
