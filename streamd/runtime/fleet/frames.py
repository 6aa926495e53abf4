"""The answers and frames of one reader: all entries of its view once, and then those that changed.

Belongs to the thread of the overview.
"""

from typing import Any

import msgspec

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.fleet.query import FleetQuery
from streamd.runtime.fleet.entries import FleetEntries, FleetFormat
from streamd.runtime.fleet.moment import FleetMoment, FleetView


class FrameMaker:
    """The state of one reader: the entries that it has, from which its next frame follows."""

    def __init__(self, query: FleetQuery, caller: Caller, scope: Scope, form: FleetFormat) -> None:
        self._query = query
        self._caller = caller
        self._scope = scope
        self._form = form
        self._sent: dict[str, msgspec.Raw] = {}
        self._sent_head: tuple[object, ...] | None = None

    def make_answer(self, moment: FleetMoment, entries: FleetEntries) -> bytes:
        """Return the answer to a call: all entries of the view."""
        view, found = self._look(moment, entries)
        return self._form.encode(self._make_head(view, moment) | {self._entries_name: list(found.values())})

    def make_frame(self, moment: FleetMoment, entries: FleetEntries) -> bytes | None:
        """Return the next frame, with the entries that the reader does not have; `None` if nothing changed."""
        view, found = self._look(moment, entries)
        head = view.total, view.matching, tuple(view.counts.values()), tuple(found)
        changed = [entry for name, entry in found.items() if self._sent.get(name) != entry]
        if head == self._sent_head and not changed:
            return None
        self._sent, self._sent_head = found, head
        message = {"type": "fleet", **self._make_head(view, moment), "order": list(found), self._entries_name: changed}
        return self._form.encode(message)

    @property
    def _entries_name(self) -> str:
        return "groups" if self._query.is_grouped else "servers"

    def _look(self, moment: FleetMoment, entries: FleetEntries) -> tuple[FleetView, dict[str, msgspec.Raw]]:
        """Return what the reader sees, and the entries of the view by name, in order."""
        query, form = self._query, self._form
        view = moment.make_view(query, self._caller, self._scope)
        if view.groups is not None:
            last = min(query.offset + query.limit, view.matching)
            places = range(query.offset, last)
            return view, dict(entries.encode_group(moment, view.groups, place, query, form) for place in places)
        names = moment.names.names
        return view, {names[slot]: entries.encode_server(moment, slot, query, form) for slot in view.slots.tolist()}

    def _make_head(self, view: FleetView, moment: FleetMoment) -> dict[str, Any]:
        return {
            "now": moment.now,
            "total": view.total,
            "matching": view.matching,
            "offset": self._query.offset,
            "counts": view.counts,
        }
