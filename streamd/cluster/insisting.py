"""Does what needs the log again until the log is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from streamd.cluster.log import LogAwayError

log = structlog.get_logger(__name__)

INSIST_SECONDS = 1.0

T = TypeVar("T")


async def insist(step: Callable[[], Awaitable[T]], event: str, **fields: object) -> T:
    """Return what a step returns, once the log is there; each new reason why it is not is logged as `event`."""
    reason = ""
    while True:
        try:
            return await step()
        except LogAwayError as exc:
            if str(exc) != reason:
                reason = str(exc)
                log.warning(event, error=reason, **fields)
            await asyncio.sleep(INSIST_SECONDS)
