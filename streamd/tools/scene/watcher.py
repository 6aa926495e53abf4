"""A subscriber that prints forecasts as they come, and subscribes again if the connection ends.

Checks nothing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import aiohttp
import msgspec

from streamd.tools.loadtest.daemon import DaemonContract

RECONNECT_SECONDS = 0.25
SHOWN_TARGET = "cpu_user"
WANTED_QUANTILES = (0.1, 0.5, 0.9)

WriteLine = Callable[[str], None]


class ForecastWatcher:
    """Reads the forecasts of all servers; prints those of one of them, one line each."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, contract: DaemonContract, shown: str, write_line: WriteLine
    ) -> None:
        self.forecasts: Counter[str] = Counter()
        """Forecasts received, by server."""
        self.newest: dict[str, float] = {}
        """The origin of the newest forecast, by server."""
        self.subscriptions = 0
        self._session = session
        self._url = f"{url}/v1/forecasts"
        self._shown = shown
        self._write_line = write_line
        self._step_seconds = contract.step_seconds
        target = SHOWN_TARGET if SHOWN_TARGET in contract.targets else contract.targets[0]
        quantiles = sorted(
            {min(contract.quantiles, key=lambda each: abs(each - wanted)) for wanted in WANTED_QUANTILES}
        )
        self._subscription = {
            "type": "subscribe",
            "servers": ["*"],
            "targets": [target],
            "quantiles": quantiles,
        }
        self._beside: set[str] = set()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                await self._read_connection()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _read_connection(self) -> None:
        async with self._session.ws_connect(self._url, heartbeat=10.0) as socket:
            await socket.send_str(msgspec.json.encode(self._subscription).decode())
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._take_frame(msgspec.json.decode(message.data, type=_WatchedFrame))

    def _take_frame(self, frame: "_WatchedFrame") -> None:
        if frame.type == "subscribed":
            self.subscriptions += 1
        elif frame.type == "error":
            self._write_line(f"  the subscription is refused: {frame.message}")
        elif frame.type == "forecast":
            self.forecasts[frame.server] += 1
            self.newest[frame.server] = max(frame.origin, self.newest.get(frame.server, 0.0))
            if frame.server == self._shown:
                self._write_line(self._format_forecast(frame))
                self._beside = set()
            else:
                self._beside.add(frame.server)

    def _format_forecast(self, frame: "_WatchedFrame") -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(frame.origin))
        steps = frame.values[0]
        ranges = (
            f"{_format_range(steps[0])}, in {len(steps) * self._step_seconds / 60:.0f} min {_format_range(steps[-1])}"
        )
        beside = f"; {len(self._beside)} more servers" if self._beside else ""
        return f"  {clock}  {frame.server}  {frame.targets[0]} {ranges}{beside}"


def _format_range(quantiles: list[float | None]) -> str:
    if any(value is None for value in quantiles):
        return "unknown"
    low, *_, high = quantiles
    middle = quantiles[len(quantiles) // 2]
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


class _WatchedFrame(msgspec.Struct):
    """Any frame that a subscriber gets."""

    type: str
    server: str = ""
    origin: float = 0.0
    targets: list[str] = []
    values: list[list[list[float | None]]] = []
    message: str = ""
