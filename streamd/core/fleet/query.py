"""The query of a reader of the fleet: which servers it wants to see, in which order, and how many. Knows no server."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from streamd.core.errors import InvalidSelectionError
from streamd.core.fleet.conditions import Condition
from streamd.core.fleet.search import NameSearch

FleetSort = Literal["worst", "name", "age"]
"""Worst first, by name, or the oldest forecast first."""

FIRING = "firing"
"""In place of a condition: servers with an alert that fires and is not silenced."""

CONDITIONS = (FIRING, *(condition.label for condition in Condition))
"""The names by which servers are counted, and may be chosen."""

SORTS: tuple[str, ...] = get_args(FleetSort)

DEFAULT_VIEW_ENTRIES = 100
MAX_VIEW_ENTRIES = 500
"""Servers, or groups, in one answer."""

MAX_OFFSET = 100_000_000
MAX_SEARCH_CHARACTERS = 256
"""The length of a name: a longer text finds nothing."""


@dataclass(frozen=True, kw_only=True)
class FleetQuery:
    """A query, as `make_fleet_query` has checked it."""

    search: str = ""
    """A part of the names, or a glob over whole names, ignoring case; empty: all servers."""
    prefix: str | None = None
    """The only prefix (`find_prefix`): the servers of one group; `None`: all."""
    target: str | None = None
    """The only target whose rules count; `None`: all."""
    rule: str | None = None
    """The only rule that counts, with entries of its servers alone; `None`: all. If it does not exist: no entries."""
    conditions: frozenset[str] = frozenset()
    """Some of `CONDITIONS`; empty: all servers."""
    sort: FleetSort = "worst"
    is_grouped: bool = False
    """Whether there is one entry for all servers with the same prefix."""
    offset: int = 0
    limit: int = DEFAULT_VIEW_ENTRIES


def make_fleet_query(
    targets: Collection[str],
    *,
    search: str = "",
    prefix: str | None = None,
    target: str | None = None,
    rule: str | None = None,
    conditions: Sequence[str] = (),
    sort: str = "worst",
    is_grouped: bool = False,
    offset: int = 0,
    limit: int = DEFAULT_VIEW_ENTRIES,
) -> FleetQuery:
    """Make a query about forecasts of these targets; an empty `prefix`, `target` or `rule` means all, as `None` does.

    Raises `InvalidSelectionError` for a value that does not exist or is out of range.
    """
    for name, text in (("search", search), ("prefix", prefix or "")):
        if len(text) > MAX_SEARCH_CHARACTERS:
            raise InvalidSelectionError(f"{name} has {len(text)} characters, expected at most {MAX_SEARCH_CHARACTERS}")
    try:
        NameSearch(search)
    except InvalidSelectionError as exc:
        raise InvalidSelectionError(f"search is {search!r:.80}, a glob that is too large: {exc}") from exc
    _check_choice("target", target, targets)
    for condition in conditions:
        _check_choice("condition", condition, CONDITIONS)
    if sort not in SORTS:
        raise InvalidSelectionError(f"sort is {sort!r:.80}, expected one of {', '.join(SORTS)}")
    _check_range("offset", offset, 0, MAX_OFFSET)
    _check_range("limit", limit, 1, MAX_VIEW_ENTRIES)
    return FleetQuery(
        search=search,
        prefix=prefix or None,
        target=target or None,
        rule=rule or None,
        conditions=frozenset(condition for condition in conditions if condition),
        sort=cast("FleetSort", sort),
        is_grouped=is_grouped,
        offset=offset,
        limit=limit,
    )


def _check_choice(name: str, value: str | None, known: Collection[str]) -> None:
    if value and value not in known:
        raise InvalidSelectionError(f"{name} is {value!r:.80}, expected one of {', '.join(known)}")


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidSelectionError(f"{name} is {value!s:.40}, expected {least} to {most}")
