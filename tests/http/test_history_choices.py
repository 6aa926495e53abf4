"""Tests `streamd/http/history_choices.py`: query parameters are checked, and the error names the parameter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict
from yarl import URL

from streamd.core.errors import InvalidSelectionError
from streamd.http.history_choices import DEFAULT_FORECASTS, MAX_STEP, HistoryChoice, parse_history_query
from tests.support.contracts import make_contract

CONTRACT = make_contract()


def parse(query: str) -> HistoryChoice:
    return parse_history_query(CONTRACT, URL(f"/?{query}", encoded=True).query)


def test_without_parameters_all_is_chosen() -> None:
    expected = HistoryChoice(targets=(0, 1), every=1, first=0, last=MAX_STEP, limit=DEFAULT_FORECASTS)
    assert parse("server=a") == expected


def test_targets_are_a_list_or_repeated() -> None:
    assert parse("targets=cpu,mem").targets == parse("targets=cpu&targets=mem").targets == (1, 0)


def test_a_time_is_epoch_seconds_or_rfc_3339() -> None:
    assert parse("since=1000000000").first == parse("since=2001-09-09T01:46:40Z").first
    assert parse("until=1000000000.0").last == parse("until=2001-09-09T03:46:40%2B02:00").last


@given(step=st.integers(0, 10**7), offset=st.sampled_from([-0.5, 0.0, 0.5]))
def test_origins_within_both_times_are_chosen(step: int, offset: float) -> None:
    origin = CONTRACT.to_origin(step)
    time = str(origin + offset)
    choice = parse_history_query(CONTRACT, MultiDict(since=time, until=time))
    assert (choice.first <= step) == (origin >= origin + offset)
    assert (step <= choice.last) == (origin <= origin + offset)


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=101", "limit=x", "limit=%D9%A3", "every=0", "every=5", "targets=nothing", "targets="),
        *("since=x", "since=2001-01-01", "since=-1", "until=nan", "until=inf", "until=1e300", "limit=1&limit=2"),
        *("unknown=1", "quantiles=0.5"),
    ],
)
def test_a_wrong_parameter_is_named(query: str) -> None:
    with pytest.raises(InvalidSelectionError, match=query.partition("=")[0]):
        parse(query)
