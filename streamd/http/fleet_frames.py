"""The messages of the fleet: the query that comes in, by a message or as parameters, and its repetition.

Pure functions; the overview makes the frames.
"""

from collections.abc import Collection, Iterable
from typing import Any, Literal

import msgspec

from streamd.core.errors import InvalidSelectionError
from streamd.core.fleet.query import DEFAULT_VIEW_ENTRIES, FleetQuery, make_fleet_query
from streamd.http.query_values import collect_values, split_list
from streamd.http.wire.codecs import Decoder, Encoding
from streamd.runtime.fleet.entries import FleetFormat

SUBSCRIBE_FLEET = "subscribe-fleet"

FLEET_FRAME = "fleet"
"""The type of the frames that the overview makes."""


class SubscribeFleetMessage(msgspec.Struct, kw_only=True):
    """The `subscribe-fleet` message: the servers to see, their order, and the part of the list that is in view."""

    type: Literal["subscribe-fleet"]
    search: str = ""
    prefix: str | None = None
    target: str | None = None
    rule: str | None = None
    condition: list[str] = msgspec.field(default_factory=list)
    sort: str = "worst"
    group: bool = False
    offset: int = 0
    limit: int = DEFAULT_VIEW_ENTRIES


_decoder = Decoder(SubscribeFleetMessage)

FLEET_PARAMETERS = tuple(name for name in SubscribeFleetMessage.__struct_fields__ if name != "type")
"""The parameters of a query; `condition` is a list, the others may be given once."""


def parse_fleet_subscription(targets: Collection[str], data: bytes | str, encoding: Encoding) -> FleetQuery:
    """Parse a `subscribe-fleet` frame; raises `MalformedError` or `InvalidSelectionError`."""
    return _make_query(targets, _decoder.decode(data, encoding))


def parse_fleet_query(targets: Collection[str], parameters: Iterable[tuple[str, str]]) -> FleetQuery:
    """Parse the parameters of a call; raises `InvalidSelectionError`."""
    single = tuple(name for name in FLEET_PARAMETERS if name != "condition")
    query = collect_values(parameters, FLEET_PARAMETERS, single)
    given: dict[str, Any] = {name: query[name][0] for name in single if name in query}
    try:
        message = msgspec.convert(
            {"type": SUBSCRIBE_FLEET, "condition": split_list(query.get("condition", ())), **given},
            SubscribeFleetMessage,
            strict=False,
        )
    except msgspec.ValidationError as exc:
        raise InvalidSelectionError(str(exc)) from exc
    return _make_query(targets, message)


def _make_query(targets: Collection[str], message: SubscribeFleetMessage) -> FleetQuery:
    return make_fleet_query(
        targets,
        search=message.search,
        prefix=message.prefix,
        target=message.target,
        rule=message.rule,
        conditions=message.condition,
        sort=message.sort,
        is_grouped=message.group,
        offset=message.offset,
        limit=message.limit,
    )


def describe_fleet_query(query: FleetQuery) -> dict[str, Any]:
    """Return the `subscribed-fleet` message, which repeats the query as it was understood."""
    return {
        "type": "subscribed-fleet",
        "search": query.search,
        "prefix": query.prefix,
        "target": query.target,
        "rule": query.rule,
        "condition": sorted(query.conditions),
        "sort": query.sort,
        "group": query.is_grouped,
        "offset": query.offset,
        "limit": query.limit,
    }


def choose_format(encoding: Encoding) -> FleetFormat:
    """Return the form in which the overview makes the frames of a reader."""
    return FleetFormat.JSON if encoding is Encoding.JSON else FleetFormat.MSGPACK
