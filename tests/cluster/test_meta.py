"""Tests `streamd/cluster/meta.py`: the first node records what all have in common, and one that differs is refused."""

import dataclasses

import msgspec
import pytest

from streamd.cluster.log import LogAwayError, SharedTable
from streamd.cluster.meta import META_KEY, ClusterMeta, check_meta, describe_difference, make_meta, read_meta
from streamd.core.errors import ConfigError
from tests.support.http_harness import CONTRACT
from tests.support.made_log import MemoryLog

MINE = make_meta(CONTRACT, shards=32, aggregation="last", late_tolerance_steps=288)


@pytest.fixture
def control() -> SharedTable:
    log = MemoryLog()
    log.broker.make_bucket("streamd_control")
    return log.table("streamd_control")


async def test_the_first_node_records_and_an_equal_one_fits(control: SharedTable) -> None:
    assert await read_meta(control) is None
    await check_meta(control, "streamd", MINE)
    await check_meta(control, "streamd", MINE)
    assert await read_meta(control) == MINE


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shards": 16}, r"\[cluster\] shards is 16, expected 32, as the nodes of the cluster 'streamd' have"),
        ({"aggregation": "mean"}, r"\[windows\] aggregation is mean, expected last"),
        ({"late_tolerance_steps": 3}, r"\[windows\] late_tolerance_steps is 3, expected 288"),
        ({"format": 2}, r"this release: the format of the logs is 2, expected 1"),
        ({"step_seconds": 7}, r"the engine version: step_seconds is 7, expected \d+"),
    ],
)
async def test_a_node_that_differs_is_refused_with_both_values(
    control: SharedTable, changed: dict[str, object], message: str
) -> None:
    await check_meta(control, "streamd", MINE)
    with pytest.raises(ConfigError, match=message):
        await check_meta(control, "streamd", msgspec.structs.replace(MINE, **changed))
    assert await read_meta(control) == MINE


async def test_a_node_does_not_join_what_it_cannot_read(control: SharedTable) -> None:
    later = msgspec.msgpack.encode({"format": "two"})
    await control.put(META_KEY, later)
    with pytest.raises(ConfigError, match="cannot be read, expected what its first node recorded"):
        await check_meta(control, "streamd", MINE)
    assert (await control.read_all())[META_KEY].value == later


def test_of_long_lists_the_difference_is_named() -> None:
    features = tuple(f"feature_{number}" for number in range(30))
    here = msgspec.structs.replace(MINE, features=(*features, "new"))
    there = msgspec.structs.replace(MINE, features=(*features, "old"))
    told = describe_difference(here, there, "streamd")
    assert told is not None
    assert "features is a list with ['new'], expected one with ['old'] instead" in told


def test_every_field_is_compared() -> None:
    other = dataclasses.replace(
        CONTRACT,
        features=(*CONTRACT.features, "more"),
        targets=CONTRACT.targets[:1],
        quantiles=(0.2,),
        context_length=CONTRACT.context_length + 1,
        horizon=CONTRACT.horizon + 1,
        step_seconds=CONTRACT.step_seconds + 1,
    )
    theirs = make_meta(other, shards=1, aggregation="mean", late_tolerance_steps=1)
    for name in ClusterMeta.__struct_fields__:
        changed = {name: getattr(theirs, name)} if name != "format" else {"format": 0}
        assert describe_difference(msgspec.structs.replace(MINE, **changed), MINE, "streamd"), name


async def test_a_node_that_starts_waits_until_those_that_run_have_put_the_table_back(control: SharedTable) -> None:
    with pytest.raises(LogAwayError, match="was made anew: a, b put it back"):
        await check_meta(control, "streamd", MINE, ["a", "b"])
    assert await read_meta(control) is None, "it may differ from them"
    await control.put(META_KEY, msgspec.msgpack.encode(MINE))
    await check_meta(control, "streamd", MINE, ["a", "b"])
