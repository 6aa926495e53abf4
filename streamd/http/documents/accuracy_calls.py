"""The calls of past forecasts against what came true, as the document describes them."""

import msgspec

from streamd.core import errors
from streamd.http.access.rules import RouteKey
from streamd.http.documents.operations import (
    JSON,
    MSGPACK,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
)
from streamd.http.documents.parameters import (
    list_slice_parameters,
    make_limit_parameter,
    make_path_parameter,
    make_server_parameter,
)
from streamd.http.documents.schemas import ANY_SCHEMA, Schema, SchemaBook
from streamd.http.history_choices import DEFAULT_FORECASTS, MAX_FORECASTS, MAX_STEP

TIME_SCHEMA: Schema = {
    "anyOf": [
        {"type": "number", "minimum": 0, "exclusiveMaximum": MAX_STEP},
        {"type": "string", "format": "date-time"},
    ]
}
"""Epoch seconds, or RFC 3339 with an offset."""


class PastForecast(msgspec.Struct, kw_only=True):
    """A past forecast, `values[target][step][quantile]`, and what came true, `truth[target][step]`.

    A target of `unknown` has null in place of its values.
    """

    origin: int
    model: str
    unknown: list[str] | msgspec.UnsetType = msgspec.UNSET
    values: list[list[list[float | None]] | None]
    truth: list[list[float | None]]
    is_complete: bool


class AccuracyScore(msgspec.Struct, kw_only=True):
    """The errors of forecasts of a target, in a range of steps."""

    target: str
    range: str
    loss: float
    coverage: float | None
    mae: float
    count: int


class ForecastScore(AccuracyScore, kw_only=True):
    """The errors of one forecast."""

    origin: int
    model: str


class AccuracyAnswer(msgspec.Struct, kw_only=True):
    """The newest forecasts of a server that are kept, the scores of more of them, and those of the whole period."""

    server: str
    step_seconds: int
    targets: list[str]
    quantiles: list[float]
    every: int | msgspec.UnsetType = msgspec.UNSET
    forecasts: list[PastForecast]
    scores: list[ForecastScore]
    summary: list[AccuracyScore]


def describe_accuracy_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of the accuracy history by route."""
    targets, _, every = list_slice_parameters(book.contract)
    period = tuple(
        DocumentedParameter(name=name, schema=TIME_SCHEMA, text=f"The {place} origin, as epoch seconds or RFC 3339.")
        for name, place in (("since", "first"), ("until", "last"))
    )
    more = (targets, every, make_limit_parameter(DEFAULT_FORECASTS, MAX_FORECASTS), *period)
    answers = {
        200: DocumentedAnswer(
            text="Forecasts and their scores.", content={JSON: book.refer(AccuracyAnswer), MSGPACK: ANY_SCHEMA}
        ),
        **describe_failures(book, (errors.InvalidSelectionError, errors.UnknownServerError, errors.UnavailableError)),
    }
    return {
        ("GET", "/v1/servers/{server}/accuracy"): DocumentedCall(
            name="getAccuracy",
            group="forecasts",
            text="Return past forecasts of a server against what came true.",
            parameters=(make_path_parameter(), *more),
            answers=answers,
        ),
        ("GET", "/v1/accuracy"): DocumentedCall(
            name="getAccuracyByName",
            group="forecasts",
            text="Return past forecasts of the server that the parameter `server` names against what came true.",
            parameters=(make_server_parameter(is_required=True), *more),
            answers=answers,
        ),
    }
