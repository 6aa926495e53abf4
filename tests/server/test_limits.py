"""Tests `streamd/server/limits.py`: the settings of the accuracy history, and what is refused."""

import pytest

from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.core.errors import ConfigError
from streamd.server.config import load_config
from streamd.server.limits import make_service_limits


def load_limits(**variables: str) -> HistoryLimits:
    return make_service_limits(
        load_config(None, {f"STREAMD_{name}": value for name, value in variables.items()})
    ).history


def test_the_defaults_are_those_of_the_history() -> None:
    assert load_limits() == HistoryLimits()


def test_each_setting_reaches_the_history() -> None:
    limits = load_limits(
        HISTORY_SERVERS="web-*,db-1",
        MAX_HISTORY_SERVERS="0",
        HISTORY_EVERY_STEPS="12",
        HISTORY_DAYS="0.5",
        SCORE_AFTER_STEPS="3",
    )
    expected = HistoryLimits(
        servers=("web-*", "db-1"), max_servers=0, every_steps=12, retention_days=0.5, settle_steps=3
    )
    assert limits == expected
    assert load_limits(HISTORY_SERVERS="").servers == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("HISTORY_DAYS", value) for value in ("0", "inf", "nan", "-1", "100000")),
        *(("HISTORY_EVERY_STEPS", "0"), ("MAX_HISTORY_SERVERS", "-1")),
        ("HISTORY_SERVERS", ",".join(f"[{chr(97 + number % 26)}{number}]*" for number in range(60))),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"STREAMD_{name}"):
        load_limits(**{name: value})
