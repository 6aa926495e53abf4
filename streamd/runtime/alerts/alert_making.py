"""Makes alerts from what a rule says of a forecast. Plain functions; the evaluator decides which alerts are active."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamd.core.alerts.rules import AlertRule
from streamd.core.arrays import Float32, Numbers, Slots
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertState, ChangeKind, CrossingTimes, ResolveReason


class RuleRows(NamedTuple):
    """Forecasts of distinct slots that one rule is judged by; arrays `(n,)`, and `values (n, horizon, quantiles)`."""

    slots: Slots
    origins: Numbers
    """Epoch seconds."""
    contexts: npt.NDArray[np.int32]
    generations: Numbers
    models: list[str]
    values: Float32


def join_rule_rows(parts: Sequence[RuleRows]) -> RuleRows:
    """Return the rows of several parts as one."""
    slots, origins, contexts, generations, models, values = zip(*parts, strict=True)
    return RuleRows(
        np.concatenate(slots),
        np.concatenate(origins),
        np.concatenate(contexts),
        np.concatenate(generations),
        [model for each in models for model in each],
        np.concatenate(values),
    )


def make_alert(
    rule: AlertRule,
    server: str,
    rows: RuleRows,
    row: int,
    crossings: Sequence[float],
    now: float,
    *,
    former: Alert | None,
    is_fired: bool,
) -> Alert:
    """Return the alert of a rule and a server after a forecast, a row of `rows`.

    `crossings` are the earliest, the likely and the latest one, in seconds from the origin; infinity: none. `former` is
    the alert before the forecast, and `is_fired` says that it fires by it.
    """
    origin = int(rows.origins[row])
    state, starts_at = (AlertState.PENDING, None) if former is None else (former.state, former.starts_at)
    return Alert(
        rule=rule.name,
        server=server,
        state=AlertState.FIRING if is_fired else state,
        severity=rule.severity,
        labels=rule.labels,
        annotations=rule.annotations,
        target=rule.target,
        unit=rule.unit,
        quantile=rule.quantile,
        is_above=rule.is_above,
        threshold=rule.threshold,
        within_seconds=rule.within_seconds,
        starts_at=now if is_fired else starts_at,
        ends_at=None,
        reason="",
        origin=origin,
        model=rows.models[row],
        crosses_at=CrossingTimes(*(origin + each if math.isfinite(each) else None for each in crossings)),
        updated_at=now,
    )


def end_alert(alert: Alert, reason: ResolveReason, now: float) -> AlertChange:
    """Return the end of an active alert: it is resolved if it fired, else dropped."""
    kind: ChangeKind = "dropped" if alert.state is AlertState.PENDING else "resolved"
    return AlertChange(replace(alert, state=AlertState.RESOLVED, ends_at=now, reason=reason, updated_at=now), kind)
