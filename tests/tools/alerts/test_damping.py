"""Tests `streamd/tools/alerts/damping.py`: verdicts in a row become alerts, as in the daemon."""

import math

import numpy as np
import pytest

from streamd.tools.alerts.damping import Verdicts, find_firing


def fire(verdicts: str, *, consecutive: int = 2, silent_origins: float = math.inf, may_rise: str = "") -> str:
    """Run one series; `!` marks an alert.

    `x` breaches, `o` is clear, `~` is in between, `?` is unknown, a space was not judged.
    """
    letters = np.array(list(verdicts))[:, None]
    given = Verdicts((letters != " ") & (letters != "?"), letters == "x", letters == "o", letters == "?")
    rising = np.array([each != "-" for each in may_rise.ljust(len(verdicts))])[:, None]
    firing = find_firing(given, rising, consecutive=consecutive, silent_origins=silent_origins)
    return "".join("!" if each else "." for each in firing[:, 0])


@pytest.mark.parametrize(
    ("verdicts", "alerts"),
    [
        ("oxxxoo", "..!!!."),
        ("xoxoxx", ".....!"),
        ("xx~~o~oo", ".!!!!!!."),
        ("x x", "..!"),
    ],
    ids=[
        "begins and ends after two in a row",
        "single ones change nothing",
        "in between nothing changes",
        "a missing one does not count",
    ],
)
def test_alerts_begin_and_end_by_consecutive_verdicts(verdicts: str, alerts: str) -> None:
    assert fire(verdicts) == alerts


def test_an_alert_ends_at_once_when_its_target_is_unknown() -> None:
    assert fire("xx~?xx") == ".!!..!"
    assert fire("x?x?xx") == ".....!"


def test_a_verdict_that_may_raise_nothing_does_not_begin_an_alert() -> None:
    assert fire("xxxx", may_rise="--") == "...!"


def test_an_alert_ends_when_its_server_is_silent_for_long() -> None:
    assert fire("xx   xx", silent_origins=3) == ".!!!!.!"
    assert fire("xx  xx", silent_origins=3) == ".!!!!!"


def test_a_server_that_was_silent_begins_to_count_anew() -> None:
    assert fire("x    xx", silent_origins=3) == "......!"


def test_series_do_not_disturb_each_other() -> None:
    breaching = np.array([[True, False], [True, True], [False, True]])
    verdicts = Verdicts(np.ones_like(breaching), breaching, ~breaching, np.zeros_like(breaching))
    firing = find_firing(verdicts, np.ones_like(breaching), consecutive=2, silent_origins=math.inf)
    assert firing.tolist() == [[False, False], [True, False], [True, True]]
