"""Readers at each node and of the subjects in NATS: each forecast is checked, and compared with those of all others."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
import numpy as np
from aiohttp import WSMsgType

from benchmarks.chaos.history import ServerHistory
from benchmarks.chaos.journal import Journal
from benchmarks.chaos.model import CONTRACT
from benchmarks.chaos.subscriber import ForecastChecker
from streamd.cluster.log import LogMessage
from streamd.core.cluster.shards import find_shard

RECONNECT_PAUSE_SECONDS = 0.1
QUIET_SECONDS = 3.0
"""A reader of a node that sends nothing for so long goes to the next one: a node that is cut off does not close."""

KEPT_STEPS = 600
"""Steps behind the newest one of a server whose forecasts are kept for comparison."""


class ForecastLedger:
    """All forecasts that any reader got: one row of a server has one forecast, whoever delivers it."""

    def __init__(self, servers: Mapping[str, ServerHistory], shards: int, journal: Journal) -> None:
        self.shards = {name: find_shard(name, shards) for name in servers}
        self.pauses: dict[int, float] = {}
        """By shard: the longest time between the forecasts of two rows, since `begin_trial`."""
        self.taken_over: dict[int, float] = {}
        """By shard that `begin_trial` named: the seconds until the forecast of a row that was sent after it."""
        self._servers = servers
        self._journal = journal
        self._checker = ForecastChecker(servers, journal)
        self._made: dict[str, dict[int, tuple[bytes, int]]] = {name: {} for name in servers}
        self._newest: dict[str, int] = {}
        self._last_at: dict[int, float] = {}
        self._watched: set[int] = set()
        self._began = 0.0

    def begin_trial(self, watched: Sequence[int] = ()) -> None:
        """Measure anew, from now on; `watched` are the shards of a node that dies now."""
        self._began = time.monotonic()
        self._watched = set(watched)
        self.pauses, self.taken_over = {}, {}
        self._last_at = dict.fromkeys(set(self.shards.values()), self._began)

    def finish_trial(self) -> None:
        """Count the pauses that last until now."""
        now = time.monotonic()
        for shard, last in self._last_at.items():
            self.pauses[shard] = max(self.pauses.get(shard, 0.0), now - last)

    @property
    def is_waiting(self) -> bool:
        """Whether a shard that is watched was not forecast anew yet."""
        return bool(self._watched)

    def list_waiting(self) -> list[int]:
        """Return these shards."""
        return sorted(self._watched)

    def take(self, reader: str, server: str, origin: float, model: str, context: int, fence: int, values: Any) -> None:
        """Check a forecast that was read just now; `values` is `(1, horizon, quantiles)`."""
        step = round(origin / CONTRACT.step_seconds) - 1
        self._checker.check_forecast(server, origin, model, context, values)
        if server not in self._servers:
            return  # the check has reported it
        if fence == 0:
            self._journal.count("forecasts_outside_the_log")
            return
        made, numbers = self._made[server], np.asarray(values, np.float32).tobytes()
        before = made.setdefault(step, (numbers, fence))
        if before[0] != numbers:
            self._journal.report(
                "doubled", f"{reader}: {server} step {step} with other numbers: fence {before[1]}, then {fence}"
            )
        self._journal.count("forecasts_compared")
        if step > self._newest.get(server, -1):
            self._newest[server] = step
            made.pop(step - KEPT_STEPS, None)
            self._note_progress(server, step)

    def _note_progress(self, server: str, step: int) -> None:
        shard, now = self.shards[server], time.monotonic()
        last = self._last_at.get(shard, now)
        self.pauses[shard] = max(self.pauses.get(shard, 0.0), now - last)
        self._last_at[shard] = now
        if shard in self._watched:
            sent = self._servers[server].first_sent_at(step)
            if sent is not None and sent >= self._began:
                self._watched.discard(shard)
                self.taken_over[shard] = now - self._began


class NodeReader:
    """A reader of all forecasts, which resumes at the next node when its own ends or falls silent."""

    def __init__(self, name: str, urls: Sequence[str], ledger: ForecastLedger, journal: Journal) -> None:
        self.name = name
        self.newest: dict[str, int] = {}
        self._urls = list(urls)
        self._ledger = ledger
        self._journal = journal
        self._last_id = 0
        self._on_connection: dict[str, int] = {}
        """The newest step of each server on this connection: one that resumes may begin with older forecasts."""

    async def run(self) -> None:
        """Read until cancelled."""
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    await self._read(session, self._urls[0])
                self._urls.append(self._urls.pop(0))
                await asyncio.sleep(RECONNECT_PAUSE_SECONDS)

    async def _read(self, session: aiohttp.ClientSession, url: str) -> None:
        async with asyncio.timeout(QUIET_SECONDS):
            socket = await session.ws_connect(
                f"{url}/v1/forecasts", max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=0.2)
            )
        try:
            self._on_connection = {}
            message: dict[str, Any] = {"type": "subscribe", "servers": ["*"], "batch": True, "ids": True}
            if self._last_id:
                message["last_event_id"] = self._last_id
            await socket.send_bytes(msgspec.msgpack.encode(message))
            while True:
                frame = await socket.receive(timeout=QUIET_SECONDS)
                if frame.type is not WSMsgType.BINARY:
                    return
                self._take(msgspec.msgpack.decode(frame.data))
        finally:
            await socket.close()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "lagged":
            self._journal.count("readers_lagged")
        elif kind == "error":
            self._journal.count(f"subscriptions_refused {message['code']}")
        elif kind == "forecast":
            self._take_forecasts([message["server"]], message, [message])
        elif kind == "forecasts":
            rows = [
                {"origin": origin, "context": context, "fence": fence}
                for origin, context, fence in zip(
                    message["origins"], message["contexts"], message["fences"], strict=True
                )
            ]
            self._take_forecasts(message["servers"], message, rows)

    def _take_forecasts(
        self, servers: Sequence[str], message: dict[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        tensor = message["values"]
        values = np.frombuffer(tensor["data"], tensor["dtype"]).reshape(len(servers), 1, CONTRACT.horizon, -1)
        models = message["model"] if isinstance(message["model"], list) else [message["model"]] * len(servers)
        for server, row, model, numbers in zip(servers, rows, models, values, strict=True):
            step = round(row["origin"] / CONTRACT.step_seconds) - 1
            before = self._on_connection.get(server, -1)
            if step < before or (step == before and row["fence"] > 0):
                self._journal.report("out_of_order", f"{self.name}: {server} {step} after {before}")
            self._on_connection[server] = step
            self.newest[server] = max(step, self.newest.get(server, -1))
            self._ledger.take(self.name, server, row["origin"], model, row["context"], row["fence"], numbers)
        self._last_id = message.get("id", self._last_id)


class SubjectReader:
    """A reader of `forecast.>` in NATS."""

    def __init__(self, ledger: ForecastLedger) -> None:
        self.messages = 0
        self._ledger = ledger

    def take(self, message: LogMessage) -> None:
        """Take a message."""
        found = msgspec.msgpack.decode(message.data)
        tensor = found["values"]
        values = np.frombuffer(tensor["data"], tensor["dtype"]).reshape(1, CONTRACT.horizon, -1)
        self._ledger.take(
            "forecast.>", found["server"], found["origin"], found["model"], found["context"], found["fence"], values
        )
        self.messages += 1
