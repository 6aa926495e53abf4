"""Puts the table `control` back after somebody deleted it and a node that starts has made it anew.

What operators have set must not be gone because of that: the version that serves, drained nodes, silences. Each node
that runs puts back what it knew, unless another one did; a node that starts waits for it (`check_meta`).
"""

import asyncio
from collections.abc import Collection, Mapping

import structlog

from streamd.cluster.alerts.cluster_silences import SILENCE_KEY
from streamd.cluster.log import Entry, LogAwayError, SharedTable, WrongSequenceError
from streamd.cluster.meta import META_KEY
from streamd.cluster.nodes.operator_requests import DRAIN_KEY
from streamd.cluster.versions.version_plans import PLAN_KEY

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.2

_LASTING = (DRAIN_KEY, SILENCE_KEY)
"""The keys, before a dot, that hold meanwhile as if nothing had happened."""


class ControlRestorer:
    """The restorer of one node."""

    def __init__(self, control: SharedTable) -> None:
        self._control = control
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Put the table back whenever it is lost; a second call is a no-op."""
        self._control.restore = self._restore

    async def close(self) -> None:
        """Put back no more."""
        self._control.restore = None
        await self._end()

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _restore(self, lost: Mapping[str, Entry]) -> Collection[str]:
        """Begin to put back what was lost; returns the keys that hold meanwhile."""
        lasting = sorted(key for key in lost if key.partition(".")[0] in _LASTING)
        # The last one is what nodes that start wait for: then all else is there.
        keys = [key for key in (PLAN_KEY, *lasting, META_KEY) if key in lost]
        former = self._task
        self._task = asyncio.get_running_loop().create_task(self._put_all(former, {key: lost[key] for key in keys}))
        return lasting

    async def _put_all(self, former: "asyncio.Task[None] | None", lost: Mapping[str, Entry]) -> None:
        if former is not None:
            former.cancel()
            await asyncio.wait([former])
        put = [key for key, entry in lost.items() if await self._put(key, entry.value)]
        log.error("control_restored", keys=put, of=len(lost), reason="the table control was deleted and made anew")

    async def _put(self, key: str, value: bytes) -> bool:
        """Put a key that is not there; returns whether it was this node that did."""
        while True:
            try:
                await self._control.put(key, value, expected_revision=0)
            except WrongSequenceError:
                return False
            except LogAwayError as exc:
                log.debug("control_not_restored", key=key, error=str(exc))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return True
