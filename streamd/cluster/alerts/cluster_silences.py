"""Silences of a whole cluster: each is a key of the table `control`, and all nodes follow them.

Runs on the event loop; which alerts a silence chooses is decided in the thread of the alerts of each node.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog

from streamd.cluster.log import Entry, LogAwayError, SharedTable, Unsubscribe
from streamd.core.alerts.silences import Silence, SilenceSet
from streamd.core.errors import TooBusyError, UnknownSilenceError
from streamd.runtime.alerts.evaluator import AlertEvaluator
from streamd.runtime.alerts.shared_alerts import EvaluatorCall
from streamd.runtime.alerts.store import StoredChange

log = structlog.get_logger(__name__)

SILENCE_KEY = "silence"

KEPT_ENDED_SECONDS = 60.0
"""A silence stays in the table so long after its end: clocks of nodes differ."""

_decoder = msgspec.msgpack.Decoder(Silence)


class ClusterSilences:
    """The silences that hold; `call` makes calls in the thread of the alerts, `wall` returns epoch seconds."""

    def __init__(self, control: SharedTable, call: Callable[[EvaluatorCall], None], wall: Callable[[], float]) -> None:
        self._control = control
        self._call = call
        self._wall = wall
        self._held: dict[str, Silence] = {}

    async def follow(self) -> Unsubscribe:
        """Follow the table; returns when all that hold were passed to the thread. Raises `LogAwayError`."""
        return await self._control.watch(self._see)

    def _see(self, key: str, entry: Entry | None) -> None:
        name, _, silence_id = key.partition(".")
        if name != SILENCE_KEY:
            return
        if entry is None:
            self._held.pop(silence_id, None)
            self._call(lambda evaluator: _end(evaluator, silence_id))
            return
        try:
            silence = _decoder.decode(entry.value)
        except (msgspec.DecodeError, ValueError) as exc:
            log.error("silence_unreadable", key=key, reason=str(exc))
            return
        self._held[silence_id] = silence
        self._call(lambda evaluator: _begin(evaluator, silence, self._wall()))

    async def add(self, silence: Silence) -> None:
        """Let a silence hold; returns when its alerts are marked here. Raises `TooBusyError`, `LogAwayError`."""
        SilenceSet(self._held.values()).require_space(silence)
        await self._control.put(f"{SILENCE_KEY}.{silence.id}", msgspec.msgpack.encode(silence), expected_revision=0)
        await self._do(lambda evaluator: _begin(evaluator, silence, self._wall()))

    async def end(self, silence_id: str) -> Silence:
        """End a silence; returns when its alerts are marked here. Raises `UnknownSilenceError`, `LogAwayError`."""
        silence = self._held.get(silence_id)
        if silence is None:
            raise UnknownSilenceError(f"no silence {silence_id[:80]!r} holds")
        await self._control.delete(f"{SILENCE_KEY}.{silence_id}")
        await self._do(lambda evaluator: _end(evaluator, silence_id))
        return silence

    async def _do(self, call: EvaluatorCall) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not done.done():  # its caller may have left
                done.set_result(None)

        def do(evaluator: AlertEvaluator) -> Sequence[StoredChange]:
            try:
                return call(evaluator)
            finally:
                loop.call_soon_threadsafe(resolve)

        self._call(do)
        await done

    async def remove_ended(self) -> None:
        """Remove silences from the table that have ended; another node may do the same."""
        limit = self._wall() - KEPT_ENDED_SECONDS
        for silence_id in [each.id for each in self._held.values() if each.ends_at <= limit]:
            try:
                await self._control.delete(f"{SILENCE_KEY}.{silence_id}")
            except LogAwayError:
                return


def _begin(evaluator: AlertEvaluator, silence: Silence, now: float) -> Sequence[StoredChange]:
    silencer = evaluator.silencer
    if silence.ends_at <= now or silencer.silences.get(silence.id) is not None:
        return ()
    try:
        return evaluator.replace_alerts(silencer.add(silence, evaluator.active))
    except TooBusyError as exc:  # two nodes began the last one at the same moment
        log.error("silence_not_held", silence=silence.id, reason=str(exc))
        return ()


def _end(evaluator: AlertEvaluator, silence_id: str) -> Sequence[StoredChange]:
    silence = evaluator.silencer.silences.get(silence_id)
    if silence is None:
        return ()
    return evaluator.replace_alerts(evaluator.silencer.remove(silence, evaluator.active))
