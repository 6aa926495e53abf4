"""The entries of servers and groups as the wire has them, encoded once as long as nothing of them changes.

Belongs to the thread of the overview. Reads windows to say which targets are missing or unknown.
"""

import math
from collections.abc import Hashable, Iterable
from enum import Enum
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streamd.core.alerts.evaluation import Flags
from streamd.core.alerts.rules import AlertRule
from streamd.core.fleet.conditions import Condition
from streamd.core.fleet.crossing_table import NO_CROSSING, FirstCrossings
from streamd.core.fleet.groups import FleetGroups
from streamd.core.fleet.query import FleetQuery
from streamd.core.recent_values import count_recent_rows
from streamd.core.state.window_columns import NO_STEP
from streamd.core.state.window_copies import copy_window
from streamd.core.unknown_targets import read_unknown
from streamd.core.values import find_values
from streamd.runtime.alerts.alert import Alert
from streamd.runtime.alerts.wire_form import CROSSING_BOUNDS, find_silence_end
from streamd.runtime.fleet.moment import FleetMoment
from streamd.runtime.state.state import State

MAX_REMEMBERED_ENTRIES = 4_096
"""Entries that are remembered, and servers whose unsent targets are; about 2 MB."""

MAX_FURTHER_CROSSINGS = 8
"""Crossings in the entry of a server beside the one that matters most."""

TIME_DIGITS = 3
"""Crossing times are sent in milliseconds, which is finer than float32 has them."""


class FleetFormat(Enum):
    """The encoding of an answer or frame."""

    JSON = "json"
    MSGPACK = "msgpack"

    def encode(self, message: Any) -> bytes:
        """Encode a message, in which `msgspec.Raw` is already encoded."""
        return msgspec.json.encode(message) if self is FleetFormat.JSON else msgspec.msgpack.encode(message)


