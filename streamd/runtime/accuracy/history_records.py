"""The content of the file of the history, on its way in and out. Data only; arrays are those of `HistoryForm`."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from streamd.core.accuracy.history_scores import HistoryForm
from streamd.core.arrays import Float32, Float64


class KeptForecast(NamedTuple):
    """A forecast to store: `values (targets, horizon, kept quantiles)` from the rows up to `step`."""

    server: str
    step: int
    model: str
    values: Float32


class KnownTruth(NamedTuple):
    """The truth `(targets, horizon)` of the forecast from `step`, NaN where it is missing."""

    server: str
    step: int
    truth: Float32


class DroppedHistory(NamedTuple):
    """A server whose history is deleted; with `after`, only what was made or scored by rows after that step."""

    server: str
    after: int | None = None


Change = KeptForecast | KnownTruth | DroppedHistory


@dataclass
class StoredServer:
    """A server of the file: its newest step, and the steps of the forecasts that have no truth yet."""

    newest: int
    pending: list[int] = field(default_factory=list)


class StoredForecast(NamedTuple):
    """A stored forecast and its truth, NaN where it is missing; before its horizon is over, all of it is."""

    step: int
    model: str
    values: Float32
    truth: Float32
    is_complete: bool


class StoredScores(NamedTuple):
    """The sums of one forecast, `(targets, ranges, columns)`."""

    step: int
    model: str
    sums: Float32


class ServerHistory(NamedTuple):
    """The history of one server: the newest forecasts and scores, oldest first, and the sums of all scores."""

    forecasts: list[StoredForecast]
    scores: list[StoredScores]
    total: Float64
    scored: int
    """The number of forecasts in `total`."""


def make_empty_history(form: HistoryForm) -> ServerHistory:
    """Return the history of a server of which nothing is stored."""
    return ServerHistory([], [], np.zeros(form.sums_shape), 0)
