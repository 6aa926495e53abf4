"""The ways to alert that a backtest compares, and their verdicts on one rule: the forecast's, and the simple ones'.

Arrays only; runs no network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamd.core.alerts.evaluation import Flags, evaluate_rule
from streamd.core.alerts.rules import AlertRule
from streamd.core.arrays import Float32
from streamd.tools.alerts.damping import Verdicts
from streamd.tools.alerts.forecaster import Indices
from streamd.tools.alerts.limits import ValueLimits
from streamd.tools.alerts.simple_rules import extrapolate_lines, judge_values, read_last_values

FORECAST = "forecast"
LAST_VALUE = "last value"
LINE_HOURS = (1, 4)
"""The hours through which a straight line is drawn."""

METHODS = (FORECAST, LAST_VALUE, *(f"line over {hours} h" for hours in LINE_HOURS))
"""The ways to alert, the forecast first."""

HOUR_SECONDS = 3_600


class RuleVerdicts:
    """The verdicts of one rule on the forecasts of its servers, filled batch by batch."""

    def __init__(self, rule: AlertRule, servers: Indices, origins: int) -> None:
        self.rule, self.servers = rule, servers
        shape = (origins, len(servers))
        self.breaching, self.clear = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        self._crossings: dict[tuple[int, int], tuple[float, float]] = {}

    def take(self, at: Indices, servers: Indices, forecasts: Float32) -> None:
        """Judge forecasts `(n, targets, horizon, quantiles)` of these origins (by place) and servers."""
        own = np.flatnonzero(np.isin(servers, self.servers))
        if not len(own):
            return
        columns = np.searchsorted(self.servers, servers)
        found = evaluate_rule(self.rule, forecasts[own, self.rule.target_index])
        at, columns = at[own], columns[own]
        self.breaching[at, columns], self.clear[at, columns] = found.breaching, found.clear
        for row in np.flatnonzero(found.breaching):
            earliest, _, latest = found.crossings[row]
            self._crossings[int(at[row]), int(columns[row])] = float(earliest), float(latest)

    def find_range(self, at: int, column: int) -> tuple[float, float]:
        """Return the earliest and the latest crossing of a forecast that breaches, in steps from its origin."""
        return self._crossings[at, column]


@dataclass(frozen=True, eq=False)
class AlertCase:
    """One method in place of the forecasts of one rule."""

    rule_verdicts: RuleVerdicts
    method: str
    verdicts: Verdicts
    """`(origins, servers)`."""
    may_rise: Flags
    """`(origins, servers)`."""


def judge_methods(
    verdicts: RuleVerdicts,
    series: Float32,
    origins: Indices,
    judged: Flags,
    *,
    context_length: int,
    step_seconds: int,
) -> dict[str, Verdicts]:
    """Return the verdicts of each method, `(origins, servers)`, at the origins that have a forecast.

    `series (servers, steps)` has the values of the target, `judged (origins, servers)` whether there is a forecast. The
    target is unknown where none of the last `context_length` steps has a value.
    """
    rule, limits = verdicts.rule, ValueLimits.from_rule(verdicts.rule)
    unknown = judged & ~find_fresh(series, origins, context_length)
    judged = judged & ~unknown
    found = {FORECAST: Verdicts(judged, verdicts.breaching, verdicts.clear, unknown)}
    found[LAST_VALUE] = judge_values(_stack(series, read_last_values, origins=origins), limits)
    for name, hours in zip(METHODS[2:], LINE_HOURS, strict=True):
        past = max(hours * HOUR_SECONDS // step_seconds, 2)
        line = _stack(series, extrapolate_lines, origins=origins, past_steps=past, ahead_steps=rule.within_steps)
        found[name] = judge_values(line, limits)
    return {
        name: Verdicts(each.is_judged & judged, each.is_breaching, each.is_clear, unknown)
        for name, each in found.items()
    }


def find_fresh(series: Float32, origins: Indices, recent_rows: int) -> Flags:
    """Return where one of the newest rows has a value, `(origins, servers)`, from `series (servers, steps)`."""
    known = np.isfinite(series)
    totals = np.concatenate([np.zeros((len(series), 1), np.int64), np.cumsum(known, axis=1)], axis=1)
    fresh = totals[:, origins] > totals[:, np.maximum(origins - recent_rows, 0)]
    return np.asarray(fresh).T


def _stack(series: Float32, compute: Callable[..., Any], **options: Any) -> Any:
    """Return what a function makes of each server's series, `(origins, servers)`."""
    return np.stack([compute(one, **options) for one in series], axis=1)
