"""The call and the frames of the fleet as the documents describe them."""

from typing import Literal

import msgspec

from streamd.core import errors
from streamd.core.fleet.query import (
    CONDITIONS,
    DEFAULT_VIEW_ENTRIES,
    MAX_OFFSET,
    MAX_SEARCH_CHARACTERS,
    MAX_VIEW_ENTRIES,
    SORTS,
    FleetSort,
)
from streamd.http.access.rules import RouteKey
from streamd.http.documents.alert_calls import AlertTimes
from streamd.http.documents.answers import Count, OriginTime
from streamd.http.documents.operations import (
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
    make_content,
)
from streamd.http.documents.parameters import make_limit_parameter
from streamd.http.documents.schemas import TEXT_SCHEMA, SchemaBook, make_enum_schema, make_list_schema

ServerCondition = Literal["pending", "stale", "warming", "current"]
FleetFilter = Literal["firing", "pending", "stale", "warming", "current"]
AlertSeverity = Literal["info", "warning", "critical"]


class FleetCrossing(msgspec.Struct, kw_only=True):
    """A rule whose threshold is crossed, with either `above` or `below`. Times are epoch seconds."""

    rule: str
    target: str
    unit: str
    above: float | msgspec.UnsetType = msgspec.UNSET
    below: float | msgspec.UnsetType = msgspec.UNSET
    severity: AlertSeverity
    crosses_at: AlertTimes


class GroupCrossing(FleetCrossing, kw_only=True):
    """The crossing of the worst server of a group that has one."""

    server: str


class FleetAlert(msgspec.Struct, kw_only=True):
    """An active alert of a server."""

    rule: str
    target: str
    state: Literal["pending", "firing"]
    severity: AlertSeverity
    starts_at: float | None
    silenced_until: float | None


class FleetServer(msgspec.Struct, kw_only=True):
    """A server at a glance: targets that no agent sends any more (`missing`), or none sends (`unknown`), and what lies
    ahead, the most important in `crossing`.
    """

    server: str
    condition: ServerCondition
    have: Count
    need: Count
    origin: OriginTime | None
    forecast_origin: OriginTime | None
    missing: list[str]
    unknown: list[str]
    crossing: FleetCrossing | None
    further: list[FleetCrossing]
    alerts: list[FleetAlert]


class FleetGroup(msgspec.Struct, kw_only=True):
    """All servers with the same prefix, counted by their condition; `firing` have an alert that fires."""

    prefix: str
    servers: Count
    firing: Count
    pending: Count
    stale: Count
    warming: Count
    current: Count
    crossing: GroupCrossing | None


class FleetCounts(msgspec.Struct, kw_only=True):
    """The servers that the caller may see by condition, and those with an alert that fires and is not silenced."""

    firing: Count
    pending: Count
    stale: Count
    warming: Count
    current: Count


class FleetAnswer(msgspec.Struct, kw_only=True):
    """A part of the list of servers, or of groups: the entries from `offset` on, of `matching` in all."""

    now: float
    total: Count
    matching: Count
    offset: Count
    counts: FleetCounts
    servers: list[FleetServer] | msgspec.UnsetType = msgspec.UNSET
    groups: list[FleetGroup] | msgspec.UnsetType = msgspec.UNSET


class FleetFrame(FleetAnswer, kw_only=True):
    """The names in view in their order, and the entries that are new in it or have changed."""

    type: Literal["fleet"]
    order: list[str]


class SubscribedFleetFrame(msgspec.Struct, kw_only=True):
    """The subscription to the fleet as it was understood."""

    type: Literal["subscribed-fleet"]
    search: str
    prefix: str | None
    target: str | None
    rule: str | None
    condition: list[FleetFilter]
    sort: FleetSort
    group: bool
    offset: Count
    limit: Count


def describe_fleet_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the call of the fleet by route."""
    return {
        ("GET", "/v1/fleet"): DocumentedCall(
            name="getFleet",
            group="servers",
            text="Show all servers at a glance, worst first.",
            details="The same as it changes: the message `subscribe-fleet` in `/asyncapi.json`.",
            parameters=(
                DocumentedParameter(
                    name="search",
                    schema={"type": "string", "maxLength": MAX_SEARCH_CHARACTERS},
                    text="A part of the name; with `*`, `?` or `[` also a glob over the whole name. Ignores case.",
                ),
                DocumentedParameter(
                    name="prefix",
                    schema={"type": "string", "maxLength": MAX_SEARCH_CHARACTERS},
                    text="The prefix of a group, whose servers alone are shown; default: all servers.",
                ),
                DocumentedParameter(
                    name="target",
                    schema=make_enum_schema([*book.contract.targets, ""]),
                    text="The only target whose rules count; default, and if it is empty: all.",
                ),
                DocumentedParameter(
                    name="rule",
                    schema=TEXT_SCHEMA,
                    text="The only rule that counts, of whose servers alone there are entries; default: all rules.",
                ),
                DocumentedParameter(
                    name="condition",
                    schema=make_list_schema(make_enum_schema(("", *CONDITIONS))),  # a form may send it empty
                    text="Some of the conditions, and `firing`; default, also if empty: all servers. Or with commas.",
                ),
                DocumentedParameter(
                    name="sort",
                    schema=make_enum_schema(SORTS, default="worst"),
                    text="Worst first, by name, or the oldest forecast first.",
                ),
                DocumentedParameter(
                    name="group",
                    schema={"type": "boolean", "default": False},
                    text="One entry for all servers with the same prefix.",
                ),
                DocumentedParameter(
                    name="offset",
                    schema={"type": "integer", "minimum": 0, "maximum": MAX_OFFSET, "default": 0},
                    text="The place of the first entry.",
                ),
                make_limit_parameter(DEFAULT_VIEW_ENTRIES, MAX_VIEW_ENTRIES),
            ),
            answers={
                200: DocumentedAnswer(
                    text="The servers, or with `group` the groups.", content=make_content(book.refer(FleetAnswer))
                ),
                **describe_failures(book, (errors.InvalidSelectionError, errors.UnavailableError)),
            },
        ),
    }
