"""Tests `streamd/tools/training/datasets.py`: what the table of data sets must have."""

import re

import pytest

from streamd.tools.networks.contract import FEATURE_UNITS, TARGETS
from streamd.tools.training.datasets import DATASETS
from tests.support.document_tables import ROOT, read, read_table

EACH = pytest.mark.parametrize("name", sorted(DATASETS))


@EACH
def test_a_source_is_a_public_repository_at_a_commit(name: str) -> None:
    definition = DATASETS[name]
    assert re.search(r"github\.com/[\w-]+/[\w-]+", definition.source)
    assert re.search(r"\b[0-9a-f]{40}\b", definition.source)
    assert definition.licence
    assert definition.attribution


@EACH
def test_scored_metrics_are_inputs_of_their_targets(name: str) -> None:
    definition = DATASETS[name]
    assert set(definition.scored.values()) <= set(TARGETS)
    if definition.natural is not None:
        assert set(definition.natural) <= set(FEATURE_UNITS)
        assert {t: m for m, t in definition.scored.items()}.items() <= definition.natural.items()


@EACH
def test_related_sets_are_related_both_ways(name: str) -> None:
    assert all(name in DATASETS[other].related for other in DATASETS[name].related)


def test_the_test_days_of_jumpstarter_are_no_training_days_of_its_own_fleet() -> None:
    # asd's training days are its first 28; both begin at the same hour of the same fleet.
    assert DATASETS["jumpstarter"].test_begin == 28 * 86_400


def test_values_that_are_no_percentages_are_no_percent_target() -> None:
    limited = [t for t in TARGETS if FEATURE_UNITS[t] == "percent"]
    for name in ("cloud_cluster", "mscloud", "mscloud_hourly", "snowflake", "appserver"):
        assert not set(DATASETS[name].scored.values()) & set(limited)


@EACH
def test_the_document_names_each_set_with_its_source_and_licence(name: str) -> None:
    definition = DATASETS[name]
    rows = [r for r in read_table(read("docs/training-data.md"), "set", "what it is") if r["set"] == f"`{name}`"]
    assert [r["licence"] for r in rows] == [definition.licence]
    commits = re.findall(r"\b[0-9a-f]{40}\b", definition.source)
    assert rows[0]["repository and commit"] == "the same" or re.findall(r"[0-9a-f]{40}", str(rows)) == commits


@EACH
def test_the_text_of_each_licence_ships(name: str) -> None:
    file = DATASETS[name].licence_file
    assert (ROOT / "licenses" / file).is_file()
    assert f"`{file}`" in read("licenses/README.md")
