"""Forgets a server on request, in the whole cluster: by an order in the row log of its shard."""

import asyncio
from collections.abc import Callable

from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.cluster.shard_finder import share_finder
from streamd.core.errors import UnavailableError
from streamd.core.state.directory import Directory

ORDER_SECONDS = 3.0
"""The time in which the log must store the order to forget a server.

Later, another node may own it, have forgotten it and taken new rows of it: an order that waited in a node that was cut
off would forget these.
"""

GIVEN_UP_SECONDS = ORDER_SECONDS + 1.0
"""The time after which the answer is that the order does not count: the log's clock is known to less than that."""

FORGET_SECONDS = 5.0
"""The time in which the order to forget a server comes back from the log."""

FORGET_CHECK_SECONDS = 0.01


class ServerForgetter:
    """Appends orders to forget servers that this node owns, and waits until they are carried out here.

    `read_log_time` returns epoch seconds by the log's clock.
    """

    def __init__(
        self, publisher: RowPublisher, directory: Directory, shards: int, read_log_time: Callable[[], float]
    ) -> None:
        self._publisher = publisher
        self._directory = directory
        self._read_log_time = read_log_time
        self._finder = share_finder(shards)

    async def forget(self, server: str) -> None:
        """Forget a server that this node has; returns when it is done here. Raises `UnavailableError`."""
        directory = self._directory
        slot = directory.slots[server]
        generation = directory.generations[slot]
        await self._append_order(server)
        try:
            async with asyncio.timeout(FORGET_SECONDS):
                while directory.slots.get(server) == slot and directory.generations[slot] == generation:
                    await asyncio.sleep(FORGET_CHECK_SECONDS)
        except TimeoutError as exc:
            raise UnavailableError(f"the order to forget {server!r} is in the log, and is carried out later") from exc

    async def _append_order(self, server: str) -> None:
        until = self._read_log_time() + ORDER_SECONDS
        try:
            async with asyncio.timeout(GIVEN_UP_SECONDS):
                await self._publisher.forget(server, self._finder.find(server), until)
        except TimeoutError as exc:
            raise UnavailableError(
                f"the cluster's log did not store the order to forget {server!r} within {ORDER_SECONDS:g} s; it does"
                " not count any more: send it again"
            ) from exc
