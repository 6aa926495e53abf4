"""Tests `streamd/core/alerts/matches.py`: rules by globs, remembered until a slot gets another server."""

import numpy as np

from streamd.core.alerts.matches import RuleMatches
from streamd.core.alerts.rules import AlertRule, bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from tests.support.contracts import make_contract


def bind(*servers: list[str]) -> tuple[AlertRule, ...]:
    """Return a rule for each list of globs."""
    rules = {f"r{place}": {"target": "cpu", "above": 1.0, "servers": globs} for place, globs in enumerate(servers)}
    return bind_alert_rules(AlertSettings(rules=rules), make_contract())


def find(matches: RuleMatches, *generations: int) -> list[list[bool]]:
    """Return the rules of the slots from 0 on."""
    found: list[list[bool]] = matches.find(np.arange(len(generations)), np.array(generations)).tolist()
    return found


def test_rules_apply_to_the_servers_of_their_globs() -> None:
    matches = RuleMatches(bind(["db-*"], ["*"], ["web-1", "x"]), ["db-1", "web-1", None])
    assert find(matches, 0, 0, 0) == [[True, True, False], [False, True, True], [False, False, False]]


def test_rules_for_all_servers_apply_to_each() -> None:
    assert find(RuleMatches(bind(["*"], ["*"]), ["db-1", "web-1"]), 0, 0) == [[True, True]] * 2


def test_a_slot_is_matched_anew_only_in_another_generation() -> None:
    names: list[str | None] = ["db-1"]
    matches = RuleMatches(bind(["db-*"]), names)
    assert find(matches, 4) == [[True]]
    names[0] = "web-1"
    assert find(matches, 4) == [[True]]
    assert find(matches, 5) == [[False]]
