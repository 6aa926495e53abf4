"""Pushes the rows of one server to a running daemon, and prints its forecasts as they come.

make demo KEEP=1                      # a daemon that stays, at http://127.0.0.1:8002
.venv/bin/python examples/client.py

The rows are made up: a load that rises and falls once a day. They are of the last hours, so that no time lies ahead of
the clock: first as many as a forecast needs, at once, then one after another. The daemon keeps the server.
"""

import argparse
import asyncio
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamd.client import Client, ClientError, MissedForecasts, Reconnected, ServerForecast

LARGEST_OF_UNIT = {"percent": 60.0, "bytes/s": 2e6, "count": 40.0, "s": 1e6}
"""The height of the made-up load, by the unit of the feature; 2 for others."""


def make_row(contract: dict[str, Any], moment: float) -> list[float]:
    """Make the values of one row, in the order of the features: a load that is at no hour near 0."""
    share = 0.6 - 0.4 * math.cos(moment / 86_400 * 2 * math.pi)
    return [LARGEST_OF_UNIT.get(contract["units"].get(name, ""), 2.0) * share for name in contract["features"]]


def list_moments(contract: dict[str, Any], rows: int) -> list[float]:
    """List the beginnings of the steps that a forecast needs, and of `rows` more; the last step is over."""
    step_seconds = contract["step_seconds"]
    last = time.time() // step_seconds * step_seconds - step_seconds
    return [last - step_seconds * age for age in reversed(range(contract["need"] + rows))]


async def push_rows(
    client: Client, server: str, contract: dict[str, Any], moments: Sequence[float], pause_seconds: float
) -> None:
    """Push the rows that a forecast needs at once, then one row after another."""
    features, history = contract["features"], moments[: contract["need"]]
    async with client.open_ingest() as ingest:
        values = np.array([make_row(contract, moment) for moment in history])
        result = await ingest.push_columns([server] * len(history), history, features, values)
        print(f"history: {result.accepted} rows accepted, {result.rejected} rejected")
        for moment in moments[contract["need"] :]:
            await asyncio.sleep(pause_seconds)
            await ingest.push_columns([server], moment, features, [make_row(contract, moment)])


def format_forecast(forecast: ServerForecast) -> str:
    """Format the forecast of the first target as one line."""
    low, *_, high = forecast.quantiles
    middle = forecast.quantiles[len(forecast.quantiles) // 2]
    target = forecast.targets[0]
    values = [forecast.get_curve(target, quantile)[-1] for quantile in (middle, low, high)]
    hours = (forecast.times[-1] - forecast.origin) / 3600
    clock = time.strftime("%H:%M", time.localtime(forecast.origin))
    return (
        f"{clock}  {forecast.server}  {target} in {hours:.1f} h: {values[0]:.1f} ({values[1]:.1f} to {values[2]:.1f})"
    )


async def run(url: str, token: str | None, server: str, rows: int, pause_seconds: float) -> None:
    """Subscribe, push, and print until the forecast of the last row has come."""
    async with Client(url, token) as client:
        contract = (await client.get_status())["contract"]
        moments = list_moments(contract, rows)
        end = moments[-1] + contract["step_seconds"]
        async with client.subscribe([server]) as events:
            pushing = asyncio.create_task(push_rows(client, server, contract, moments, pause_seconds))
            async for event in events:
                match event:
                    case ServerForecast():
                        print(format_forecast(event))
                        if event.origin >= end:
                            break
                    case MissedForecasts(count, reason):
                        print(f"{count} forecasts were replaced by newer ones ({reason})")
                    case Reconnected(away_seconds):
                        print(f"the connection was lost for {away_seconds:.1f} s")
            await pushing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; returns its exit status."""
    parser = argparse.ArgumentParser(description="Push rows of one server and print its forecasts.")
    parser.add_argument("--url", default="http://127.0.0.1:8002", help="the daemon [default: %(default)s]")
    parser.add_argument("--server", default="example-01", help="the name of the server [default: %(default)s]")
    parser.add_argument("--rows", type=int, default=10, help="rows after the history [default: %(default)s]")
    parser.add_argument("--pause-seconds", type=float, default=1.0, help="time between them [default: %(default)s]")
    given = parser.parse_args(arguments)
    try:
        asyncio.run(run(given.url, os.environ.get("STREAMD_TOKEN"), given.server, given.rows, given.pause_seconds))
    except ClientError as error:
        print(f"client.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
