"""What opening a backend gives, and opening it in a thread so that nothing is left where nobody waits for it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from streamd.inference.lane import Backend, Lane

T = TypeVar("T")


@dataclass
class OpenedBackend:
    """A backend that runs, its lanes, and what was tried before it."""

    backend: Backend
    lanes: list[Lane]
    fallbacks: list[dict[str, str]] = field(default_factory=list)


OpenBackend = Callable[[frozenset[str]], OpenedBackend]
"""Opens the first backend of the chain that runs here and is not named; blocks."""


def describe_error(error: Exception) -> str:
    """What an error says; a time-out says nothing."""
    return str(error) or "no answer"


def close(lane: Lane) -> None:
    """Close a lane that has no thread yet."""
    lane.close()


def close_all(opened: OpenedBackend) -> None:
    """Close a backend's lanes that have no threads yet."""
    for lane in opened.lanes:
        lane.close()


async def in_thread(make: Callable[[], T], release: Callable[[T], None]) -> T:
    """Make something in a thread; where nobody waits for it any more when it is there, it is released."""
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(lambda made: None if made.cancelled() or made.exception() else release(made.result()))
        raise
