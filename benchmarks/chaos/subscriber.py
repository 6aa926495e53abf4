"""Subscribers: each checks every forecast that it gets, and connects again whenever its connection ends."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import aiohttp
import msgspec
import numpy as np
from aiohttp import WSMsgType

from benchmarks.chaos.history import ServerHistory
from benchmarks.chaos.journal import Journal
from benchmarks.chaos.model import CONTRACT, OFFSETS

RECONNECT_PAUSE_SECONDS = 0.1
QUIET_SECONDS = 60.0
"""A subscription without any message for so long counts as lost, and is opened again."""


@dataclass(frozen=True, kw_only=True)
class SubscriberPlan:
    """One subscriber: its globs, its form, and the servers that its token allows."""

    name: str
    globs: tuple[str, ...] = ("*",)
    is_msgpack: bool = False
    batch: bool = False
    is_stream: bool = False
    """Whether it reads server-sent events."""
    allowed: tuple[str, ...] = ("*",)
    headers: Mapping[str, str] = field(default_factory=dict)


class ForecastChecker:
    """Checks forecasts against what was sent."""

    def __init__(self, servers: Mapping[str, ServerHistory], journal: Journal) -> None:
        self._servers = servers
        self._journal = journal

    def check_forecast(self, server: str, origin: float, model: str, context: int, values: Any) -> None:
        """Check one forecast, which was read just now; `values` is `(1, horizon, quantiles)`."""
        history, newest = self._servers.get(server), round(origin / CONTRACT.step_seconds) - 1
        begin = None if history is None else history.first_sent_at(newest)
        if history is not None and not history.can_check(newest):
            self._journal.count("forecasts_too_old_to_check")
            return
        if history is None or begin is None or model not in OFFSETS:
            self._journal.report("wrong_forecast", f"{server!r} origin {origin} by {model!r}: no such row was sent")
            return
        end = time.monotonic()
        rows = (np.asarray(values, np.float32)[0] - np.float32(OFFSETS[model])).tolist()
        for wrong in history.find_wrong_forecast(newest, rows, begin, end)[:1]:
            self._journal.report("wrong_forecast", f"{wrong}; by {model}")
        least, most = history.count_rows(newest, begin, end)
        if not least <= context <= most:
            self._journal.report("wrong_context", f"{server} origin {newest}: {context}, expected {least} to {most}")
        history.delivered = max(history.delivered, newest)
        self._journal.count("forecasts_checked")


class ChaosSubscriber:
    """A subscriber that may be stalled."""

    def __init__(self, plan: SubscriberPlan, url: str, checker: ForecastChecker, journal: Journal) -> None:
        self.plan = plan
        self.reads = asyncio.Event()
        """Cleared while it is stalled."""
        self.reads.set()
        self.connections = 0
        self.is_connected = False
        """Whether its subscription is in force."""
        self.ended = asyncio.Event()
        """Set whenever a connection ends or is refused; cleared by the one who waits for it."""
        self.refused_status: int | None = None
        """The HTTP status with which the last attempt to connect was refused."""
        self.newest: dict[str, int] = {}
        """The newest origin of each server on this connection."""
        self._models: dict[str, set[str]] = {}
        self._url = url
        self._checker = checker
        self._journal = journal

    def wants(self, server: str) -> bool:
        """Whether its globs and its token select a server."""
        return _matches(server, self.plan.globs) and _matches(server, self.plan.allowed)

    async def run(self) -> None:
        """Subscribe and check until cancelled."""
        async with aiohttp.ClientSession(headers=dict(self.plan.headers)) as session:
            while True:
                try:
                    await (self._read_stream if self.plan.is_stream else self._read_socket)(session)
                except aiohttp.WSServerHandshakeError as error:
                    self.refused_status = error.status
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                    pass
                self.is_connected = False
                self.ended.set()
                await asyncio.sleep(RECONNECT_PAUSE_SECONDS)

    # ------------------------------------------------------------ connections
    async def _read_socket(self, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(f"{self._url}/v1/forecasts", max_msg_size=0) as socket:
            self._begin_connection()
            message = {"type": "subscribe", "servers": self.plan.globs, "batch": self.plan.batch}
            if self.plan.is_msgpack:
                await socket.send_bytes(msgspec.msgpack.encode(message))
            else:
                await socket.send_str(json.dumps(message))
            while True:
                await self.reads.wait()
                frame = await socket.receive(timeout=QUIET_SECONDS)
                if frame.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return
                self._take(msgspec.msgpack.decode(frame.data) if self.plan.is_msgpack else json.loads(frame.data))

    async def _read_stream(self, session: aiohttp.ClientSession) -> None:
        query = {"servers": ",".join(self.plan.globs)}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=QUIET_SECONDS)
        async with session.get(f"{self._url}/v1/forecasts/stream", params=query, timeout=timeout) as response:
            if response.status != 200:
                self.refused_status = response.status
                return
            self._begin_connection()
            while line := await response.content.readline():
                await self.reads.wait()
                self.is_connected = True
                if line.startswith(b"data:"):
                    self._take(json.loads(line[5:]))

    def _begin_connection(self) -> None:
        self.connections += 1
        self.refused_status = None
        self.newest, self._models = {}, {}

    # ------------------------------------------------------------ messages
    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "forecast":
            values = _read_values(message["values"])
            self._take_forecast(message["server"], message["origin"], message["model"], message["context"], values)
        elif kind == "forecasts":
            many = _read_values(message["values"])
            models = message["model"] if isinstance(message["model"], list) else [message["model"]] * len(many)
            for server, origin, model, context, values in zip(
                message["servers"], message["origins"], models, message["contexts"], many, strict=True
            ):
                self._take_forecast(server, origin, model, context, values)
        elif kind == "subscribed":
            self.is_connected = True
        elif kind == "lagged":
            self._journal.count("forecasts_lagged", message["dropped"])
        elif kind == "error":
            self._journal.count(f"subscriptions_refused {message['code']}")

    def _take_forecast(self, server: str, origin: float, model: str, context: int, values: Any) -> None:
        if not self.wants(server):
            self._journal.report("not_allowed", f"{self.plan.name} got {server}")
        self._check_order(server, round(origin / CONTRACT.step_seconds) - 1, model)
        self._checker.check_forecast(server, origin, model, context, values)

    def _check_order(self, server: str, step: int, model: str) -> None:
        """Check that each row comes at most once for each version on one connection, and none after a newer one."""
        before = self.newest.get(server, -1)
        if step > before:
            self._models[server] = set()
        elif step < before:
            self._journal.report("out_of_order", f"{self.plan.name}: {server} {step} after {before}")
        elif model in self._models[server]:
            self._journal.report("doubled", f"{self.plan.name}: {server} {step} by {model}")
        self.newest[server] = max(step, before)
        self._models[server].add(model)


def _matches(server: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(server, each) for each in globs)


def _read_values(values: Any) -> Any:
    """Return nested lists or a tensor as an array."""
    if isinstance(values, dict):
        return np.frombuffer(values["data"], values["dtype"]).reshape(values["shape"])
    return np.asarray(values, np.float32)
