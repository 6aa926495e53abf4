"""Runs alert rules over a recorded fleet: forecasts from each origin, verdicts, alerts, and their scores.

Beside the forecasts stand the simple ways to alert, at the same origins and judged by the same incidents. Opens no
file and runs no network itself; a `FleetForecaster` does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamd.core.alerts.evaluation import Flags
from streamd.core.alerts.rules import AlertRule
from streamd.core.recent_values import count_recent_rows
from streamd.tools.alerts.damping import Verdicts, find_firing
from streamd.tools.alerts.forecaster import FleetForecaster, Indices
from streamd.tools.alerts.incidents import find_incidents
from streamd.tools.alerts.limits import ValueLimits
from streamd.tools.alerts.methods import (
    FORECAST,
    HOUR_SECONDS,
    METHODS,
    AlertCase,
    RuleVerdicts,
    find_fresh,
    judge_methods,
)
from streamd.tools.alerts.ranges import RangeScores, score_ranges
from streamd.tools.alerts.scoring import AlertScores, Judgement, score_server

WINDOWS_AT_ONCE = 512
CASES_AT_ONCE = 1_024


@dataclass(frozen=True, kw_only=True)
class BacktestPlan:
    """The origins of a backtest, and how its alerts are judged. Steps are indices of the fleet."""

    first: int
    """The first origin."""
    stop: int
    """The origin after the last one."""
    every: int = 1
    """The steps between origins; an alert stays as it is between them."""
    min_context_rows: int
    """The rows that a window needs for a forecast."""
    tolerance_seconds: float
    """The time by which an incident may begin later than `within` of a rule."""
    gap_seconds: float
    """The time on the safe side after which an incident is over."""
    shortest_seconds: float
    """Shorter incidents need not be caught."""
    silent_after_seconds: float
    """An alert ends if its server gets no forecast for so long."""


@dataclass(frozen=True)
class RuleScores:
    """The scores of one rule: of each method, and of the ranges that its alerts gave."""

    rule: AlertRule
    servers: int
    """The servers that the rule is for and that have values of its target."""
    methods: dict[str, AlertScores] = field(default_factory=lambda: {name: AlertScores() for name in METHODS})
    ranges: RangeScores = field(default_factory=RangeScores)


class AlertBacktest:
    """A backtest of some rules."""

    def __init__(self, forecaster: FleetForecaster, rules: Sequence[AlertRule], plan: BacktestPlan) -> None:
        self._forecaster, self._plan = forecaster, plan
        self._step_seconds = forecaster.contract.step_seconds
        self._origins: Indices = np.arange(plan.first, plan.stop, plan.every, dtype=np.intp)
        everyone = np.arange(len(forecaster.fleet.servers))
        contexts = np.stack([forecaster.count_contexts(everyone, np.full_like(everyone, o)) for o in self._origins])
        self._contexts = contexts
        """`(origins, servers)`: the rows of each window."""
        self._judged = np.asarray(forecaster.has_row[:, self._origins - 1].T & (contexts >= plan.min_context_rows))
        """`(origins, servers) bool`: whether there is a forecast. A row that is missing makes none."""
        self._verdicts = [RuleVerdicts(rule, self._find_servers(rule), len(self._origins)) for rule in rules]

    @property
    def windows(self) -> int:
        """The number of forecasts to make."""
        return int(self._judged.sum())

    def run(self, report: Callable[[int], None] = lambda done: None) -> list[RuleScores]:
        """Forecast, judge and score; `report` is called with the number of forecasts that are done."""
        done = 0
        for at, servers in self._split_windows():
            forecasts = self._forecaster.forecast(servers, self._origins[at])
            self._judged[at, servers] = forecasts.is_finite
            for verdicts in self._verdicts:
                verdicts.take(at, servers, forecasts.values)
            done += len(at)
            report(done)
        cases = [case for verdicts in self._verdicts for case in self._make_cases(verdicts)]
        firing = self._find_firing(cases)
        scores = {id(verdicts): RuleScores(verdicts.rule, len(verdicts.servers)) for verdicts in self._verdicts}
        for case, states in zip(cases, firing, strict=True):
            self._score_case(scores[id(case.rule_verdicts)], case, states)
        return list(scores.values())

    def _find_servers(self, rule: AlertRule) -> Indices:
        has_values = np.asarray(np.isfinite(self._forecaster.read_series(rule.target)).any(axis=1))
        names = self._forecaster.fleet.servers
        return np.array([at for at, name in enumerate(names) if has_values[at] and rule.servers.matches(name)], np.intp)

    def _split_windows(self) -> Iterator[tuple[Indices, Indices]]:
        """Yield places of origins and servers, in the order of time, as many as run at once."""
        at, servers = np.nonzero(self._judged)
        for begin in range(0, len(at), WINDOWS_AT_ONCE):
            yield at[begin : begin + WINDOWS_AT_ONCE], servers[begin : begin + WINDOWS_AT_ONCE]

    def _make_cases(self, verdicts: RuleVerdicts) -> list[AlertCase]:
        """Return a case for each method; an empty list if the rule is for no server."""
        if not len(verdicts.servers):
            return []
        series = self._forecaster.read_series(verdicts.rule.target)[verdicts.servers]
        rows = self._contexts[:, verdicts.servers] >= verdicts.rule.min_rows
        contract = self._forecaster.contract
        recent_rows = count_recent_rows(contract.context_length)
        may_rise = rows & find_fresh(series, self._origins, recent_rows)
        judged = self._judged[:, verdicts.servers]
        found = judge_methods(
            verdicts,
            series,
            self._origins,
            judged,
            context_length=contract.context_length,
            step_seconds=self._step_seconds,
        )
        return [AlertCase(verdicts, name, each, may_rise) for name, each in found.items()]

    def _find_firing(self, cases: Sequence[AlertCase]) -> list[Flags]:
        """Return whether alerts fire, `(origins, servers)` for each case; many cases advance together."""
        silent_origins = self._plan.silent_after_seconds / (self._step_seconds * self._plan.every)
        found: dict[int, Flags] = {}
        for consecutive in {case.rule_verdicts.rule.consecutive for case in cases}:
            alike = [case for case in cases if case.rule_verdicts.rule.consecutive == consecutive]
            for begin in range(0, len(alike), CASES_AT_ONCE):
                batch = alike[begin : begin + CASES_AT_ONCE]
                joined = Verdicts(*(
                    np.concatenate([getattr(case.verdicts, name) for case in batch], axis=1)
                    for name in ("is_judged", "is_breaching", "is_clear", "is_unknown")
                ))  # fmt: skip
                may_rise = np.concatenate([case.may_rise for case in batch], axis=1)
                firing = find_firing(joined, may_rise, consecutive=consecutive, silent_origins=silent_origins)
                stops = np.cumsum([case.may_rise.shape[1] for case in batch])
                parts = np.split(firing, stops[:-1], axis=1)
                found |= {id(case): part for case, part in zip(batch, parts, strict=True)}
        return [found[id(case)] for case in cases]

    def _score_case(self, scores: RuleScores, case: AlertCase, firing: Flags) -> None:
        plan, rule, verdicts = self._plan, case.rule_verdicts.rule, case.rule_verdicts
        values = self._forecaster.read_series(rule.target)
        judgement = Judgement(
            reach_steps=int((rule.within_seconds + plan.tolerance_seconds) // self._step_seconds),
            shortest_steps=max(int(plan.shortest_seconds // self._step_seconds), 1),
            flap_steps=HOUR_SECONDS // self._step_seconds,
            step_seconds=self._step_seconds,
        )
        gap_steps = max(int(plan.gap_seconds // self._step_seconds), 1)
        for column, server in enumerate(verdicts.servers):
            incidents = find_incidents(values[server], ValueLimits.from_rule(rule), gap_steps)
            found = score_server(
                self._spread(firing[:, column]),
                self._spread(case.verdicts.is_judged[:, column]),
                np.isfinite(values[server]),
                incidents,
                first_origin=plan.first,
                judgement=judgement,
            )
            scores.methods[case.method].add(found)
            if case.method == FORECAST:
                fired = np.flatnonzero(np.diff(firing[:, column].astype(np.int8), prepend=0) == 1)
                ranges = [(int(self._origins[at]), *verdicts.find_range(at, column)) for at in fired.tolist()]
                scores.ranges.add(score_ranges(ranges, incidents, judgement.reach_steps))

    def _spread(self, states: Flags) -> Flags:
        """Return states of the origins as states of each step from the first origin on."""
        spread: Flags = np.repeat(states, self._plan.every)[: self._plan.stop - self._plan.first]
        return spread
