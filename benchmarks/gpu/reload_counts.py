"""The forecasts that a subscriber receives during changes of version: counts by version, and pauses."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec


class Frame(msgspec.Struct):
    """The fields of a subscriber's frames that are counted here."""

    type: str
    server: str = ""
    origin: float = 0.0
    servers: list[str] = []
    origins: list[float] = []
    model: str | list[str] = ""
    dropped: int = 0


_decode = msgspec.msgpack.Decoder(Frame).decode


class ForecastCounts:
    """The counts of received forecasts: by version, duplicated, out of order, lagged."""

    def __init__(self) -> None:
        self.by_version: Counter[str] = Counter()
        self.duplicated = self.overtaken = self.lagged = self.mixed_frames = 0
        self.began = asyncio.Event()
        self._seen: set[tuple[str, float]] = set()
        self._newest: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._last = self._longest = 0.0

    def count_frame(self, data: bytes, now: float) -> None:
        """Count a frame that was received at this time."""
        frame = _decode(data)
        if frame.type == "forecast":
            self._count([frame.server], [frame.origin], [str(frame.model)], now)
        elif frame.type == "forecasts":
            mixed = isinstance(frame.model, list)
            self.mixed_frames += mixed
            models = frame.model if isinstance(frame.model, list) else [frame.model] * len(frame.servers)
            self._count(frame.servers, frame.origins, models, now)
        elif frame.type == "lagged":
            self.lagged += frame.dropped
        elif frame.type != "subscribed":
            raise RuntimeError(f"the subscriber was sent {data[:300]!r}")

    def start_interval(self, now: float) -> None:
        """Start an interval: forget the longest pause and each version's first forecast."""
        self._first.clear()
        self._last, self._longest = now, 0.0

    def find_first(self, version: str) -> float | None:
        """Return the time of this version's first forecast in the interval, or `None`."""
        return self._first.get(version)

    def find_longest_pause(self, now: float) -> float:
        """Return the longest time of the interval without a forecast."""
        return max(self._longest, now - self._last)

    def summarize(self) -> dict[str, Any]:
        """Return the counts; a forecast out of order was received after a newer one of the same server."""
        return {
            "by_version": dict(self.by_version),
            "distinct": len(self._seen),
            "duplicated": self.duplicated,
            "out_of_order": self.overtaken,
            "lagged": self.lagged,
            "frames_of_both_versions": self.mixed_frames,
        }

    def _count(self, servers: list[str], origins: list[float], models: list[str], now: float) -> None:
        self._longest, self._last = max(self._longest, now - self._last), now
        for each in zip(servers, origins, models, strict=True):
            server, origin, model = each
            self.by_version[model] += 1
            self._first.setdefault(model, now)
            if (server, origin) in self._seen:
                self.duplicated += 1
            elif origin < self._newest.get(server, 0.0):
                self.overtaken += 1
            else:
                self._newest[server] = origin
            self._seen.add((server, origin))
        self.began.set()


@asynccontextmanager
async def count_forecasts(
    session: aiohttp.ClientSession, url: str, quantile: float, target: str
) -> AsyncIterator[ForecastCounts]:
    """Subscribe to one quantile of one target and count until the end; raises an error of the reader again."""
    forecasts = ForecastCounts()
    request = {"type": "subscribe", "servers": ["*"], "batch": True, "dtype": "float16"}
    request |= {"targets": [target], "quantiles": [quantile]}

    async def read(socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                forecasts.count_frame(message.data, time.monotonic())

    async with session.ws_connect(f"{url}/v1/forecasts", max_msg_size=0) as socket:
        await socket.send_bytes(msgspec.msgpack.encode(request))
        task = asyncio.create_task(read(socket))
        try:
            yield forecasts
            if task.done():
                task.result()
                raise RuntimeError("the daemon closed the subscription")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
