"""What a subscriber of its own sees during changes of version: forecasts by the version they name, and pauses."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec


class Frame(msgspec.Struct):
    """What a subscriber is sent, as far as it is counted here."""

    type: str
    server: str = ""
    origin: float = 0.0
    servers: list[str] = []
    origins: list[float] = []
    model: str | list[str] = ""
    dropped: int = 0


_decode = msgspec.msgpack.Decoder(Frame).decode


class Forecasts:
    """Counts forecasts by the version that they name, and those that came before."""

    def __init__(self) -> None:
        self.by_version: Counter[str] = Counter()
        self.duplicated = self.overtaken = self.lagged = self.mixed_frames = 0
        self.began = asyncio.Event()
        self._seen: set[tuple[str, float]] = set()
        self._newest: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._last = self._longest = 0.0

    def take(self, data: bytes, now: float) -> None:
        """Count one frame that was read at this moment."""
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

    def mark(self, now: float) -> None:
        """Begin to look for the longest pause and each version's first forecast."""
        self._first.clear()
        self._last, self._longest = now, 0.0

    def first_of(self, version: str) -> float | None:
        """When this version's first forecast since the mark was read."""
        return self._first.get(version)

    def pause(self, now: float) -> float:
        """The longest time since the mark without a forecast."""
        return max(self._longest, now - self._last)

    def told(self) -> dict[str, Any]:
        """The counts; `out_of_order` came after a newer one of the same server."""
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
async def reading(session: aiohttp.ClientSession, url: str, quantile: float, target: str) -> AsyncIterator[Forecasts]:
    """Subscribe to one figure of each forecast and count until the end; raises what the reader raised."""
    forecasts = Forecasts()
    asked = {"type": "subscribe", "servers": ["*"], "batch": True, "dtype": "float16"}
    asked |= {"targets": [target], "quantiles": [quantile]}

    async def read(socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                forecasts.take(message.data, time.monotonic())

    async with session.ws_connect(f"{url}/v1/forecasts", max_msg_size=0) as socket:
        await socket.send_bytes(msgspec.msgpack.encode(asked))
        task = asyncio.create_task(read(socket))
        try:
            yield forecasts
            if task.done():
                task.result()
                raise RuntimeError("the daemon closed the subscription")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------- the daemon
