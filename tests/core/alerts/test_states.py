"""Tests `streamd/core/alerts/states.py`: the damping against a model of one server, and that it does not flap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.alerts.evaluation import evaluate_rule
from streamd.core.alerts.rules import bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from streamd.core.alerts.states import AlertPhase, AlertStates, Transition
from tests.support.contracts import make_contract
from tests.support.naive_alerts import NaiveAlert, Verdict

CAPACITY = 3
SLOTS = range(CAPACITY)
STATES = {"inactive": AlertPhase.INACTIVE, "pending": AlertPhase.PENDING, "firing": AlertPhase.FIRING}
CHANGES = {
    "": Transition.NONE,
    "pending": Transition.PENDING,
    "fired": Transition.FIRED,
    "dropped": Transition.DROPPED,
    "resolved": Transition.RESOLVED,
}


def judge(states: AlertStates, rule: int, verdicts: dict[int, Verdict], steps: dict[int, int]) -> dict[int, int]:
    """Judge one forecast of each slot; returns the transition of each slot whose forecast is new."""
    slots = np.array(list(verdicts), np.int64)
    new = slots[states.begin(slots, np.array([steps[slot] for slot in slots.tolist()]))]
    given_verdicts = [verdicts[slot] for slot in new.tolist()]
    transitions = states.advance(
        rule,
        new,
        breaching=np.array([each in (Verdict.BREACHING, Verdict.UNTRUSTED) for each in given_verdicts], np.bool_),
        clear=np.array([each is Verdict.CLEAR for each in given_verdicts], np.bool_),
        may_rise=np.array([each is not Verdict.UNTRUSTED for each in given_verdicts], np.bool_),
    )
    return dict(zip(new.tolist(), transitions.tolist(), strict=True))


BATCH = st.dictionaries(st.sampled_from(SLOTS), st.tuples(st.sampled_from(Verdict), st.integers(0, 3)), min_size=1)
"""By slot: the verdict, and how many steps later the forecast is than the last one of the slot."""
EVENT = BATCH | st.tuples(st.sampled_from(["rewind", "forget"]), st.sampled_from(SLOTS))


@given(needed=st.integers(1, 3), events=st.lists(EVENT, max_size=40))
def test_many_servers_at_once_are_as_each_by_itself(
    needed: int, events: list[dict[int, tuple[Verdict, int]] | tuple[str, int]]
) -> None:
    states, naive = AlertStates([needed], CAPACITY), [NaiveAlert(needed) for _ in SLOTS]
    steps = dict.fromkeys(SLOTS, 100)
    for event in events:
        if isinstance(event, tuple):
            what, slot = event
            if what == "rewind":
                states.restart(slot)
                naive[slot].rewind()
                steps[slot] -= 2
            else:
                states.end(0, slot)
                states.restart(slot)
                naive[slot].forget()
            continue
        for slot, (_, later) in event.items():
            steps[slot] += later
        expected = {slot: naive[slot].judge(steps[slot], verdict) for slot, (verdict, _) in event.items()}
        found = judge(states, 0, {slot: verdict for slot, (verdict, _) in event.items()}, steps)
        assert {slot: found.get(slot, 0) for slot in expected} == {
            slot: CHANGES[change] for slot, change in expected.items()
        }
        assert states.phases[0].tolist() == [STATES[each.state] for each in naive]


def run(states: AlertStates, verdicts: list[Verdict], first_step: int = 100) -> list[int]:
    """Judge one forecast after the other of slot 0."""
    return [
        judge(states, 0, {0: verdict}, {0: step}).get(0, Transition.NONE)
        for step, verdict in enumerate(verdicts, first_step)
    ]


B, H, C, U = Verdict.BREACHING, Verdict.BAND, Verdict.CLEAR, Verdict.UNTRUSTED


def test_an_alert_fires_after_so_many_forecasts_in_a_row() -> None:
    states = AlertStates([3], 1)
    assert run(states, [B, B, C, B, B, B]) == [
        Transition.PENDING,
        Transition.NONE,
        Transition.DROPPED,
        Transition.PENDING,
        Transition.NONE,
        Transition.FIRED,
    ]


def test_a_firing_alert_is_resolved_after_so_many_clear_forecasts_in_a_row() -> None:
    states = AlertStates([2], 1)
    assert run(states, [B, B, C, H, C, C])[2:] == [
        Transition.NONE,
        Transition.NONE,
        Transition.NONE,
        Transition.RESOLVED,
    ]


def test_a_forecast_that_is_not_trusted_neither_begins_an_alert_nor_ends_one() -> None:
    states = AlertStates([1], 1)
    assert run(states, [U, B, U, U, C]) == [
        Transition.NONE,
        Transition.FIRED,
        Transition.NONE,
        Transition.NONE,
        Transition.RESOLVED,
    ]


def test_a_forecast_that_is_judged_twice_counts_once() -> None:
    states = AlertStates([2], 1)
    run(states, [B])
    assert judge(states, 0, {0: B}, {0: 100}) == {}
    assert states.phases[0, 0] == AlertPhase.PENDING


def test_after_rows_went_back_the_same_step_counts_again() -> None:
    states = AlertStates([2], 1)
    run(states, [B, B])
    states.restart(0)
    assert states.phases[0, 0] == AlertPhase.FIRING
    assert run(states, [C, C], first_step=100) == [Transition.NONE, Transition.RESOLVED]


def test_rules_do_not_share_states() -> None:
    states = AlertStates([1, 1], 2)
    judge(states, 1, {0: B}, {0: 100, 1: 100})
    assert states.phases.tolist() == [[0, 0], [2, 0]]


def test_restored_alerts_go_on_where_they_were() -> None:
    states = AlertStates([2], 2)
    states.restore(0, 0, AlertPhase.PENDING, 1, 100)
    states.restore(0, 1, AlertPhase.FIRING, 1, 100)
    assert judge(states, 0, {0: B, 1: C}, {0: 100, 1: 100}) == {}, "these were judged before"
    assert judge(states, 0, {0: B, 1: C}, {0: 101, 1: 101}) == {0: Transition.FIRED, 1: Transition.RESOLVED}


def test_states_move_with_their_rules() -> None:
    former = AlertStates([2, 1], 1)
    judge(former, 1, {0: B}, {0: 100})
    states = AlertStates([1, 3], 1)
    states.take_over(former, [1, None])
    assert states.phases[:, 0].tolist() == [AlertPhase.FIRING, AlertPhase.INACTIVE]
    assert judge(states, 0, {0: B}, {0: 100}) == {}, "its step was judged"


def test_an_ended_alert_is_inactive() -> None:
    states = AlertStates([1], 1)
    run(states, [B])
    states.end(0, 0)
    assert states.phases[0, 0] == AlertPhase.INACTIVE


@pytest.mark.parametrize("consecutive", [0, 101])
def test_counts_of_a_rule_are_limited(consecutive: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 100"):
        AlertStates([consecutive], 1)


@settings(max_examples=60)
@given(
    needed=st.integers(1, 3),
    tops=st.lists(st.floats(88.0, 95.0, exclude_min=True, width=32), min_size=1, max_size=60),
)
def test_a_curve_that_stays_above_the_lower_end_of_the_band_fires_at_most_once(needed: int, tops: list[float]) -> None:
    table = {"target": "cpu", "above": 90.0, "hysteresis": 2.0, "for": needed}
    rule = bind_alert_rules(AlertSettings(rules={"r": table}), make_contract())[0]
    states, fired = AlertStates([needed], 1), 0
    slot = np.zeros(1, np.int64)
    for top in tops:
        curve = np.array([50, 60, top, 60], np.float32)
        found = evaluate_rule(rule, np.repeat(curve[:, None], 3, axis=1)[None])
        fired += int(states.advance(0, slot, breaching=found.breaching, clear=found.clear)[0] == Transition.FIRED)
    assert fired <= 1
