"""All servers at one moment, and what each query finds among them. Belongs to the thread of the overview.

What several readers need, such as an order of all servers, is computed for the first of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.alerts.evaluation import Flags
from streamd.core.arrays import Float64, Slots
from streamd.core.fleet.conditions import Codes, Condition, count_conditions, find_conditions
from streamd.core.fleet.crossing_table import NO_CROSSING, FirstCrossings
from streamd.core.fleet.groups import FleetGroups, group_servers
from streamd.core.fleet.query import FIRING, FleetQuery
from streamd.core.fleet.ranking import rank_by_age, rank_worst
from streamd.runtime.alerts.alert import Alert
from streamd.runtime.fleet.active_alerts import AlertsBySlot, group_alerts
from streamd.runtime.fleet.crossings import FleetCrossings
from streamd.runtime.fleet.names import FleetNames
from streamd.runtime.fleet.snapshot import FleetSnapshot
from streamd.runtime.state.state import State

RuleChoice = tuple[str | None, str | None]
"""The target and the rule of a query."""


class ChosenRules(NamedTuple):
    """The alerts and crossings of all servers by the rules that a query chooses."""

    rules: Sequence[int]
    """The rules by their places."""
    alerts: AlertsBySlot
    crossings: FirstCrossings


@dataclass(frozen=True, kw_only=True)
class FleetView:
    """The servers that a query finds."""

    total: int
    """The servers that the caller may see."""
    counts: dict[str, int]
    """Of these, those with an alert that fires, and those in each condition."""
    matching: int
    """The entries that the query finds, of which the view is a part: servers or groups."""
    slots: Slots
    """The servers in the view; empty if it has groups."""
    groups: FleetGroups | None
    """All groups that the query finds."""


class FleetMoment:
    """The servers of a snapshot at a time; `now` is in epoch seconds."""

    def __init__(
        self,
        state: State,
        names: FleetNames,
        crossings: FleetCrossings,
        snapshot: FleetSnapshot,
        alerts: Sequence[Alert],
        now: float,
    ) -> None:
        self.now = now
        self.snapshot = snapshot
        self.names = names
        self.rules = crossings.rules
        self._rule_places = {rule.name: place for place, rule in enumerate(self.rules)}
        self._crossings = crossings
        self._alerts = alerts
        self._find_slot = state.directory.slots.get
        self._chosen: dict[RuleChoice, ChosenRules] = {}
        self._orders: dict[tuple[RuleChoice, str], Slots] = {}
        self.conditions: Codes = find_conditions(
            have=snapshot.have,
            need=state.windows.need,
            newest=snapshot.newest,
            forecast_steps=snapshot.forecast_steps,
            now=now,
            step_seconds=state.contract.step_seconds,
        )

    # ------------------------------------------------------------ shared by readers
    def choose_rules(self, choice: RuleChoice) -> ChosenRules:
        """Return what the rules of a choice say."""
        found = self._chosen.get(choice)
        if found is None:
            target, rule = choice
            places = [
                place
                for place, each in enumerate(self.rules)
                if target in (None, each.target) and rule in (None, each.name)
            ]
            alerts = [each for each in self._alerts if target in (None, each.target) and rule in (None, each.rule)]
            of_slots = group_alerts(alerts, self._rule_places, self._find_known_slot, len(self.conditions), self.now)
            first = self._crossings.find_first(places, of_slots.firing, self.now)
            found = self._chosen[choice] = ChosenRules(places, of_slots, first)
        return found

    def find_further(self, choice: RuleChoice, slot: int) -> list[tuple[int, Float64]]:
        """Return the crossings of a server beside the one that matters most, by the places of their rules."""
        chosen = self.choose_rules(choice)
        first = int(chosen.crossings.rules[slot])
        if first == NO_CROSSING:
            return []
        return [each for each in self._crossings.find_all(chosen.rules, slot) if each[0] != first]

    def _find_known_slot(self, server: str) -> int | None:
        slot = self._find_slot(server)
        return slot if slot is not None and self.names.names[slot] == server else None

    @cached_property
    def _is_firing(self) -> Flags:
        firing: Flags = self.choose_rules((None, None)).alerts.severities > 0
        return firing

    def _rank(self, query: FleetQuery) -> Slots:
        """Return all servers in the order of a query."""
        key = (query.target, query.rule), query.sort
        if key not in self._orders:
            self._orders[key] = self._sort(query)
        return self._orders[key]

    def _sort(self, query: FleetQuery) -> Slots:
        ordered = self.names.ordered
        if query.sort == "name":
            return ordered
        if query.sort == "age":
            return rank_by_age(ordered, self.snapshot.forecast_steps)
        chosen = self.choose_rules((query.target, query.rule))
        return rank_worst(
            ordered,
            severities=chosen.alerts.severities,
            likely=chosen.crossings.likely,
            earliest=chosen.crossings.earliest,
            conditions=self.conditions,
        )

    # ------------------------------------------------------------ one reader
    def make_view(self, query: FleetQuery, caller: Caller, scope: Scope) -> FleetView:
        """Return what a query finds among the servers that a caller has a scope for."""
        permitted = self.names.select_permitted(caller, scope) & self.names.is_server
        ranked = self._rank(query)
        found = ranked[(permitted & self._match(query))[ranked]]
        counts = {FIRING: int(np.count_nonzero(permitted & self._is_firing))}
        groups = self._group(found, query) if query.is_grouped else None
        return FleetView(
            total=int(np.count_nonzero(permitted)),
            counts=counts | count_conditions(self.conditions[permitted]),
            matching=len(found) if groups is None else len(groups.prefixes),
            slots=found[query.offset : query.offset + query.limit] if groups is None else found[:0],
            groups=groups,
        )

    def _match(self, query: FleetQuery) -> Flags:
        """Return which servers a query wants, for any caller."""
        matching = self.names.select_found(query.search)
        if query.prefix is not None:
            matching = matching & self.names.select_prefix(query.prefix)
        if query.rule is not None:
            rule = next((each for each in self.rules if each.name == query.rule), None)
            matching = matching & (rule is not None and self.names.select_chosen(rule.servers))
        if query.conditions:
            wanted = [condition for condition in Condition if condition.label in query.conditions]
            is_wanted = np.isin(self.conditions, wanted)
            if FIRING in query.conditions:
                is_wanted |= self.choose_rules((query.target, query.rule)).alerts.severities > 0
            matching = matching & is_wanted
        return matching

    def _group(self, found: Slots, query: FleetQuery) -> FleetGroups:
        chosen = self.choose_rules((query.target, query.rule))
        return group_servers(
            found,
            self.names.get_prefixes(),
            severities=chosen.alerts.severities,
            conditions=self.conditions,
            crossings=chosen.crossings,
        )
