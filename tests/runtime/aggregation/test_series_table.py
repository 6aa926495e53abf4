"""Tests `streamd/runtime/aggregation/series_table.py`: what is remembered of series, within bounds."""

import pytest

from streamd.core.mapping.mapping import RuleMapping
from streamd.core.mapping.rules import parse_rule_set
from streamd.core.mapping.series import SourceSeries
from streamd.runtime.aggregation import series_table as table_module
from streamd.runtime.aggregation.series_table import MAX_SERIES_KEYS, IgnoredEntry, SeriesTable

RULES = parse_rule_set("test", {"server": ["host"], "load": {"metric": "load"}})


def make_table(max_series: int = 1_000) -> SeriesTable:
    return SeriesTable(RuleMapping([RULES], ["load"]), 300, max_series)


def test_the_keys_of_one_series_are_bounded() -> None:
    """A sender may write the labels of a series in any order, and with empty ones: each is another key."""
    table = make_table()
    entries = {table.bind("p", ("key", number), SourceSeries("load", {"host": "a"})) for number in range(100)}
    assert len(entries) == table.series == 1
    assert list(table.get_entries("p")) == [("key", number) for number in range(100 - MAX_SERIES_KEYS, 100)]


def test_the_size_of_the_keys_is_bounded() -> None:
    table = make_table(max_series=10)
    for number in range(10):
        entry = table.bind("p", b"%d" % number * 2_000, SourceSeries("load", {"host": str(number)}))
        assert not isinstance(entry, IgnoredEntry)
    assert table.series == 10
    assert len(table.get_entries("p")) == 2, "the others are matched each time"


@pytest.mark.parametrize(("limit", "value"), [("MAX_IGNORED_KEYS", 3), ("MAX_IGNORED_BYTES", 1_500)])
def test_of_unused_series_the_oldest_keys_are_forgotten(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, limit, value)
    table = make_table()
    for number in range(10):
        entry = table.bind("p", b"%d" % number * 400, SourceSeries("other", {}))
        assert isinstance(entry, IgnoredEntry)
    assert list(table.get_entries("p")) == [b"%d" % number * 400 for number in (7, 8, 9)]


def test_a_removed_series_comes_back_under_its_own_entry() -> None:
    table = make_table()
    entry = table.bind("p", 1, SourceSeries("load", {"host": "a"}))
    assert not isinstance(entry, IgnoredEntry)
    server = table.servers["a"]
    table.remove_server(server)
    assert (entry.index, table.series, dict(table.get_entries("p"))) == (-1, 0, {})
    assert table.restore_series(server, [entry]) == [entry]
    assert (entry.index, table.series, table.servers) == (0, 1, {"a": server})
    assert table.bind("p", 1, SourceSeries("load", {"host": "a"})) is entry
    assert table.series == 1
