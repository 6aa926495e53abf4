"""Samples as the client sends them, one by one or in columns, and the answer to them. Pure.

The client's own copy of the wire contract: it shares no code with the daemon.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.client.tensors import make_tensor_object


class ClientSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """The measurements of one server at one time."""

    server: str
    values: Mapping[str, float | None]
    """Numbers by feature; `None` where the value is missing."""
    time: float | str = msgspec.field(default_factory=time.time)
    """Epoch seconds, or RFC 3339 with an offset; by default now."""
    status: int = 0
    """A number of the sender's choice, 0 to 15."""


class Rejection(msgspec.Struct, frozen=True):
    """One sample, or one row of columns, that the daemon rejected; it kept the others."""

    index: int
    code: str
    message: str = ""


class PushResult(msgspec.Struct, frozen=True):
    """The answer to samples: the accepted ones survive a `kill -9` of the daemon."""

    accepted: int
    rejected: int
    errors: list[Rejection] = []
    """The rejected ones; at most 1,000 are listed, `rejected` counts all."""


def make_samples_body(samples: Iterable[ClientSample]) -> dict[str, Any]:
    """Return the body of samples."""
    return {"samples": list(samples)}


def make_columns_body(
    servers: Sequence[str], times: float | Sequence[float], features: Sequence[str], values: npt.ArrayLike
) -> dict[str, Any]:
    """Return the body of many servers at once: `values (servers, features)`, NaN where one is missing.

    `times` is one time for all rows, or one for each. Raises `ValueError` if the lengths do not fit.
    """
    array = np.asarray(values, np.float32)
    if array.shape != (len(servers), len(features)):
        raise ValueError(
            f"values has the shape {array.shape}, expected {(len(servers), len(features))}: a row for each server, "
            "a column for each feature"
        )
    given = np.asarray(times, np.float64)
    if given.ndim and given.shape != (len(servers),):
        raise ValueError(
            f"times has the shape {given.shape}, expected one time, or one for each of {len(servers)} rows"
        )
    columns = {"servers": list(servers), "time": given.tolist(), "features": list(features)}
    return {"columns": {**columns, "values": make_tensor_object(array)}}
