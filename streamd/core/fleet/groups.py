"""Groups of servers with the same prefix, in the order of their first servers. Touches arrays only."""

from dataclasses import dataclass

import numpy as np

from streamd.core.arrays import Numbers, Slots
from streamd.core.fleet.conditions import Codes, Condition
from streamd.core.fleet.crossing_table import NO_CROSSING, FirstCrossings


@dataclass(frozen=True, kw_only=True)
class FleetGroups:
    """`n` groups, each with a number that stands for its prefix."""

    prefixes: Numbers
    """The number of each group's prefix, `(n,)`."""
    servers: Numbers
    """The number of servers in each group, `(n,)`."""
    firing: Numbers
    """The servers of each group with an alert that fires, `(n,)`."""
    conditions: Numbers
    """The servers of each group in each `Condition`, `(n, conditions)`."""
    first: Slots
    """The slot of the worst server of each group with a crossing, by severity, then the first crossing, `(n,)`.

    Without one, `NO_CROSSING` in its place.
    """


def group_servers(
    ranked: Slots, prefixes: Numbers, *, severities: Codes, conditions: Codes, crossings: FirstCrossings
) -> FleetGroups:
    """Return the groups of ranked slots; the other arrays are by slot, `prefixes` the number of each prefix."""
    unique, first_places, places = np.unique(prefixes[ranked], return_index=True, return_inverse=True)
    order = np.argsort(first_places)
    place_of = np.empty(len(order), np.int64)
    place_of[order] = np.arange(len(order))
    places = place_of[places.reshape(-1)]
    count = len(unique)
    return FleetGroups(
        prefixes=unique[order],
        servers=np.bincount(places, minlength=count),
        firing=np.bincount(places[severities[ranked] > 0], minlength=count),
        conditions=np.bincount(places * len(Condition) + conditions[ranked], minlength=count * len(Condition)).reshape(
            count, len(Condition)
        ),
        first=_find_first(ranked, places, count, severities, crossings),
    )


def _find_first(ranked: Slots, places: Numbers, count: int, severities: Codes, crossings: FirstCrossings) -> Slots:
    """Return the slot of the worst server of each group with a crossing, the one that is ranked first of several."""
    first: Slots = np.full(count, NO_CROSSING, np.int64)
    crossing = np.flatnonzero(crossings.rules[ranked] != NO_CROSSING)
    slots = ranked[crossing]
    order = np.lexsort((crossings.earliest[slots], crossings.likely[slots], -severities[slots]))[::-1]
    first[places[crossing[order]]] = slots[order]  # of several values for a place, the last one stays
    return first
