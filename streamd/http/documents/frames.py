"""The types of the frames that the daemon sends, as they are in JSON; a test compares real frames with them."""

from typing import Annotated, Literal

import msgspec

from streamd.http.documents.answers import (
    Count,
    ForecastAnswer,
    ForecastFence,
    OriginTime,
    SampleRejection,
    TargetValues,
    UnknownNames,
)
from streamd.http.unsubscribing import SubscriptionKind
from streamd.http.wire.body_types import Identifier

EventId = Annotated[int, msgspec.Meta(ge=0, description="A reader that continues from it misses nothing.")]


class AckFrame(msgspec.Struct, kw_only=True):
    """The answer to a frame of samples: the accepted rows survive a `kill -9` of the daemon."""

    type: Literal["ack"]
    id: Identifier
    accepted: Count
    rejected: Count
    errors: list[SampleRejection]


class SubscribedFrame(msgspec.Struct, kw_only=True):
    """The subscription as it was understood."""

    type: Literal["subscribed"]
    servers: list[str]
    targets: list[str]
    quantiles: list[float]
    every: Count
    batch: bool
    interval_seconds: float | msgspec.UnsetType = msgspec.UNSET
    dtype: str
    step_seconds: Count
    model: str
    ids: bool | msgspec.UnsetType = msgspec.UNSET
    id: EventId | msgspec.UnsetType = msgspec.UNSET


class PushedForecast(ForecastAnswer, kw_only=True):
    """The forecast of one server, with the id from which a reader continues if the subscription requests ids."""

    id: EventId | msgspec.UnsetType = msgspec.UNSET


class UnsubscribedFrame(msgspec.Struct, kw_only=True):
    """The subscriptions that ended, of which no frame follows."""

    type: Literal["unsubscribed"]
    of: list[SubscriptionKind]


class LaggedFrame(msgspec.Struct):
    """The subscriber read too slowly, and missed as many older forecasts."""

    type: Literal["lagged"]
    dropped: Count


class ForecastsFrame(msgspec.Struct, kw_only=True):
    """Several forecasts: `values[forecast][target][step][quantile]`.

    `unknown` has a list for each forecast, and is there if one of them is not empty.
    """

    type: Literal["forecasts"]
    servers: list[str]
    origins: list[OriginTime]
    contexts: list[Count]
    fences: list[ForecastFence] | msgspec.UnsetType = msgspec.UNSET
    step_seconds: Count
    model: str | list[str]
    targets: list[str]
    quantiles: list[float]
    values: list[list[TargetValues | None]]
    every: Count | msgspec.UnsetType = msgspec.UNSET
    unknown: list[UnknownNames] | msgspec.UnsetType = msgspec.UNSET
    id: EventId | msgspec.UnsetType = msgspec.UNSET
