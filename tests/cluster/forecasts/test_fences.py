"""Tests `streamd/cluster/forecasts/fences.py`: fences rise also after the table of leases was deleted."""

import pytest

from streamd.cluster.forecasts.fences import raise_revisions
from streamd.cluster.revisions import MAX_RAISED
from streamd.cluster.streams import ShardLimits, prepare_streams
from streamd.core.cluster.forecast_batches import OwnerMarker, StepRecord, encode_chain_message
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import ConfigError
from tests.support.made_log import MemoryLog

LIMITS = ShardLimits(row_bytes=2**20, forecast_bytes=2**20)

NAMES = ClusterNames("streamd")
SHAPE = (1, 1, 1)


async def make_log(*fences: int) -> MemoryLog:
    """Return a log in which each shard has had an owner with a fence."""
    log = MemoryLog()
    await prepare_streams(log, NAMES, len(fences), LIMITS)
    for shard, fence in enumerate(fences):
        if fence:
            marker = OwnerMarker(fence=fence, number=0, node="a")
            await log.append(NAMES.forecasts(shard), encode_chain_message(marker))
    return log


async def test_a_new_table_gets_revisions_above_all_fences() -> None:
    log = await make_log(7, 950, 0)
    assert await raise_revisions(log, NAMES, 3, SHAPE) == 950
    leases = log.table(NAMES.bucket("leases"))
    assert await leases.put("shard.0", b"", expected_revision=0) > 950
    assert await raise_revisions(log, NAMES, 3, SHAPE) == 0, "it is no new one any more"


async def test_a_chain_of_which_only_records_are_left_counts_too() -> None:
    log = await make_log(0)
    record = StepRecord(fence=30, number=1, part=2, steps={}, forgot_rows=0)
    await log.append(NAMES.steps(0, 2), encode_chain_message(record))
    assert await raise_revisions(log, NAMES, 1, SHAPE) == 30


async def test_the_first_table_of_a_cluster_stays_empty() -> None:
    log = await make_log(0, 0)
    assert await raise_revisions(log, NAMES, 2, SHAPE) == 0
    assert await log.table(NAMES.bucket("leases")).read_all() == {}


async def test_a_fence_that_no_table_has_given_is_refused() -> None:
    log = await make_log(1, MAX_RAISED + 1)
    await log.append(NAMES.forecasts(0), b"unreadable")
    with pytest.raises(ConfigError, match="shard 1: its forecasts have the fence 10000001, expected a revision"):
        await raise_revisions(log, NAMES, 2, SHAPE)
