"""The streams and buckets of a cluster: what each takes and how long it has it.

Each shard has three streams. Rows are alone in theirs, so that a reader sees whether one is missing. An append to the
forecasts states the sequence of the whole stream: servers of NATS before 2.9.21 check the sequence of a single subject
only on the leader, and with replicas store two appends that state the same one.
"""

import asyncio
from dataclasses import dataclass

from streamd.cluster.log import Log, StreamPlan
from streamd.core.cluster.shards import ClusterNames

BUCKETS = ("leases", "control", "alerts")
"""The tables that all nodes follow."""

MADE_AT_ONCE = 16
"""Streams that are made at the same time: with all at once, servers answer some only after seconds."""


@dataclass(frozen=True, kw_only=True)
class ShardLimits:
    """The sizes that the streams of a shard may reach; NATS reserves them, so that it has the space when needed."""

    row_bytes: int
    forecast_bytes: int


def plan_streams(names: ClusterNames, shards: int, limits: ShardLimits) -> list[StreamPlan]:
    """Return the streams of all shards. None removes anything by itself: owners purge what they no longer need.

    That of the forecasts must not grow until NATS is full: then servers with replicas serve no stream any more.
    """
    plans = []
    for shard in range(shards):
        plans += [
            StreamPlan(name=names.rows_stream(shard), subjects=(names.rows(shard),), max_bytes=limits.row_bytes),
            StreamPlan(name=names.windows_stream(shard), subjects=(names.windows(shard),), allows_rollup=True),
            StreamPlan(
                name=names.forecasts_stream(shard),
                subjects=(names.forecasts(shard), names.steps(shard)),
                max_bytes=limits.forecast_bytes,
                allows_rollup=True,
            ),
        ]
    return plans


async def prepare_streams(cluster_log: Log, names: ClusterNames, shards: int, limits: ShardLimits) -> None:
    """Make what is missing of the buckets and streams of a cluster.

    Raises `LogSettingsError` if one is there with other settings or cannot be made so, `LogAwayError`.
    """
    permits = asyncio.Semaphore(MADE_AT_ONCE)

    async def make(plan: StreamPlan) -> None:
        async with permits:
            await cluster_log.make_stream(plan)

    for table in BUCKETS:
        await cluster_log.make_bucket(names.bucket(table))
    results = await asyncio.gather(*map(make, plan_streams(names, shards, limits)), return_exceptions=True)
    for error in results:
        if error is not None:
            raise error
