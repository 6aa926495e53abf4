"""Tests `streamd/tools/alerts/scoring.py`: how alerts are judged by the incidents that followed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.tools.alerts.incidents import Incident
from streamd.tools.alerts.scoring import AlertScores, Episode, Judgement, find_episodes, score_server

JUDGEMENT = Judgement(reach_steps=3, shortest_steps=1, flap_steps=2, step_seconds=300)
STEPS = 20
FIRST = 4


def score(
    firing: list[int],
    incidents: list[Incident],
    *,
    judged: list[bool] | None = None,
    known: list[bool] | None = None,
    judgement: Judgement = JUDGEMENT,
) -> AlertScores:
    """Score alerts that fire at these origins, of `FIRST` to `STEPS - 1`."""
    states = np.zeros(STEPS - FIRST, bool)
    states[np.array(firing, int) - FIRST] = True
    return score_server(
        states,
        np.ones(STEPS - FIRST, bool) if judged is None else np.array(judged),
        np.ones(STEPS, bool) if known is None else np.array(known),
        incidents,
        first_origin=FIRST,
        judgement=judgement,
    )


@st.composite
def incident_lists(draw: st.DrawFn) -> list[Incident]:
    cuts = sorted(draw(st.sets(st.integers(0, STEPS), max_size=8)))
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return [Incident(begin, end, draw(st.booleans())) for begin, end in pairs]


def count_naively(
    firing: set[int], judged: list[bool], known: list[bool], incidents: list[Incident], reach: int, shortest: int
) -> dict[str, object]:
    """Ask of each origin and of each incident what the documents say, without arrays."""

    def truth(origin: int) -> str:
        for incident in incidents:
            is_going_on = incident.begin < origin <= incident.end
            if is_going_on or origin <= incident.begin <= origin + reach:
                return "right"
        following = range(origin, origin + reach)
        if following.stop > STEPS or sum(known[step] for step in following) < reach / 2:
            return "undecided"
        return "wrong"

    fired = [origin for origin in sorted(firing) if origin - 1 not in firing]
    over = [origin + 1 for origin in sorted(firing) if origin + 1 not in firing]
    caught, leads = 0, []
    counted = 0
    for number, incident in enumerate(incidents):
        before = [origin for origin in range(incident.begin - reach, incident.begin + 1) if FIRST <= origin < STEPS]
        was_judged = any(judged[origin - FIRST] for origin in before)
        is_long = incident.end - incident.begin >= shortest
        if not (is_long and incident.has_known_begin and FIRST <= incident.begin < STEPS and was_judged):
            continue
        counted += 1
        seen = [
            at
            for at, end in zip(fired, over, strict=True)
            if at <= incident.begin < end or incident.begin < at <= incident.end
        ]
        if seen:
            caught += 1
            earliest = max(seen[0], incident.begin - reach, incidents[number - 1].end if number else 0)
            leads.append((incident.begin - earliest) * 300.0)
    return {
        "incidents": counted,
        "caught": caught,
        "warned": sum(lead > 0 for lead in leads),
        "leads_seconds": leads,
        "alerts": len(fired),
        "right": sum(truth(origin) == "right" for origin in fired),
        "wrong": sum(truth(origin) == "wrong" for origin in fired),
        "flaps": sum(b - a <= 2 for a, b in zip(over, fired[1:], strict=False)),
        "judged_steps": sum(judged),
        "firing_steps": len(firing),
        "needless_steps": sum(truth(origin) == "wrong" for origin in firing),
        "near_steps": sum(truth(at) == "right" for at in range(FIRST, STEPS) if judged[at - FIRST]),
        "decided_steps": sum(truth(at) != "undecided" for at in range(FIRST, STEPS) if judged[at - FIRST]),
    }


@given(
    st.sets(st.integers(FIRST, STEPS - 1)),
    st.lists(st.booleans(), min_size=STEPS - FIRST, max_size=STEPS - FIRST),
    st.lists(st.booleans(), min_size=STEPS, max_size=STEPS),
    incident_lists(),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_scores_are_those_of_a_naive_count(
    firing: set[int], judged: list[bool], known: list[bool], incidents: list[Incident], reach: int, shortest: int
) -> None:
    judgement = replace(JUDGEMENT, reach_steps=reach, shortest_steps=shortest)
    scores = score(sorted(firing), incidents, judged=judged, known=known, judgement=judgement)
    assert vars(scores) == count_naively(firing, judged, known, incidents, reach, shortest)


def test_an_alert_shortly_before_an_incident_is_right_and_its_lead_is_the_time_between() -> None:
    scores = score([8, 9, 10], [Incident(10, 12, True)])
    assert (scores.precision, scores.recall, scores.leads_seconds) == (1.0, 1.0, [600.0])


def test_an_alert_during_an_incident_catches_it_without_a_warning() -> None:
    scores = score([11, 12], [Incident(10, 12, True)])
    assert (scores.right, scores.caught, scores.warned, scores.leads_seconds) == (1, 1, 0, [-300.0])


def test_an_alert_too_long_before_an_incident_is_wrong() -> None:
    scores = score([6], [Incident(10, 12, True)])
    assert (scores.wrong, scores.caught, scores.recall) == (1, 0, 0.0)


def test_an_alert_that_always_fires_gets_no_lead_beyond_the_reach_and_its_time_is_needless() -> None:
    scores = score(list(range(FIRST, STEPS)), [Incident(10, 11, True)])
    assert scores.leads_seconds == [900.0]
    assert scores.needless_steps == len([4, 5, 6, *range(12, 18)])


def test_an_alert_at_the_end_of_the_recording_is_undecided() -> None:
    scores = score([18], [])
    assert (scores.alerts, scores.undecided, scores.precision) == (1, 1, None)


def test_an_incident_before_which_the_server_had_no_forecast_does_not_count() -> None:
    judged = [origin > 10 for origin in range(FIRST, STEPS)]
    assert score([], [Incident(8, 9, True)], judged=judged).incidents == 0


def test_a_short_incident_need_not_be_caught_but_makes_an_alert_right() -> None:
    scores = score([9], [Incident(10, 12, True)], judgement=replace(JUDGEMENT, shortest_steps=3))
    assert (scores.incidents, scores.right) == (0, 1)


def test_a_second_alert_soon_after_the_first_is_a_flap() -> None:
    assert score([6, 8], []).flaps == 1
    assert score([6, 10], []).flaps == 0


def test_an_alert_that_still_fires_ends_with_the_recording() -> None:
    assert find_episodes(np.array([False, True, True]), 5) == [Episode(6, 8)]


def test_scores_of_several_rules_add_up() -> None:
    total = score([8, 9, 10], [Incident(10, 12, True)])
    total.add(score([11], [Incident(10, 12, True)]))
    found = total.to_dict()
    assert (found["incidents"], found["caught"], found["warned"], found["missed"]) == (2, 2, 1, 0)
    assert found["warned_share"] == 0.5
    assert found["lead_seconds_p50"] == pytest.approx(150.0)


def test_chance_is_the_precision_of_alerts_at_any_time() -> None:
    # Of the origins 4 to 19, those from 7 to 12 are near the incident, and the last two are undecided.
    assert score([], [Incident(10, 12, True)]).chance == 6 / 14


def test_scores_without_incidents_and_alerts_have_no_shares() -> None:
    found = score([], []).to_dict()
    assert found["precision"] is found["recall"] is found["lead_seconds_p50"] is None