class FleetEntries:
    """Makes entries for the views of one state."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._contract = state.contract
        self._encoded: dict[Hashable, tuple[Hashable, msgspec.Raw]] = {}
        self._unsent = UnsentTargetsReader(state)

    def encode_server(self, moment: FleetMoment, slot: int, query: FleetQuery, form: FleetFormat) -> msgspec.Raw:
        """Return the entry of a server."""
        snapshot, chosen = moment.snapshot, moment.choose_rules((query.target, query.rule))
        crossings = chosen.crossings
        alerts = [self._describe_alert(each, moment.now) for each in chosen.alerts.by_slot.get(slot, ())]
        is_relayed = bool(snapshot.is_relayed[slot])
        # Of a window at another node, only its forecasts show that it has changed.
        changes = -int(snapshot.serials[slot]) if is_relayed else int(self._state.windows.volatile["changes"][slot])
        signature = (
            int(snapshot.generations[slot]),
            int(snapshot.serials[slot]),
            int(moment.conditions[slot]),
            changes,
            moment.rules,
            *(each[slot].item() for each in crossings),
            *(tuple(alert.values()) for alert in alerts),
        )
        key = slot, query.target, query.rule, form
        remembered = self._encoded.get(key)
        if remembered is None or remembered[0] != signature:
            unsent = self._unsent.find(slot, int(snapshot.generations[slot]), changes)
            entry = {
                "server": moment.names.names[slot],
                "condition": Condition(moment.conditions[slot]).label,
                "have": int(snapshot.have[slot]),
                "need": self._state.windows.need,
                "origin": self._to_origin(int(snapshot.newest[slot])),
                "forecast_origin": self._to_origin(int(snapshot.forecast_steps[slot])),
                "missing": unsent.missing,
                "unknown": unsent.unknown,
                "crossing": describe_first(moment.rules, crossings, slot),
                "further": self._describe_further(moment, slot, query),
                "alerts": alerts,
            }
            remembered = self._remember(key, signature, msgspec.Raw(form.encode(entry)))
        return remembered[1]

    def _remember(self, key: Hashable, signature: Hashable, entry: msgspec.Raw) -> tuple[Hashable, msgspec.Raw]:
        if len(self._encoded) >= MAX_REMEMBERED_ENTRIES:
            self._encoded.clear()
        self._encoded[key] = signature, entry
        return self._encoded[key]

    def encode_group(
        self, moment: FleetMoment, groups: FleetGroups, place: int, query: FleetQuery, form: FleetFormat
    ) -> tuple[str, msgspec.Raw]:
        """Return the prefix and the entry of a group."""
        prefix = moment.names.prefix_names[int(groups.prefixes[place])]
        crossing, first = None, int(groups.first[place])
        if first != NO_CROSSING:
            crossings = moment.choose_rules((query.target, query.rule)).crossings
            crossing = describe_first(moment.rules, crossings, first)
        if crossing is not None:
            crossing = {"server": moment.names.names[first]} | crossing
        entry = {
            "prefix": prefix,
            "servers": int(groups.servers[place]),
            "firing": int(groups.firing[place]),
            **{condition.label: int(groups.conditions[place, condition]) for condition in Condition},
            "crossing": crossing,
        }
        return prefix, msgspec.Raw(form.encode(entry))

    def _describe_further(self, moment: FleetMoment, slot: int, query: FleetQuery) -> list[dict[str, Any]]:
        further = moment.find_further((query.target, query.rule), slot)[:MAX_FURTHER_CROSSINGS]
        return [describe_crossing(moment.rules[rule], times) for rule, times in further]

    def _describe_alert(self, alert: Alert, now: float) -> dict[str, Any]:
        return {
            "rule": alert.rule,
            "target": alert.target,
            "state": alert.state.value,
            "severity": alert.severity,
            "starts_at": alert.starts_at,
            "silenced_until": find_silence_end(alert, now),
        }

    def _to_origin(self, step: int) -> int | None:
        return None if step == NO_STEP else self._contract.to_origin(step)


def describe_first(rules: tuple[AlertRule, ...], crossings: FirstCrossings, slot: int) -> dict[str, Any] | None:
    """Return the crossing of a server that matters most as the wire has it, `None` without one."""
    place = int(crossings.rules[slot])
    if place == NO_CROSSING:
        return None
    return describe_crossing(rules[place], (each[slot] for each in crossings[1:]))


def describe_crossing(rule: AlertRule, times: Iterable[float]) -> dict[str, Any]:
    """Return a crossing as the wire has it; `times` are the earliest, the likely and the latest, infinity for none."""
    return {
        "rule": rule.name,
        "target": rule.target,
        "unit": rule.unit,
        "above" if rule.is_above else "below": rule.threshold,
        "severity": rule.severity,
        "crosses_at": {
            bound: round(float(at), TIME_DIGITS) if math.isfinite(at) else None
            for bound, at in zip(CROSSING_BOUNDS, times, strict=True)
        },
    }


class UnsentTargets(NamedTuple):
    """The targets of one server that no agent sends, in their order."""

    missing: list[str]
    """Those with a value in the window, and none in its newest rows."""
    unknown: list[str]
    """Those without any value in the window, of which nothing is forecast."""


class UnsentTargetsReader:
    """Finds the targets that no agent sends, or none any more."""

    def __init__(self, state: State) -> None:
        contract = state.contract
        self._state = state
        self._targets = contract.targets
        self._columns = [contract.feature_index[target] for target in contract.targets]
        self._rows = count_recent_rows(contract.context_length)
        self._window = np.empty(contract.input_shapes["encoder_cont"], np.float32)
        self._statuses = np.empty(contract.context_length, np.int32)
        self._found: dict[int, tuple[tuple[int, int], UnsentTargets]] = {}

    def find(self, slot: int, generation: int, changes: int) -> UnsentTargets:
        """Return the targets that a server of this generation does not send; `changes` are those of its window.

        Negative changes are of a window at another node, of which only the newest forecast is here.
        """
        key = generation, changes
        known = self._found.get(slot)
        if known is not None and known[0] == key:
            return known[1]
        is_copied = copy_window(self._state.windows, slot, self._window, self._statuses) is not None
        if not is_copied or self._state.directory.generations[slot] != generation:
            return UnsentTargets([], [])  # the next entry of this server has them
        if changes < 0:
            return self._keep(slot, key, UnsentTargets([], self._find_unknown_of_forecast(slot)))
        has_value = find_values(self._window[:, self._columns])
        is_known: Flags = np.logical_or.reduce(has_value, axis=0)
        is_missing = is_known & ~has_value[-self._rows :].any(axis=0)
        return self._keep(slot, key, UnsentTargets(self._list_names(is_missing), self._list_names(~is_known)))

    def _find_unknown_of_forecast(self, slot: int) -> list[str]:
        """Return the targets that the newest forecast has no number of."""
        forecast = self._state.board.get_forecast(slot)
        return [] if forecast is None else self._list_names(read_unknown(forecast.values))

    def _keep(self, slot: int, key: tuple[int, int], found: UnsentTargets) -> UnsentTargets:
        if len(self._found) >= MAX_REMEMBERED_ENTRIES:
            self._found.clear()
        self._found[slot] = key, found
        return found

    def _list_names(self, chosen: Flags) -> list[str]:
        return [name for name, is_chosen in zip(self._targets, chosen.tolist(), strict=True) if is_chosen]
