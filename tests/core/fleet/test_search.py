"""Tests `streamd/core/fleet/search.py`: parts and globs against naive definitions."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidSelectionError
from streamd.core.fleet.search import NameSearch

NAMES = st.text(st.sampled_from("abAB-1[]ä"), min_size=1, max_size=8)


@given(NAMES, st.text(st.sampled_from("abAB-1ä"), max_size=4))
def test_a_text_finds_the_names_that_have_it_as_a_part(name: str, text: str) -> None:
    assert NameSearch(text).finds(name.lower()) == (text.lower() in name.lower())


@given(NAMES, st.text(st.sampled_from("abAB-1*?[]"), max_size=5))
def test_a_glob_finds_whole_names_and_those_that_contain_its_text(name: str, text: str) -> None:
    lower, glob = name.lower(), text.lower()
    assert NameSearch(text).finds(lower) == (glob in lower or fnmatchcase(lower, glob))


def test_case_is_ignored() -> None:
    assert NameSearch("DB-0").finds("prod-db-07")
    assert NameSearch("Db-*7").finds("db-07")
    assert not NameSearch("Db-*7").finds("prod-db-07")


def test_a_glob_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidSelectionError):
        NameSearch("*x?" * 5_000)


def test_a_search_has_few_different_classes() -> None:
    assert NameSearch("[*]" * 40).finds("*" * 40)
    with pytest.raises(InvalidSelectionError, match=r"it has 9 different \[\.\.\.\], expected at most 8"):
        NameSearch("".join(f"[{each}]" for each in "abcdefghi"))
