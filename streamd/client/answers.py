"""The answers to single calls, as typed values. Pure."""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.client.alerts import ReportedAlert
from streamd.client.tensors import ReceivedTensor


class ReportingServer(msgspec.Struct, frozen=True):
    """A server that reports."""

    server: str
    have: int
    """The rows in its window."""
    origin: float | None = None
    """The time at which its newest row ends."""
    last_forecast: float | None = None
    """The origin of its latest forecast."""


class ServerListPage(msgspec.Struct):
    """A page of servers."""

    servers: list[ReportingServer]
    next: str | None = None


class AlertListPage(msgspec.Struct):
    """A page of alerts."""

    alerts: list[ReportedAlert]
    next: str | None = None


class WindowMessage(msgspec.Struct):
    """The window of a server, as it comes."""

    server: str
    step_seconds: float
    origin: float | None
    have: int
    features: tuple[str, ...]
    values: ReceivedTensor


class WindowContent(msgspec.Struct, frozen=True, kw_only=True):
    """The window of one server."""

    server: str
    step_seconds: float
    origin: float | None
    """The time at which the newest row ends; `None` without any row."""
    have: int
    """The rows that it really has."""
    features: tuple[str, ...]
    values: npt.NDArray[np.float32]
    """`(row, feature)`, oldest row first; NaN where a value is missing."""


class PredictAnswer(msgspec.Struct, frozen=True):
    """Forecasts of the caller's own windows."""

    predictions: npt.NDArray[np.float32]
    """In the shape of the model's output, with the batch axis if the inputs had it."""
    model: str


class PredictMessage(msgspec.Struct):
    """The answer to a predict call, as it comes."""

    outputs: dict[str, ReceivedTensor]
    model: str


def convert_tensors(value: Any) -> Any:
    """Return a decoded answer with arrays in place of its tensors."""
    if isinstance(value, list):
        return [convert_tensors(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"shape", "dtype", "data"}:
        return ReceivedTensor(tuple(value["shape"]), value["dtype"], memoryview(value["data"])).to_array()
    return {name: convert_tensors(each) for name, each in value.items()}
