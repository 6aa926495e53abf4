"""Gives new servers a slot, and decides which silent server they may evict. Takes no samples itself."""

import math
from collections.abc import Callable
from typing import Protocol

import structlog

from streamd.core.errors import InvalidServerError, NoCapacityError
from streamd.core.state.directory import check_server_name
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

EVICT_AFTER_SECONDS = 86_400.0
"""A server that was silent for a day may be evicted: of a window of 288 steps of 5 minutes it has no row left."""


class ServerForgotten(Protocol):
    """An owner of data that belongs to a server, by its slot."""

    def forget(self, slot: int) -> None:
        """Drop the data of a slot that gets another server."""
        ...


class SlotGiver(Protocol):
    """The owner of all slots (`State`, or the process that has it)."""

    def admit(self, name: str, now_wall: float, silent_since: float = math.inf) -> tuple[int, str | None]:
        """Give a new server a slot; returns it, and the server that was evicted for it or `None`."""
        ...


class NameForgotten(Protocol):
    """An owner of data that belongs to a server, by its name (the list of tokens)."""

    def forget_server(self, name: str) -> None:
        """Drop the data of a server that has no slot any more."""
        ...


class Admission:
    """Gives new servers a slot, for everything that takes samples."""

    def __init__(
        self,
        state: State,
        server_forgotten: ServerForgotten,
        evict_after_seconds: float = EVICT_AFTER_SECONDS,
        slot_giver: SlotGiver | None = None,
    ) -> None:
        self.forgotten_servers = 0
        """The number of servers that were evicted since start."""
        self.refused = 0
        """How often a new server got no slot since start, because all servers were seen lately."""
        self.name_owner: NameForgotten | None = None
        """Owns what belongs to a server by its name, if there is such an owner."""
        self.on_placed: Callable[[int, str], None] = lambda slot, server: None
        """Called after a server got a slot."""
        self._state = state
        self._slot_giver = slot_giver or state
        self._server_forgotten = server_forgotten
        self._evict_after_seconds = evict_after_seconds
        self._is_full = False
        self.reported = 0
        """Those among them that were logged."""

    def find_or_admit(self, server: str, wall: float, may_evict: bool = False) -> int:
        """Return the slot of a server, which it gets if it is new (`wall`: epoch seconds).

        Without a free slot, the server that has been silent the longest is evicted: with `may_evict` always, else only
        if it has been silent for `evict_after_seconds`. Raises `InvalidServerError` for a name that is none,
        `NoCapacityError` if no server may be evicted, and `StorageError` if the disk is full.
        """
        slot = self._state.directory.slots.get(server)
        return self.admit(server, wall, may_evict) if slot is None else slot

    def admit(self, server: str, wall: float, may_evict: bool = False) -> int:
        """Give a new server a slot; raises as `find_or_admit` does."""
        check_server_name(server)
        try:
            slot, forgotten = self._slot_giver.admit(server, wall, self._find_silent_since(wall, may_evict))
        except NoCapacityError:
            self._note_refused()
            raise
        self._is_full = False
        if forgotten is not None:
            self._server_forgotten.forget(slot)
            self.forget_name(forgotten)
            self.forgotten_servers += 1
        self.on_placed(slot, server)
        return slot

    def find_refusal(self, server: str, wall: float, may_evict: bool = False) -> NoCapacityError | None:
        """Return an error, which counts as a refusal, if a server has no slot and would get none now, else `None`.

        A name that is none is left to `find_or_admit`.
        """
        if server in self._state.directory.slots:
            return None
        try:
            check_server_name(server)
            self._state.directory.find_slot(self._find_silent_since(wall, may_evict))
        except InvalidServerError:
            return None
        except NoCapacityError as error:
            self._note_refused()
            return error
        return None

    def find_evicted(self, wall: float, may_evict: bool = False) -> int | None:
        """Return the slot whose server the next new one would evict, `None` if it would evict nobody."""
        try:
            slot, evicted = self._state.directory.find_slot(self._find_silent_since(wall, may_evict))
        except NoCapacityError:
            return None
        return None if evicted is None else slot

    def _find_silent_since(self, wall: float, may_evict: bool) -> float:
        """Return the epoch second up to which a server must have been silent to be evicted."""
        return math.inf if may_evict else wall - self._evict_after_seconds

    def forget_name(self, server: str) -> None:
        """Pass on that a server has been forgotten, evicted or on request."""
        if self.name_owner is not None:
            self.name_owner.forget_server(server)

    def _note_refused(self) -> None:
        self.refused += 1
        if not self._is_full:
            self._is_full = True
            log.warning(
                "servers_refused",
                max_servers=self._state.directory.capacity,
                evict_after_seconds=self._evict_after_seconds,
                reason="every slot has a server that was seen lately, so new servers get none",
            )

    def report_forgotten(self) -> None:
        """Log how many servers were evicted since the last report, if any."""
        if count := self.forgotten_servers - self.reported:
            self.reported = self.forgotten_servers
            log.warning("servers_forgotten", count=count, max_servers=self._state.directory.capacity)
