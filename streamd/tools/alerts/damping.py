"""Turns verdicts on origins into alerts, with the counting and the hysteresis of the daemon. Arrays only."""

from dataclasses import dataclass

import numpy as np

from streamd.core.alerts.evaluation import Flags
from streamd.core.alerts.states import AlertPhase, AlertStates


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts on origins, `(origins,) bool` each, or `(origins, series)`."""

    is_judged: Flags
    """Whether there was anything to judge; without, nothing changes."""
    is_breaching: Flags
    is_clear: Flags
    is_unknown: Flags
    """Whether the target is unknown, which ends an alert at once."""


def find_firing(verdicts: Verdicts, may_rise: Flags, *, consecutive: int, silent_origins: float) -> Flags:
    """Return whether an alert fires from each origin on, `(origins, series) bool`, from verdicts of that shape.

    `consecutive` is the `for` of the rule. Without `may_rise`, `(origins, series)`, a verdict brings no alert nearer
    to firing. An alert that gets no verdict for more than `silent_origins` ends, as if its server fell silent.
    """
    origins, count = verdicts.is_judged.shape
    states = AlertStates([consecutive], count)
    judged_last = np.zeros(count, np.int64)
    firing = np.zeros((origins, count), np.bool_)
    for origin in range(origins):
        is_silent = (states.phases[0] != AlertPhase.INACTIVE) & (origin - judged_last > silent_origins)
        for silent in np.flatnonzero(is_silent).tolist():
            states.end(0, silent)
        for unknown in np.flatnonzero(verdicts.is_unknown[origin]).tolist():
            states.end(0, unknown)
        series = np.flatnonzero(verdicts.is_judged[origin])
        if len(series):
            states.advance(
                0,
                series,
                breaching=verdicts.is_breaching[origin, series],
                clear=verdicts.is_clear[origin, series],
                may_rise=may_rise[origin, series],
            )
            judged_last[series] = origin
        firing[origin] = states.phases[0] == AlertPhase.FIRING
    return firing
