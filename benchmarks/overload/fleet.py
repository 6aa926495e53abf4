"""A fleet that reports once an interval, all its servers together as fleets do, and the subscriber of its forecasts.

The open loop waits for no forecast and no ack. The closed loop sends a server's next row once its forecast came, which
measures the capacity.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import numpy as np
from aiohttp import WSMsgType

from benchmarks.ingest import FEATURES, START, STEP_SECONDS

FRAME_ROWS = 64
SENDERS = 16
"""Connections, among which the fleet is divided."""

NO_TIME = -1.0
PREFILLED_ROWS = 8
_VALUES = np.random.default_rng(1).random((FRAME_ROWS + 97, 14), np.float32)


@dataclass
class AgeLog:
    """The ages of the forecasts that arrived in one phase, from the moment when the row was sent."""

    begin: float
    ages: list[np.ndarray[Any, Any]] = field(default_factory=list)
    delivered: int = 0

    def percentile(self, share: float) -> float:
        """Return the age in seconds that this share of the forecasts did not exceed."""
        return float(np.quantile(np.concatenate(self.ages), share)) if self.ages else float("nan")


class Fleet:
    """All servers by number, with the newest row of each and the time at which it was sent."""

    def __init__(self, session: aiohttp.ClientSession, url: str, servers: int) -> None:
        self.answers: Counter[str] = Counter()
        """Acks by what they say: samples accepted, samples or frames refused by code."""
        self.log = AgeLog(time.monotonic())
        self.unsent = 0
        """Rows whose interval was over before they were sent: the daemon held the connection back."""
        self._session = session
        self._url = url
        self._rows = np.zeros(servers, np.int64)
        self._sent_at = np.full((servers, 64), NO_TIME)

    async def prefill(self, begin: int, end: int) -> None:
        """Give servers enough rows for a forecast, and wait until nothing is due."""
        async with self._session.ws_connect(f"{self._url}/v1/ingest", max_msg_size=0) as socket:
            for first in range(begin, end, FRAME_ROWS):
                servers = np.arange(first, min(first + FRAME_ROWS, end))
                for _ in range(PREFILLED_ROWS):
                    await socket.send_bytes(self._make_frame(servers))
                    answer = msgspec.msgpack.decode((await socket.receive()).data)
                    if answer.get("accepted") != len(servers):
                        raise RuntimeError(f"rows were refused before the load began: {answer}")

    # ------------------------------------------------------------ loops
    async def run_closed(self, servers: int, seconds: float) -> float:
        """Keep some servers due all the time; returns forecasts a second in the last three quarters of the time."""
        async with (
            self._session.ws_connect(f"{self._url}/v1/ingest?ack=none", max_msg_size=0) as ingest,
            self._subscribed() as socket,
        ):
            await self._send_rows(ingest, np.arange(servers))
            begin = time.monotonic()
            counted_from, count = begin + seconds / 4, 0
            while (now := time.monotonic()) < begin + seconds:
                async with asyncio.timeout(60.0):
                    numbers = self._take_forecasts(await socket.receive())
                count += len(numbers) if now >= counted_from else 0
                await self._send_rows(ingest, numbers)
            return count / (time.monotonic() - counted_from)

    async def run_open(self, servers: int, seconds: float, interval_seconds: float, *, is_spread: bool) -> AgeLog:
        """Let each of these servers report once an interval; returns what was delivered after the first tenth."""
        async with self._subscribed() as socket:
            reading = asyncio.create_task(self._read(socket))
            begin = time.monotonic() + 0.1
            shares = np.array_split(np.arange(servers), SENDERS)
            senders = [
                asyncio.create_task(self._send_regularly(share, begin, seconds, interval_seconds, is_spread))
                for share in shares
            ]
            await asyncio.sleep(seconds / 10)
            log = self.log = AgeLog(time.monotonic())
            await asyncio.sleep(begin + seconds - time.monotonic())
            self.log = AgeLog(time.monotonic())  # what comes later does not count
            reading.cancel()
            await asyncio.gather(*senders)
            return log

    async def _send_regularly(
        self, servers: np.ndarray[Any, Any], begin: float, seconds: float, interval_seconds: float, is_spread: bool
    ) -> None:
        frames = [servers[first : first + FRAME_ROWS] for first in range(0, len(servers), FRAME_ROWS)]
        async with self._session.ws_connect(f"{self._url}/v1/ingest", max_msg_size=0) as socket:
            reading = asyncio.create_task(self._read_acks(socket))
            turn = 0
            while begin + turn * interval_seconds < begin + seconds:
                due = begin + turn * interval_seconds
                for place, frame in enumerate(frames):
                    at = due + (interval_seconds * place / len(frames) if is_spread else 0.0)
                    await asyncio.sleep(max(at - time.monotonic(), 0.0))
                    await self._send_rows(socket, frame)
                # An agent that was held back past its next intervals reports the present one, not all that it missed.
                late = int(max(time.monotonic() - due, 0.0) / interval_seconds)
                self.unsent += max(late - 1, 0) * len(servers)
                turn += max(late, 1)
            reading.cancel()

    # ------------------------------------------------------------ rows out
    async def _send_rows(self, socket: aiohttp.ClientWebSocketResponse, servers: np.ndarray[Any, Any]) -> None:
        for first in range(0, len(servers), FRAME_ROWS):
            await socket.send_bytes(self._make_frame(servers[first : first + FRAME_ROWS]))

    def _make_frame(self, servers: np.ndarray[Any, Any]) -> bytes:
        self._rows[servers] += 1
        rows = self._rows[servers]
        self._sent_at[servers, rows % self._sent_at.shape[1]] = time.monotonic()
        begin = int(rows[0]) % 97
        values = _VALUES[begin : begin + len(servers)]
        columns = {
            "servers": [f"server-{server:06d}" for server in servers.tolist()],
            "time": (START + rows * STEP_SECONDS).tolist(),
            "features": FEATURES,
            "values": {"shape": list(values.shape), "dtype": "float32", "data": values.tobytes()},
        }
        return msgspec.msgpack.encode({"columns": columns})

    async def _read_acks(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            answer = msgspec.msgpack.decode(message.data)
            if answer["type"] == "error":
                self.answers[f"frame refused: {answer['code']}"] += 1
                continue
            self.answers["samples accepted"] += answer["accepted"]
            for error in answer["errors"]:
                self.answers[f"sample refused: {error['code']}"] += 1

    # ------------------------------------------------------------ forecasts in
    @asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with self._session.ws_connect(f"{self._url}/v1/forecasts", max_msg_size=0) as socket:
            subscribe = {"type": "subscribe", "servers": ["server-*"], "batch": True, "dtype": "float16", "every": 12}
            await socket.send_bytes(msgspec.msgpack.encode(subscribe))
            await socket.receive()
            yield socket

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            self._take_forecasts(await socket.receive())

    def _take_forecasts(self, message: aiohttp.WSMessage) -> np.ndarray[Any, Any]:
        """Note the ages of a frame; returns the numbers of its servers."""
        if message.type is not WSMsgType.BINARY:
            raise RuntimeError(f"the subscription ended with {message}")
        frame = msgspec.msgpack.decode(message.data)
        if frame["type"] != "forecasts":
            self.answers[frame["type"]] += frame.get("dropped", 1)
            return np.zeros(0, np.int64)
        servers = np.array([int(name[7:]) for name in frame["servers"]], np.int64)
        rows = (np.asarray(frame["origins"], float) - START).astype(np.int64) // STEP_SECONDS - 1
        sent_at = self._sent_at[servers, rows % self._sent_at.shape[1]]
        self.log.delivered += len(servers)
        self.log.ages.append(time.monotonic() - sent_at)
        return servers
