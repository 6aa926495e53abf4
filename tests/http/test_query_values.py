"""Tests `streamd/http/query_values.py`: parameters are known, and given as often as they may be."""

import pytest

from streamd.core.errors import InvalidSelectionError
from streamd.http.query_values import MAX_SHOWN_CHARACTERS, MAX_SHOWN_PARAMETERS, collect_values, split_list


def test_each_parameter_has_all_its_values() -> None:
    assert collect_values([("a", "1"), ("b", "2"), ("a", "3")], {"a", "b"}) == {"a": ["1", "3"], "b": ["2"]}


def test_an_unknown_parameter_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidSelectionError, match=r"unknown parameters \['c'\], expected some of \['a', 'b'\]"):
        collect_values([("c", "1")], {"b", "a"})


def test_an_error_repeats_only_a_part_of_many_long_names() -> None:
    parameters = [(f"{number:03}{'x' * 1_000}", "1") for number in range(500)]
    with pytest.raises(InvalidSelectionError) as caught:
        collect_values(parameters, {"a"})
    assert len(str(caught.value)) < MAX_SHOWN_PARAMETERS * (MAX_SHOWN_CHARACTERS + 4) + 100


def test_a_parameter_that_may_be_given_once_is_refused_if_it_is_repeated() -> None:
    with pytest.raises(InvalidSelectionError, match="a is given 2 times, expected once"):
        collect_values([("a", "1"), ("a", "1")], {"a"}, ["a"])


def test_a_value_is_split_at_its_commas_unless_it_is_a_known_name() -> None:
    assert split_list(["a,b", "c,d"], ["c,d"]) == ["a", "b", "c,d"]
