"""One shard at this node: does what the leases decide, one action after another. Decides nothing itself.

What makes a shard stop cuts off the action that is in progress: the lease may be another's.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import structlog

from streamd.cluster.log import LogAwayError, SharedTable, WrongSequenceError
from streamd.cluster.nodes.lease_entries import encode_lease, make_lease_key
from streamd.cluster.nodes.load_turns import LoadTurns
from streamd.core.cluster.chain_entries import ChainGapError, FencedError
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.lease_actions import (
    Abandon,
    Action,
    Activate,
    AskHandover,
    Lease,
    Prepare,
    ReleaseLease,
    Stop,
    TakeLease,
)
from streamd.core.errors import StreamdError

log = structlog.get_logger(__name__)

AWAY_RETRY_SECONDS = 0.2
"""The wait before the marker of an owner is appended again, after the log was away."""


STUCK_SECONDS = 60.0
"""A shard that reads nothing for so long, and is not loaded, is given up here."""


class HeldShard(Protocol):
    """A shard as the node moves it (`OwnedShard`)."""

    async def follow(self) -> None:
        """Load the shard and follow its rows until closed; raises if it must be made anew."""
        ...

    async def wait_caught_up(self) -> None:
        """Wait until all that was in the shard's logs is loaded."""
        ...

    async def own(self, fence: int) -> None:
        """Own the shard once it is caught up.

        Raises `LogAwayError`; `FencedError`, `ChainGapError` or another `StreamdError` if it cannot.
        """
        ...

    async def leave(self) -> None:
        """Append what waits, and no more after it."""
        ...

    async def close(self) -> None:
        """End at once, whatever it does."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return the shard's state for the status."""
        ...


class ShardOutcomes(Protocol):
    """The receiver of the outcomes of actions (the node, which reports them to its leases)."""

    def took(self, shard: int, revision: int | None) -> None:
        """Note the outcome of a take; no revision if it was refused or had no answer."""
        ...

    def prepared(self, shard: int) -> None:
        """Note that a shard is loaded."""
        ...

    def released(self, shard: int, revision: int | None) -> None:
        """Note the outcome of a release, as `took`."""
        ...

    def failed(self, shard: int) -> None:
        """Note that a shard cannot be loaded or owned here."""
        ...

    async def ask_handover(self, shard: int, holder: str) -> None:
        """Ask a node for a shard."""
        ...


