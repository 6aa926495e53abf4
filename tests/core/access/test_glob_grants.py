"""Tests `streamd/core/access/glob_grants.py`: what covers a glob, and which globs may share a server."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.glob_grants import covers_glob, find_uncovered, list_shared, may_overlap
from streamd.core.access.scopes import Scope
from streamd.core.selection import ServerGlobs

GLOBS = st.text("ab*?[]", min_size=1, max_size=5)
SIMPLE_GLOBS = st.text("ab*?", min_size=1, max_size=4)
NAMES = ["".join(letters) for length in range(1, 5) for letters in product("ab", repeat=length)]


@pytest.mark.parametrize(
    ("granted", "glob", "covers"),
    [
        ("db-*", "db-*", True),
        ("db-*", "db-0?", True),
        ("db-*", "db-[12]*", True),
        ("db-*", "db*", False),
        ("db-*", "*", False),
        ("*", "?", True),
        ("*.eu", "*-[12].eu", True),
        ("*.eu", "*eu", False),
        ("d?", "d[12]", False),
    ],
)
def test_a_glob_is_covered_only_if_that_is_certain(granted: str, glob: str, covers: bool) -> None:
    assert covers_glob(granted, glob) is covers


@given(granted=GLOBS, glob=GLOBS, name=st.text("ab*?[]", max_size=6))
def test_what_a_covered_glob_chooses_is_granted(granted: str, glob: str, name: str) -> None:
    if covers_glob(granted, glob) and ServerGlobs([glob]).matches(name):
        assert ServerGlobs([granted]).matches(name)


@given(first=GLOBS, second=GLOBS, name=st.text("ab*?[]", max_size=6))
def test_globs_that_choose_the_same_name_overlap(first: str, second: str, name: str) -> None:
    if ServerGlobs([first]).matches(name) and ServerGlobs([second]).matches(name):
        assert may_overlap(first, second)


@given(first=SIMPLE_GLOBS, second=SIMPLE_GLOBS)
def test_globs_without_classes_overlap_only_if_a_name_is_chosen_by_both(first: str, second: str) -> None:
    left, right = ServerGlobs([first]), ServerGlobs([second])
    shared = any(left.matches(name) and right.matches(name) for name in (*NAMES, first, second))
    longest = len(first.replace("*", "")) + len(second.replace("*", "")) > len(NAMES[-1])
    assert may_overlap(first, second) is shared or longest, "a shared name may be longer than those that are tried"


def test_a_caller_is_granted_the_globs_of_its_own_servers() -> None:
    caller = Caller("db", {Scope.ADMIN: ["db-*", "web-01"]})
    assert find_uncovered(caller, Scope.ADMIN, ["db-1*", "web-01"]) is None
    assert find_uncovered(caller, Scope.ADMIN, ["db-1*", "web-0?", "*"]) == "web-0?"
    assert find_uncovered(caller, Scope.READ, ["db-1"]) == "db-1"
    assert find_uncovered(ANYBODY, Scope.READ, ["*"]) is None


def test_a_caller_is_shown_the_globs_that_may_choose_its_servers() -> None:
    caller = Caller("db", {Scope.READ: ["db-*"]})
    assert list_shared(caller, Scope.READ, ["web-*", "*-01", "db-7", "d[bc]-9", "web-01"]) == (
        "*-01",
        "db-7",
        "d[bc]-9",
    )
    assert list_shared(caller, Scope.ADMIN, ["db-7"]) == ()
    assert list_shared(ANYBODY, Scope.READ, ["web-*"]) == ("web-*",)
