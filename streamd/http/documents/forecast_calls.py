"""The calls of forecasts, and of what came true, as the document describes them."""

from streamd.core import errors
from streamd.http.access.rules import RouteKey
from streamd.http.documents.answers import ForecastAnswer, WaitingAnswer
from streamd.http.documents.operations import (
    EVENT_STREAM,
    JSON,
    MSGPACK,
    PLAIN_TEXT,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
)
from streamd.http.documents.parameters import (
    list_filter_parameters,
    list_slice_parameters,
    make_event_schema,
    make_path_parameter,
    make_server_parameter,
)
from streamd.http.documents.schemas import ANY_SCHEMA, TEXT_SCHEMA, Schema, SchemaBook

EVENT_ID_SCHEMA: Schema = {"type": "string", "pattern": "^[0-9]{0,18}$"}
"""The id of an event; empty as if it were not there."""


def describe_forecast_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of forecasts by route."""
    parts = list_slice_parameters(book.contract)
    latest = {"anyOf": [book.refer(ForecastAnswer), book.refer(WaitingAnswer)]}
    answers = {
        200: DocumentedAnswer(
            text="The latest forecast, or how many rows the window still needs.",
            content={JSON: latest, MSGPACK: ANY_SCHEMA},
        ),
        **describe_failures(book, (errors.InvalidSelectionError, errors.UnknownServerError)),
    }
    return {
        ("GET", "/v1/forecasts"): DocumentedCall(
            name="getForecastByName",
            group="forecasts",
            text="Return the latest forecast of the server that the parameter `server` names.",
            details="A request that upgrades to a WebSocket subscribes instead: see `/asyncapi.json`.",
            parameters=(make_server_parameter(is_required=True), *parts),
            answers=answers,
        ),
        ("GET", "/v1/forecasts/{server}"): DocumentedCall(
            name="getForecast",
            group="forecasts",
            text="Return the latest forecast of a server.",
            parameters=(make_path_parameter(), *parts),
            answers=answers,
        ),
        ("GET", "/v1/forecasts/stream"): DocumentedCall(
            name="streamForecasts",
            group="forecasts",
            text="Push forecasts as server-sent events, until the caller leaves.",
            details="The events are in `/asyncapi.json`. `HEAD` is not served.",
            parameters=(
                *list_filter_parameters(),
                *parts,
                DocumentedParameter(
                    name="last_event_id",
                    schema=EVENT_ID_SCHEMA,
                    text="As the header: first the forecasts that were posted since this event.",
                ),
                DocumentedParameter(
                    name="Last-Event-ID",
                    schema=EVENT_ID_SCHEMA,
                    text="Sent by a client that connects again.",
                    place="header",
                ),
            ),
            answers={
                200: DocumentedAnswer(
                    text="Events, as they come.", content={EVENT_STREAM: make_event_schema("forecast", "lagged")}
                ),
                **describe_failures(book, (errors.InvalidSelectionError, errors.TooBusyError, errors.DrainingError)),
            },
        ),
    }


def describe_forecast_metrics(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the call that shows forecasts as metrics, by route."""
    return {
        ("GET", "/metrics/forecasts"): DocumentedCall(
            name="getForecastMetrics",
            group="forecasts",
            text="Return the forecasts of the servers that the caller may read as metrics.",
            details="In the Prometheus text format, or as OpenMetrics if `Accept` names it. `HEAD` is not served.",
            answers={
                200: DocumentedAnswer(
                    text="The metrics.", content={PLAIN_TEXT: TEXT_SCHEMA, "application/openmetrics-text": TEXT_SCHEMA}
                ),
                **describe_failures(book, ()),
            },
        ),
    }
