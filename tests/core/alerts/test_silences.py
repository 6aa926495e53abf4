"""Tests `streamd/core/alerts/silences.py`: which alerts are silenced, until when, and which silences are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.alerts.silences import (
    MAX_SILENCE_GLOB_CHARACTERS,
    MAX_SILENCE_SECONDS,
    MAX_SILENCES,
    Silence,
    SilenceSet,
    check_silence,
)
from streamd.core.errors import InvalidInputError, InvalidSelectionError, TooBusyError
from streamd.core.selection import ServerGlobs

NOW = 1_000_000.0


def make_silence(silence_id: str = "s", **changes: Any) -> Silence:
    given: dict[str, Any] = {
        "servers": ("db-*",),
        "rules": ("fills",),
        "starts_at": NOW,
        "ends_at": NOW + 60,
        "who": "ops",
        "why": "disk swap",
    }
    return Silence(id=silence_id, **{**given, **changes})


SILENCES = st.lists(
    st.builds(
        lambda servers, rules, seconds: {"servers": servers, "rules": rules, "ends_at": NOW + seconds},
        st.sampled_from([("*",), ("a*",), ("ab", "b?"), ("b",)]),
        st.sampled_from([None, ("x",), ("x", "y")]),
        st.integers(1, 9),
    ),
    max_size=6,
)


@given(given_=SILENCES, rule=st.sampled_from("xyz"), server=st.text("ab", min_size=1, max_size=3), data=st.data())
def test_an_alert_is_silenced_until_the_last_end_of_the_silences_that_choose_it(
    given_: list[dict[str, Any]], rule: str, server: str, data: st.DataObject
) -> None:
    silences = [make_silence(str(number), **each) for number, each in enumerate(given_)]
    held = SilenceSet(silences[:2])
    for silence in silences[2:]:
        held.add(silence)
    removed = data.draw(st.sets(st.sampled_from(silences))) if silences else set()
    for silence in removed:
        held.remove(silence.id)
    now = NOW + data.draw(st.integers(0, 10))
    ended = held.remove_ended(now)
    left = [each for each in silences if each not in removed and each not in ended]
    assert list(held) == left
    assert all(each.ends_at <= now for each in ended)
    ends = [
        each.ends_at
        for each in left
        if ServerGlobs(each.servers).matches(server) and (each.rules is None or rule in each.rules)
    ]
    assert held.find_end(rule, server) == max(ends, default=None)
    assert [each.ends_at for each in left if held.matches(each.id, rule, server)] == ends


def test_a_clock_that_goes_back_ends_no_silence() -> None:
    held = SilenceSet([make_silence()])
    assert held.remove_ended(NOW - 86_400) == []
    assert held.find_end("fills", "db-1") == NOW + 60


def test_as_many_silences_hold_as_may() -> None:
    held = SilenceSet([make_silence(str(number)) for number in range(MAX_SILENCES)])
    with pytest.raises(TooBusyError, match="1000 silences hold already"):
        held.add(make_silence("one more"))
    held.remove("7")
    held.add(make_silence("one more"))
    assert held.get("one more") is not None
    assert held.get("7") is None


def test_globs_of_all_silences_are_bounded_together_and_names_are_not() -> None:
    globs = tuple("*" * 15 + f"{number:x}" for number in range(16))  # of 256 characters
    held = SilenceSet()
    for number in range(MAX_SILENCE_GLOB_CHARACTERS // 256):
        held.add(make_silence(str(number), servers=globs))
    with pytest.raises(TooBusyError, match="have 2 characters, and those of the silences that hold 32768"):
        held.add(make_silence("glob", servers=("a*",)))
    held.add(make_silence("name", servers=("a",)))
    held.remove("7")
    held.add(make_silence("glob", servers=("a*",)))


def test_a_silence_that_can_be_meant_is_accepted() -> None:
    check_silence(make_silence(ends_at=NOW + MAX_SILENCE_SECONDS), ["fills"])
    check_silence(make_silence(rules=None), [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"servers": ()}, "servers has 0 names and globs, expected 1 to 100"),
        ({"servers": ("a",) * 101}, "servers has 101"),
        ({"servers": ("",)}, "servers has '' of 0 characters"),
        ({"servers": ("x" * 257,)}, "of 257 characters, expected 1 to 256"),
        ({"servers": tuple(f"{number}[ab{number}]" for number in range(60))}, "different"),
        ({"rules": ()}, "rules is empty"),
        ({"rules": ("fills", "nothing")}, "rules has 'nothing', expected some of fills"),
        ({"ends_at": NOW}, "would end 0 s from now"),
        ({"ends_at": NOW - 5}, "would end -5 s from now"),
        ({"ends_at": 1e300}, r"would end 1e\+300 s from now"),
        ({"ends_at": NOW + MAX_SILENCE_SECONDS + 1}, "at most 30 days"),
        ({"ends_at": float("nan")}, "nan s from now"),
        ({"why": " "}, "why has 1 characters"),
        ({"why": "x" * 1_001}, "why has 1001 characters, expected 1 to 1000"),
        ({"who": "x" * 201}, "who has 201 characters"),
    ],
)
def test_a_silence_that_cannot_be_meant_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidInputError, InvalidSelectionError), match=message):
        check_silence(make_silence(**changes), ["fills"])
