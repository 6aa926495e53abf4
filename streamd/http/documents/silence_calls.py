"""The calls of silences and of alert rules as the document describes them."""

from typing import Annotated, Literal

import msgspec

from streamd.core import errors
from streamd.core.alerts.silences import MAX_SILENCE_SECONDS, MAX_SILENCED_SERVERS
from streamd.http.access.rules import RouteKey
from streamd.http.documents.operations import (
    BODY_ERRORS,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
    make_content,
)
from streamd.http.documents.schemas import TEXT_SCHEMA, SchemaBook
from streamd.http.routes.silences import SilenceRequestBody


class SilenceEntry(msgspec.Struct):
    """A silence; null means all rules. Times are epoch seconds."""

    id: str
    servers: list[str]
    rules: list[str] | None
    starts_at: float
    ends_at: float
    who: str
    why: str


class SilencesAnswer(msgspec.Struct):
    """The silences that hold, with those of their names and globs that may choose servers of the caller."""

    silences: list[SilenceEntry]


class SilenceAnswer(msgspec.Struct):
    """The silence that has begun."""

    silence: SilenceEntry


class AlertRuleEntry(msgspec.Struct, kw_only=True):
    """A rule, with either `above` or `below`.

    `unknown` is there, and true, if a server was named whose newest forecast does not know the target.
    """

    rule: str
    target: str
    unit: str
    above: float | msgspec.UnsetType = msgspec.UNSET
    below: float | msgspec.UnsetType = msgspec.UNSET
    quantile: float
    within_seconds: float
    consecutive: Annotated[int, msgspec.Meta(ge=1)] = msgspec.field(name="for")
    hysteresis: float
    min_rows: int
    servers: list[str]
    severity: Literal["info", "warning", "critical"]
    labels: dict[str, str]
    annotations: dict[str, str]
    unknown: Literal[True] | msgspec.UnsetType = msgspec.UNSET


class AlertRulesAnswer(msgspec.Struct):
    """The rules, with those of their names and globs that may choose servers of the caller."""

    rules: list[AlertRuleEntry]


def describe_silence_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of silences and of rules by route."""
    return {
        ("GET", "/v1/alerts/rules"): DocumentedCall(
            name="listAlertRules",
            group="alerts",
            text="Return the rules that forecasts are judged by.",
            parameters=(DocumentedParameter(name="server", schema=TEXT_SCHEMA, text="Rules of this server only."),),
            answers={
                200: DocumentedAnswer(text="The rules.", content=make_content(book.refer(AlertRulesAnswer))),
                **describe_failures(book, (errors.InvalidInputError, errors.UnknownServerError)),
            },
        ),
        ("GET", "/v1/silences"): DocumentedCall(
            name="listSilences",
            group="alerts",
            text="Return the silences that hold.",
            answers={
                200: DocumentedAnswer(text="The silences.", content=make_content(book.refer(SilencesAnswer))),
                **describe_failures(book, (errors.InvalidInputError, errors.UnavailableError)),
            },
        ),
        ("POST", "/v1/silences"): DocumentedCall(
            name="beginSilence",
            group="alerts",
            text="Let no receiver be notified of alerts that begin, for some servers and rules, until a time.",
            details=f"With either `seconds` or `until`, at most {MAX_SILENCE_SECONDS / 86_400:g} days ahead; with 1 to"
            f" {MAX_SILENCED_SERVERS} names or globs in `servers`, and a reason. The token needs the scope for every"
            " server that the globs may choose.",
            body=make_content(book.refer(SilenceRequestBody)),
            answers={
                201: DocumentedAnswer(
                    text="The silence is on the disk.",
                    content=make_content(book.refer(SilenceAnswer)),
                    links={"endSilence": {"id": "$response.body#/silence/id"}},
                ),
                **describe_failures(book, (*BODY_ERRORS, errors.InvalidInputError)),
            },
        ),
        ("DELETE", "/v1/silences/{id}"): DocumentedCall(
            name="endSilence",
            group="alerts",
            text="End a silence before its time.",
            parameters=(DocumentedParameter(name="id", schema=TEXT_SCHEMA, text="The id of a silence.", place="path"),),
            answers={
                204: DocumentedAnswer(text="The silence has ended."),
                **describe_failures(
                    book, (errors.InvalidInputError, errors.UnknownSilenceError, errors.UnavailableError)
                ),
            },
        ),
    }
