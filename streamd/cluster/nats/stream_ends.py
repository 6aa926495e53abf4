"""Ends of streams as they were last seen, so that what a former leader says is not believed.

A server of NATS that was cut off takes itself for the leader of its streams for a while, also when it is back and the
others are away. It says that they end where they ended for it. A stream never becomes shorter but by loss.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from streamd.cluster.log import LogAwayError

log = structlog.get_logger(__name__)

FORMER_LEADER_SECONDS = 15.0
"""A stream that is short for so long has lost messages: a leader without a majority ends after ten seconds."""


@dataclass
class _StreamEnd:
    last: int
    created: str = ""
    """When the stream was made, as NATS writes it: another stream of this name has another time."""
    short_since: float | None = None


class StreamEnds:
    """The ends of the streams that one connection has seen. `clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._ends: dict[str, _StreamEnd] = {}
        self._clock = clock

    def note(self, stream: str, sequence: int) -> None:
        """Note that a message of a stream was read or stored."""
        end = self._ends.get(stream)
        if end is None:
            self._ends[stream] = _StreamEnd(sequence)
        elif sequence > end.last:
            end.last = sequence

    def check(self, stream: str, created: str, last: int) -> None:
        """Check what is said of a stream: if it is short, and not another one, a former leader says so.

        Raises `LogAwayError` then; after `FORMER_LEADER_SECONDS` it is believed.
        """
        end = self._ends.get(stream)
        if end is None or last >= end.last or (end.created and created != end.created):
            self._ends[stream] = _StreamEnd(last, created)
            return
        now = self._clock()
        if end.short_since is None:
            end.short_since = now
            log.warning("stream_short", stream=stream, last=last, seen=end.last)
        if now - end.short_since < FORMER_LEADER_SECONDS:
            raise LogAwayError(
                f"{stream}: ends at {last}, though message {end.last} was there: a former leader says so"
            )
        log.error("stream_lost_messages", stream=stream, last=last, seen=end.last)
        self._ends[stream] = _StreamEnd(last, created)
