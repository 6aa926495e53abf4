"""Keeps fences rising after the table of leases was deleted: a new one counts its revisions from the beginning.

The chains know the fences of their owners; a shard could not be owned until a revision is higher.
"""

import asyncio
from collections.abc import Sequence

import structlog

from streamd.cluster.log import Log
from streamd.cluster.revisions import MAX_RAISED, put_above
from streamd.core.cluster.forecast_batches import decode_chain_message
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import ConfigError, MalformedError

log = structlog.get_logger(__name__)

RAISED_KEY = "raised"

_READ_AT_ONCE = 32
"""Chains that are asked at the same time: with all at once, servers answer some only after seconds."""


async def raise_revisions(cluster_log: Log, names: ClusterNames, shards: int, forecast_shape: Sequence[int]) -> int:
    """Raise the revisions of an empty table of leases above all fences in the chains, and return the highest of these.

    Raises `ConfigError` if a fence is none that a table of leases can have given, `LogAwayError`.
    """
    table = cluster_log.table(names.bucket("leases"))
    if await table.read_all():
        return 0
    permits = asyncio.Semaphore(_READ_AT_ONCE)

    async def read(shard: int) -> int:
        async with permits:
            return await _read_fence(cluster_log, names, shard, forecast_shape)

    fences = await asyncio.gather(*map(read, range(shards)))
    highest = max(fences)
    if not highest:
        return 0
    if highest > MAX_RAISED:
        raise ConfigError(f"shard {fences.index(highest)}: its forecasts have the fence {highest}, expected a revision")
    log.error("leases_lost", fence=highest, reason="the table of leases was deleted")
    await put_above(table, RAISED_KEY, b"", highest)
    return highest


async def _read_fence(cluster_log: Log, names: ClusterNames, shard: int, forecast_shape: Sequence[int]) -> int:
    """Return the fence of a chain's newest message that can be read; 0 without one."""
    fences = [0]
    for subject in (names.forecasts(shard), names.steps(shard)):
        message = await cluster_log.read_last(names.forecasts_stream(shard), subject)
        if message is None:
            continue
        try:
            fences.append(decode_chain_message(message.data, forecast_shape).fence)
        except (MalformedError, LaterFormatError) as exc:
            log.warning("fence_not_read", shard=shard, sequence=message.sequence, reason=str(exc))
    return max(fences)
