"""A subscriber that prints forecasts as they come, also over a daemon that is killed and comes back.

Checks nothing.
"""

import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from streamd.client import Client, ClientError, MissedForecasts, ServerForecast
from streamd.tools.loadtest.daemon import DaemonContract

SHOWN_TARGET = "cpu_user"
WANTED_QUANTILES = (0.1, 0.5, 0.9)

WriteLine = Callable[[str], None]


class ForecastWatcher:
    """Reads the forecasts of all servers; prints those of one of them, one line each."""

    def __init__(self, url: str, contract: DaemonContract, shown: str, write_line: WriteLine) -> None:
        self.forecasts: Counter[str] = Counter()
        """Forecasts received, by server."""
        self._url = url
        self._shown = shown
        self._write_line = write_line
        self._target = SHOWN_TARGET if SHOWN_TARGET in contract.targets else contract.targets[0]
        self._quantiles = sorted(
            {min(contract.quantiles, key=lambda each: abs(each - wanted)) for wanted in WANTED_QUANTILES}
        )
        self._beside: set[str] = set()

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            async with (
                Client(self._url) as client,
                client.subscribe(targets=[self._target], quantiles=self._quantiles) as events,
            ):
                async for event in events:
                    if isinstance(event, ServerForecast):
                        self._take_forecast(event)
                    elif isinstance(event, MissedForecasts):
                        self._write_line(f"  {event.count} forecasts were replaced by newer ones ({event.reason})")
        except ClientError as error:
            self._write_line(f"  the subscription is refused: {error}")

    def _take_forecast(self, forecast: ServerForecast) -> None:
        self.forecasts[forecast.server] += 1
        if forecast.server == self._shown:
            self._write_line(self._format_forecast(forecast))
            self._beside = set()
        else:
            self._beside.add(forecast.server)

    def _format_forecast(self, forecast: ServerForecast) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(forecast.origin))
        steps = forecast.values[0]
        minutes = len(steps) * forecast.step_seconds / 60
        ranges = f"{_format_range(steps[0])}, in {minutes:.0f} min {_format_range(steps[-1])}"
        beside = f"; {len(self._beside)} more servers" if self._beside else ""
        return f"  {clock}  {forecast.server}  {forecast.targets[0]} {ranges}{beside}"


def _format_range(quantiles: "np.ndarray[tuple[int, ...], np.dtype[np.floating]]") -> str:
    if np.isnan(quantiles).any():
        return "unknown"
    low, high, middle = quantiles[0], quantiles[-1], quantiles[len(quantiles) // 2]
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
