"""An asyncio client of the daemon: `Client`, its answers and its errors.

async with Client("http://127.0.0.1:8002") as client:
    await client.push_samples([ClientSample("web-01", {"cpu_user": 12.5})])
    async with client.subscribe(["web-*"]) as events:
        async for event in events:
            ...

Needs aiohttp, msgspec and numpy, and nothing of the daemon.
"""

from streamd.client.alerts import AlertReader, AlertUpdate, CrossingBounds, ReportedAlert
from streamd.client.answers import PredictAnswer, ReportingServer, WindowContent
from streamd.client.client import Client
from streamd.client.errors import ClientError, DaemonUnreachableError, RefusedError
from streamd.client.forecast_reader import ForecastReader
from streamd.client.forecasts import (
    ForecastBatch,
    ForecastEvent,
    ForecastPending,
    MissedForecasts,
    MissReason,
    Reconnected,
    ServerForecast,
)
from streamd.client.ingest_socket import IngestSocket
from streamd.client.samples import ClientSample, PushResult, Rejection

__all__ = [
    "AlertReader",
    "AlertUpdate",
    "Client",
    "ClientError",
    "ClientSample",
    "CrossingBounds",
    "DaemonUnreachableError",
    "ForecastBatch",
    "ForecastEvent",
    "ForecastPending",
    "ForecastReader",
    "IngestSocket",
    "MissReason",
    "MissedForecasts",
    "PredictAnswer",
    "PushResult",
    "Reconnected",
    "RefusedError",
    "Rejection",
    "ReportedAlert",
    "ReportingServer",
    "ServerForecast",
    "WindowContent",
]
