"""The beginning and the end of alerts: counts what consecutive forecasts say, for many servers at once. Has no clock.

    INACTIVE -> PENDING    a forecast breaches
    PENDING  -> FIRING     as many forecasts in a row breach as the rule demands (`for`)
    PENDING  -> INACTIVE   a forecast does not breach, or must not raise an alert
    FIRING   -> INACTIVE   as many forecasts in a row are clear
    PENDING, FIRING -> INACTIVE   the target is unknown in a forecast (`end`)

A forecast in the hysteresis band, neither breaching nor clear, leaves a firing alert as it is.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from streamd.core.alerts.evaluation import Flags
from streamd.core.alerts.settings import MAX_CONSECUTIVE
from streamd.core.arrays import Numbers, Slots
from streamd.core.state.window_columns import NO_STEP


class AlertPhase(IntEnum):
    """The state of one rule for one server."""

    INACTIVE = 0
    PENDING = 1
    FIRING = 2


class Transition(IntEnum):
    """A change by one forecast."""

    NONE = 0
    PENDING = 1
    """From INACTIVE to PENDING."""
    FIRED = 2
    """To FIRING, from INACTIVE if one forecast is enough."""
    DROPPED = 3
    """From PENDING to INACTIVE."""
    RESOLVED = 4
    """From FIRING to INACTIVE."""


Transitions = npt.NDArray[np.uint8]
"""Values of `Transition`."""


class AlertStates:
    """The states of some rules for the servers of all slots; `consecutive` has the `for` of each rule.

    For each batch: `begin` once, then `advance` for each rule.
    """

    def __init__(self, consecutive: Sequence[int], capacity: int) -> None:
        if any(not 1 <= each <= MAX_CONSECUTIVE for each in consecutive):
            raise ValueError(f"consecutive is {list(consecutive)}, expected 1 to {MAX_CONSECUTIVE}")
        self._consecutive = tuple(consecutive)
        self.phases = np.zeros((len(consecutive), capacity), np.uint8)
        """`AlertPhase` by rule and slot; only to be read."""
        self.streaks = np.zeros((len(consecutive), capacity), np.uint8)
        """How many forecasts in a row speak for the next phase, by rule and slot; only to be read."""
        self.steps: Numbers = np.full(capacity, NO_STEP, np.int64)
        """By slot: the step of the forecast that was judged last; only to be read."""

    def begin(self, slots: Slots, steps: Numbers) -> Flags:
        """Note the steps of forecasts of distinct slots; returns which were not judged before, `(n,)`.

        Only those may be passed to `advance`: a forecast that is read twice counts once.
        """
        is_new: Flags = self.steps[slots] != steps
        self.steps[slots] = steps
        return is_new

    def advance(
        self, rule: int, slots: Slots, *, breaching: Flags, clear: Flags, may_rise: Flags | bool = True
    ) -> Transitions:
        """Count one forecast of each of distinct slots, and return what it changed, `(n,)`.

        `breaching` and `clear` are those of `Evaluation`. Without `may_rise` a forecast cannot bring an alert nearer
        to firing. Slots whose phase is INACTIVE and whose forecast does not breach may be left out.
        """
        phases, streaks = self.phases[rule, slots], self.streaks[rule, slots]
        needed = self._consecutive[rule]
        rising = breaching & may_rise
        is_firing = phases == AlertPhase.FIRING
        speaks = np.where(is_firing, clear & ~breaching, rising)
        streaks = np.where(speaks, streaks + 1, 0).astype(np.uint8)
        is_enough = streaks >= needed
        transitions = np.zeros(len(slots), np.uint8)
        transitions[~is_firing & rising & (phases == AlertPhase.INACTIVE)] = Transition.PENDING
        transitions[~is_firing & is_enough] = Transition.FIRED
        transitions[(phases == AlertPhase.PENDING) & ~rising] = Transition.DROPPED
        transitions[is_firing & is_enough] = Transition.RESOLVED
        self.phases[rule, slots] = _PHASE_AFTER[transitions, phases]
        streaks[(transitions == Transition.FIRED) | (transitions == Transition.RESOLVED)] = 0
        self.streaks[rule, slots] = streaks
        return transitions

    def restart(self, slot: int) -> None:
        """Begin to count again for a slot whose steps went back: firing alerts stay, pending ones are dropped."""
        phases = self.phases[:, slot]
        phases[phases == AlertPhase.PENDING] = AlertPhase.INACTIVE
        self.streaks[:, slot] = 0
        self.steps[slot] = NO_STEP

    def restore(self, rule: int, slot: int, phase: AlertPhase, streak: int, step: int) -> None:
        """Set the state of a rule for a slot, as a former process left it after the forecast of a step."""
        self.phases[rule, slot] = phase
        self.streaks[rule, slot] = min(streak, self._consecutive[rule] - 1)
        self.steps[slot] = max(int(self.steps[slot]), step)

    def end(self, rule: int, slot: int) -> None:
        """Set the phase of a rule for a slot to INACTIVE."""
        self.phases[rule, slot] = AlertPhase.INACTIVE
        self.streaks[rule, slot] = 0

    def take_over(self, former: "AlertStates", rules: Sequence[int | None]) -> None:
        """Take the states over from those of former rules: of each rule its former place, `None` for a new rule."""
        self.steps[:] = former.steps
        for rule, place in enumerate(rules):
            if place is not None:
                self.phases[rule] = former.phases[place]
                self.streaks[rule] = former.streaks[place]


_PHASE_AFTER = np.array(
    [
        [AlertPhase.INACTIVE, AlertPhase.PENDING, AlertPhase.FIRING],
        [AlertPhase.PENDING] * 3,
        [AlertPhase.FIRING] * 3,
        [AlertPhase.INACTIVE] * 3,
        [AlertPhase.INACTIVE] * 3,
    ],
    np.uint8,
)
"""The phase by transition and former phase."""
