"""Alerts as the documents define them, for one server at a time: what the arrays of `core/alerts` are compared with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction


def find_crossing(curve: Sequence[float], threshold: float, *, is_above: bool) -> float:
    """Return when a curve first reaches a threshold, in steps, exactly computed; infinity if it never does."""
    sign = 1 if is_above else -1
    distances = [sign * (Fraction(value) - Fraction(threshold)) for value in curve]
    for step, distance in enumerate(distances):
        if distance >= 0:
            if step == 0:
                return 0.0
            before = distances[step - 1]
            return float(step - 1 + before / (before - distance))
    return math.inf


class Verdict(StrEnum):
    """What one forecast says, and whether it may raise an alert."""

    BREACHING = "breaching"
    BAND = "band"
    CLEAR = "clear"
    UNTRUSTED = "untrusted"
    """It crosses the threshold, but its window is too short, or it is too old."""


@dataclass
class NaiveAlert:
    """The alert of one rule and server; `needed` is the `for` of the rule."""

    needed: int
    state: str = "inactive"
    history: list[Verdict] = field(default_factory=list)
    """The verdicts since the state began."""
    last_step: int | None = None

    def judge(self, step: int, verdict: Verdict) -> str:
        """Judge the forecast of a step; returns what changed, "" if nothing did."""
        if step == self.last_step:
            return ""
        self.last_step = step
        self.history.append(verdict)
        if self.state == "firing":
            return self._enter("inactive", "resolved") if self._all_last(Verdict.CLEAR) else ""
        if verdict is not Verdict.BREACHING:
            return self._enter("inactive", "dropped") if self.state == "pending" else self._enter("inactive", "")
        if self._all_last(Verdict.BREACHING):
            return self._enter("firing", "fired")
        change = "" if self.state == "pending" else "pending"
        self.state = "pending"
        return change

    def _all_last(self, verdict: Verdict) -> bool:
        return self.history[-self.needed :] == [verdict] * self.needed

    def _enter(self, state: str, change: str) -> str:
        self.state, self.history = state, []
        return change

    def rewind(self) -> None:
        """Drop what the rows that went back said."""
        self.last_step = None
        self.history = []
        if self.state == "pending":
            self.state = "inactive"

    def forget(self) -> None:
        """Begin anew with another server."""
        self.state, self.history, self.last_step = "inactive", [], None
