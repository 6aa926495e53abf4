"""Tests `streamd/core/globs.py` against the globs of the standard library."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamd.core.errors import InvalidSelectionError
from streamd.core.globs import (
    MAX_CHARACTER_CLASSES,
    MAX_PATTERN_CHARACTERS,
    MAX_PATTERNS,
    MAX_REMEMBERED_CHARACTERS,
    GlobSet,
    has_wildcard,
    split_atoms,
)

TEXT = st.text(st.sampled_from("abB*?[]!-^.\\|\n1é"), max_size=8)


@given(st.lists(TEXT, max_size=4), st.lists(TEXT, min_size=1, max_size=4))
@example(["[b-a]"], ["a"])
@example(["[!b-a]"], ["a"])
@example(["[+-**]"], ["*"])
@example(["[]a]", "[!]a]"], ["]", "b"])
@example(["[a", "a]"], ["[a", "a]"])
@example(["*", "**"], ["", "a"])
@example(["a*a*b"], ["aab", "ab"])
def test_each_name_matches_as_in_the_standard_library(patterns: list[str], names: list[str]) -> None:
    globs = GlobSet(patterns)
    for name in names:
        assert globs.matches(name) == any(fnmatchcase(name, pattern) for pattern in patterns), name


@given(TEXT)
def test_the_atoms_of_a_pattern_are_its_text(pattern: str) -> None:
    atoms = list(split_atoms(pattern))
    assert "".join(atoms) == pattern
    assert all(len(atom) == 1 or (atom[0] == "[" and atom[-1] == "]") for atom in atoms)


@pytest.mark.parametrize(("glob", "expected"), [("a", False), ("a]", False), ("a*", True), ("?", True), ("[a", True)])
def test_only_wildcards_make_a_pattern(glob: str, expected: bool) -> None:
    assert has_wildcard(glob) == expected


def test_more_characters_than_are_remembered_still_match() -> None:
    globs = GlobSet(["?[!x]y"])
    for number in range(2 * MAX_REMEMBERED_CHARACTERS):
        assert globs.matches(f"{chr(200 + number)}{chr(1_000 + number)}y")


def test_beginnings_and_ends_are_cheap_and_many_or_other_patterns_are_not() -> None:
    assert not GlobSet(["web-*", "*.eu"]).is_costly
    assert GlobSet(["web-*", "*-db-*"]).is_costly
    assert GlobSet([f"web-{number}-*" for number in range(100)]).is_costly


@pytest.mark.parametrize(
    "patterns",
    [
        [f"{number}*" for number in range(MAX_PATTERNS + 1)],
        ["*" + "a" * MAX_PATTERN_CHARACTERS],
        [f"[a{chr(200 + number)}]" for number in range(MAX_CHARACTER_CLASSES + 1)],
    ],
    ids=["patterns", "characters", "classes"],
)
def test_what_would_take_long_to_match_is_refused(patterns: list[str]) -> None:
    with pytest.raises(InvalidSelectionError, match="expected at most"):
        GlobSet(patterns)


def test_patterns_that_repeat_count_once() -> None:
    assert GlobSet(["a*b?"] * (MAX_PATTERNS + 1)).matches("axxbx")


def test_the_slowest_pattern_of_a_backtracking_matcher_takes_one_step_for_each_character() -> None:
    steps = 0

    class CountedName(str):
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal steps
            for character in str.__iter__(self):
                steps += 1
                yield character

    assert not GlobSet(["*a" * 100 + "*b?"]).matches(CountedName("a" * 256))
    assert steps == 256
