"""The calls of alerts as the document describes them, with the type of an alert on the wire."""

from typing import Literal

import msgspec

from streamd.core import errors
from streamd.http.access.rules import RouteKey
from streamd.http.documents.operations import (
    EVENT_STREAM,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
    make_content,
)
from streamd.http.documents.parameters import list_filter_parameters, make_event_schema, make_limit_parameter
from streamd.http.documents.schemas import TEXT_SCHEMA, SchemaBook, make_enum_schema, make_list_schema
from streamd.http.routes.servers import DEFAULT_LIMIT, MAX_LIMIT
from streamd.runtime.alerts.alert import AlertState, ResolveReason

ALERT_EVENTS = ("subscribed-alerts", "alerts")


class AlertTimes(msgspec.Struct):
    """Times of the curves of a high, the middle and a low quantile; null if the curve does not cross in the horizon."""

    earliest: float | None
    likely: float | None
    latest: float | None


class AlertEntry(msgspec.Struct, kw_only=True):
    """An alert, with either `above` or `below`. Times are epoch seconds."""

    rule: str
    server: str
    state: AlertState
    severity: Literal["info", "warning", "critical"]
    labels: dict[str, str]
    annotations: dict[str, str]
    target: str
    unit: str
    quantile: float
    above: float | msgspec.UnsetType = msgspec.UNSET
    below: float | msgspec.UnsetType = msgspec.UNSET
    within_seconds: float
    starts_at: float | None
    ends_at: float | None
    reason: ResolveReason
    origin: int
    model: str
    crosses_at: AlertTimes
    seconds_until: AlertTimes
    updated_at: float
    silenced_until: float | None


class AlertsAnswer(msgspec.Struct):
    """A page of alerts, by server and rule; `next` is the cursor of the next page, null on the last one."""

    alerts: list[AlertEntry]
    next: str | None


class SubscribedAlertsFrame(msgspec.Struct):
    """The subscription to alerts as it was understood; null means all rules."""

    type: Literal["subscribed-alerts"]
    servers: list[str]
    rules: list[str] | None


class AlertsFrame(msgspec.Struct):
    """Alerts in their newest state: first all that are active (`snapshot`), then each change; `more` follow at once."""

    type: Literal["alerts"]
    snapshot: bool
    more: bool
    alerts: list[AlertEntry]


def describe_alert_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of alerts by route."""
    choice = (
        *list_filter_parameters(),
        DocumentedParameter(
            name="rule", schema=make_list_schema(TEXT_SCHEMA), text="Names of rules; default: all rules."
        ),
    )
    return {
        ("GET", "/v1/alerts"): DocumentedCall(
            name="listAlerts",
            group="alerts",
            text="Return the alerts that the caller may read, page by page.",
            parameters=(
                DocumentedParameter(
                    name="state",
                    schema=make_list_schema(make_enum_schema(state.value for state in AlertState)),
                    text="States of alerts; default: firing and pending.",
                ),
                *choice,
                make_limit_parameter(DEFAULT_LIMIT, MAX_LIMIT),
                DocumentedParameter(name="cursor", schema=TEXT_SCHEMA, text="The `next` of the previous page."),
            ),
            answers={
                200: DocumentedAnswer(text="A page.", content=make_content(book.refer(AlertsAnswer))),
                **describe_failures(book, (errors.InvalidInputError, errors.UnknownServerError)),
            },
        ),
        ("GET", "/v1/alerts/stream"): DocumentedCall(
            name="streamAlerts",
            group="alerts",
            text="Push alerts as server-sent events: first those that are active, then each change.",
            details="The events are in `/asyncapi.json`. `HEAD` is not served.",
            parameters=choice,
            answers={
                200: DocumentedAnswer(
                    text="Events, as they come.", content={EVENT_STREAM: make_event_schema(*ALERT_EVENTS)}
                ),
                **describe_failures(book, (errors.InvalidSelectionError, errors.TooBusyError, errors.DrainingError)),
            },
        ),
    }
