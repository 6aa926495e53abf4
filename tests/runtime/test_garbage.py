"""Tests `streamd/runtime/garbage.py`."""

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from streamd.core.mapping.mapping import RuleMapping
from streamd.core.mapping.series import Kind, SourceSeries
from streamd.rule_sets import load_rule_set
from streamd.runtime import garbage
from streamd.runtime.aggregation.series_table import SeriesTable
from streamd.runtime.garbage import FREEZE_AFTER_SERIES, THAW_AFTER_FREEZES, GarbageFreezer


class Growth:
    """Numbers of series that a test sets, and the calls of the collector."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.created = self.series = 0
        self.calls: list[str] = []
        collector = SimpleNamespace(
            collect=lambda generation=2: self.calls.append(f"collect {generation}"),
            freeze=lambda: self.calls.append("freeze"),
            unfreeze=lambda: self.calls.append("unfreeze"),
            get_threshold=lambda: (700, 10, 10),
            set_threshold=lambda *thresholds: self.calls.append(f"thresholds {thresholds}"),
        )
        monkeypatch.setattr(garbage, "gc", collector)
        self.freezer = GarbageFreezer(lambda: self.created, lambda: self.series)

    def sweep(self) -> list[str]:
        self.calls.clear()
        self.freezer.sweep()
        return self.calls


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> Growth:
    return Growth(monkeypatch)


def test_objects_are_frozen_after_growth_and_never_visited_as_a_whole(growth: Growth) -> None:
    assert growth.sweep() == []
    growth.created = growth.series = FREEZE_AFTER_SERIES - 1
    assert growth.sweep() == []
    growth.created = growth.series = FREEZE_AFTER_SERIES
    assert growth.sweep() == ["collect 1", "freeze"]
    assert growth.sweep() == [], "nothing is new"


def test_the_larger_the_fleet_the_more_must_be_new(growth: Growth) -> None:
    growth.created = growth.series = 1_000_000
    growth.freezer.freeze_loaded()
    assert growth.calls == ["thresholds (700, 10, 100)", "collect 2", "freeze"]
    growth.created += 49_999
    assert growth.sweep() == []
    growth.created += 1
    assert growth.sweep() == ["collect 1", "freeze"], "also if as many were removed"


def test_a_growing_fleet_is_frozen_a_logarithmic_number_of_times(growth: Growth) -> None:
    while growth.series < 2_000_000:
        growth.created += 1_000
        growth.series += 1_000
        growth.sweep()
    assert growth.freezer.freezes < THAW_AFTER_FREEZES


def test_all_garbage_is_collected_after_many_freezes(growth: Growth) -> None:
    calls = []
    for _ in range(2 * THAW_AFTER_FREEZES):
        growth.created += FREEZE_AFTER_SERIES
        calls += growth.sweep()
    assert calls.count("freeze") == 2 * THAW_AFTER_FREEZES
    assert calls.count("unfreeze") == calls.count("collect 2") == 1
    assert calls[2 * THAW_AFTER_FREEZES :][:3] == ["unfreeze", "collect 2", "freeze"]


def test_a_process_that_goes_on_after_the_service_collects_garbage_as_before(growth: Growth) -> None:
    growth.freezer.close()
    assert growth.calls == ["thresholds (700, 10, 10)"], "nothing was frozen"
    growth.freezer.freeze_loaded()
    growth.calls.clear()
    growth.freezer.close()
    assert growth.calls == ["thresholds (700, 10, 10)", "unfreeze"]


@pytest.fixture
def frozen() -> Iterator[None]:
    """Undo a freeze, so that other tests may create garbage."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    gc.enable()


@pytest.mark.usefixtures("frozen")
def test_a_frozen_server_is_freed_when_it_is_removed() -> None:
    table = SeriesTable(RuleMapping((load_rule_set("node_exporter"),), ("load_average",)), 60, 1_000)
    freezer = GarbageFreezer(lambda: table.created, lambda: table.series)
    table.bind("remote_write", "key", SourceSeries("node_load1", {"instance": "web-01:9100"}, Kind.GAUGE))
    assert (table.created, table.series) == (1, 1)
    removed = weakref.ref(table.servers["web-01"])
    gc.disable()
    freezer.freeze_loaded()
    server = removed()
    assert server is not None
    table.remove_server(server)
    del server
    table.begin_sweep()
    table.begin_sweep()
    table.remove_unadmitted(10)  # the table also remembers servers that are new
    assert removed() is None, "reference counts free it: its cycles are broken"
    assert (table.created, table.series) == (1, 0)
