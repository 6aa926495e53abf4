"""Keeps revisions rising where a table was deleted and made anew: a new one counts from the beginning.

Fences and runs are revisions; none may come twice.
"""

import asyncio

from streamd.cluster.log import SharedTable

MAX_RAISED = 10_000_000
"""A number beyond it is no revision that a table had: to raise others above it would take hours."""

_AT_ONCE = 200


async def put_above(table: SharedTable, key: str, value: bytes, above: int) -> int:
    """Set a key as often as it needs for a revision higher than `above`, and return it; raises `LogAwayError`."""
    revision = await table.put(key, value)
    while revision <= above:
        count = min(above - revision + 1, _AT_ONCE)
        revision = max(await asyncio.gather(*(table.put(key, value) for _ in range(count))))
    return revision