class ShardRunner:
    """Does the actions of one shard; `make` returns the shard, not loaded."""

    def __init__(
        self,
        shard: int,
        make: Callable[[int], HeldShard],
        leases: SharedTable,
        me: Lease,
        outcomes: ShardOutcomes,
        turns: LoadTurns,
        *,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self.held: HeldShard | None = None
        """The shard while it is followed or owned."""
        self.failure = ""
        """Why the shard could not be loaded or owned here last; empty if it could."""
        self.has_later_format = False
        """Whether a later release wrote what this one needs and cannot read: nodes of that release should own it."""
        self._shard = shard
        self._make = make
        self._leases = leases
        self._me = me
        self._outcomes = outcomes
        self._turns = turns
        self._stuck_seconds = stuck_seconds
        self._waiting: deque[Action] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._current: asyncio.Task[None] | None = None
        self._may_cut = True
        self._following: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all actions are done."""
        return self._worker is None

    def do(self, action: Action) -> None:
        """Do an action after the earlier ones; one that ends something cuts them off."""
        if isinstance(action, Stop | Abandon | ReleaseLease):
            self._waiting.clear()
            if self._current is not None and self._may_cut:
                self._current.cancel()
        self._waiting.append(action)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End at once."""
        self._waiting.clear()
        for task in (self._current, self._worker):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._close_held()

    async def _work(self) -> None:
        try:
            while self._waiting:
                action = self._waiting.popleft()
                self._may_cut = not isinstance(action, Stop | Abandon)
                self._current = asyncio.create_task(self._act(action))
                await asyncio.wait([self._current])
                self._report_defect(action, self._current)
                self._current = None
        finally:
            self._worker = None

    def _report_defect(self, action: Action, done: "asyncio.Task[None]") -> None:
        if done.cancelled() or (error := done.exception()) is None:
            return
        log.error("shard_failed", shard=self._shard, action=type(action).__name__, error=repr(error), exc_info=error)
        self._outcomes.failed(self._shard)

    async def _act(self, action: Action) -> None:
        match action:
            case TakeLease():
                self._outcomes.took(self._shard, await self._put(self._me, action.expected_revision))
            case Prepare():
                await self._prepare()
            case Activate():
                await self._activate(action.fence)
            case AskHandover():
                await self._outcomes.ask_handover(self._shard, action.holder)
            case ReleaseLease():
                await self._release(action)
            case Stop() | Abandon():
                await self._close_held()

    async def _put(self, lease: Lease, expected_revision: int) -> int | None:
        """Change the lease; returns its revision, `None` if it was changed by another, or may have been changed."""
        key = make_lease_key(self._shard)
        try:
            return await self._leases.put(key, encode_lease(lease), expected_revision=expected_revision)
        except (WrongSequenceError, LogAwayError) as exc:
            log.debug("lease_not_changed", shard=self._shard, error=str(exc))
            return None

    async def _prepare(self) -> None:
        try:
            async with self._turns.take():
                await self._watch(self._open().wait_caught_up())
        except TimeoutError as exc:
            log.warning("shard_not_prepared", shard=self._shard, error=str(exc))
            self._note_failure(exc)
            await self._close_held()
            self._outcomes.failed(self._shard)
        else:
            self._outcomes.prepared(self._shard)

    async def _watch(self, loading: Coroutine[Any, Any, None]) -> None:
        """Wait for what loads a shard; raises `TimeoutError` once nothing of it has moved for a while.

        Whatever the reason, a node that holds a shard and never comes to own it would keep it from all others.
        """
        task, seen = asyncio.ensure_future(loading), None
        try:
            while not (await asyncio.wait([task], timeout=self._stuck_seconds))[0]:
                held = self.held.describe() if self.held is not None else {}
                if (now := (held.get("rows_sequence"), held.get("chain_sequence"))) == seen:
                    raise TimeoutError(f"nothing was read for {self._stuck_seconds:g} s, up to row {now[0]}")
                seen = now
            task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _activate(self, fence: int) -> None:
        began = time.monotonic()
        async with self._turns.take():
            if await self._own(fence):
                log.info("shard_owned", shard=self._shard, fence=fence, seconds=round(time.monotonic() - began, 3))

    async def _own(self, fence: int) -> bool:
        """Load the shard and own it; returns whether it does, and reports if it cannot."""
        held = self._open()
        while True:
            try:
                await self._watch(held.own(fence))
            except LogAwayError as exc:
                log.warning("shard_waits_for_log", shard=self._shard, error=str(exc))
                await asyncio.sleep(AWAY_RETRY_SECONDS)
            except (StreamdError, FencedError, ChainGapError, TimeoutError) as exc:
                log.warning("shard_not_owned", shard=self._shard, fence=fence, error=str(exc))
                self._note_failure(exc)
                await self._close_held()
                self._outcomes.failed(self._shard)
                return False
            else:
                self.failure, self.has_later_format = "", False
                return True

    def _note_failure(self, exc: Exception) -> None:
        if not isinstance(exc, FencedError):  # a successor is no failure
            self.failure = str(exc) or type(exc).__name__
            self.has_later_format = isinstance(exc, LaterFormatError)

    async def _release(self, action: ReleaseLease) -> None:
        if self._following is not None and self._following.done():
            await self._close_held()  # it has lost track of its logs
        elif self.held is not None:
            await self.held.leave()
        revision = await self._put(action.to, action.expected_revision)
        self._outcomes.released(self._shard, revision)

    # ------------------------------------------------------------ the shard
    def _open(self) -> HeldShard:
        if self.held is None:
            self.held = self._make(self._shard)
            self._following = asyncio.create_task(self._follow(self.held))
        return self.held

    async def _follow(self, held: HeldShard) -> None:
        try:
            await held.follow()
        except Exception as exc:  # also a defect must not leave a shard that is held and does nothing
            self._note_failure(exc)
            if isinstance(exc, FencedError):
                log.info("shard_fenced", shard=self._shard, reason=str(exc))
            elif isinstance(exc, StreamdError):
                log.error("shard_lost_track", shard=self._shard, error=str(exc))
            else:
                log.exception("shard_lost_track", shard=self._shard, error=str(exc))
            if self.held is held:
                self._outcomes.failed(self._shard)
                if self.is_idle:
                    self.do(Stop(self._shard))

    async def _close_held(self) -> None:
        held, self.held = self.held, None
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
        if held is not None:
            await held.close()
            log.debug("shard_closed", shard=self._shard)
