"""Servers that come and go, in the engine process: the owner of a slot writes it no more before it changes hands."""

import asyncio

import structlog

from streamd.core.errors import StreamdError
from streamd.runtime.service import Service
from streamd.runtime.workers.errors import describe_error
from streamd.runtime.workers.messages import Admit, Admitted, Placed, Release, Removed, Rewind
from streamd.runtime.workers.ownership import find_owning_worker
from streamd.runtime.workers.peers import Peers

log = structlog.get_logger(__name__)


class SlotChanges:
    """The changes of the servers of a service, which `open` gives; the workers hear of each."""

    def __init__(self, peers: Peers, workers: int) -> None:
        self.lock = asyncio.Lock()
        """Held while servers come and go."""
        self._peers = peers
        self._workers = workers
        self._service: Service | None = None

    def open(self, service: Service) -> None:
        """Change the servers of a service."""
        self._service = service
        service.admission.on_placed = self._tell_placed

    @property
    def service(self) -> Service:
        """The service, from `open` on."""
        assert self._service is not None, "servers change after the start"
        return self._service

    def find_owner(self, slot: int) -> int | None:
        """Return the number of the worker that owns a slot, `None` without a server."""
        server = self.service.state.directory.names[slot]
        return None if server is None else find_owning_worker(server, self._workers)

    async def admit(self, source: int, message: Admit) -> None:
        """Give slots to new servers of a worker, and answer it."""
        slots: list[int] = []
        errors: list[tuple[str, str] | None] = []
        async with self.lock:
            for server in message.servers:
                try:
                    slots.append(await self._place(server, message.wall, message.may_evict))
                    errors.append(None)
                except StreamdError as error:
                    slots.append(-1)
                    errors.append(describe_error(error))
        self.service.admission.report_forgotten()
        self._peers.send(source, Admitted(message.number, slots, errors))

    async def _place(self, server: str, wall: float, may_evict: bool) -> int:
        directory, admission = self.service.state.directory, self.service.admission
        slot = directory.slots.get(server)
        if slot is not None:
            self._tell_placed(slot, server)
            return slot
        if (evicted := admission.find_evicted(wall, may_evict)) is not None:
            await self.release(evicted)
        return admission.find_or_admit(server, wall, may_evict)

    async def release(self, slot: int) -> None:
        """Let the owner of a slot write it no more; a process that has ended writes nothing."""
        owner = self.find_owner(slot)
        if owner is None:
            return
        try:
            await self._peers.ask(owner, lambda number: Release(number, slot))
        except StreamdError:
            log.debug("released_by_its_end", slot=slot, worker=owner)

    def _tell_placed(self, slot: int, server: str) -> None:
        self._peers.tell(Placed(slot, self.service.state.directory.get_generation(slot), server))

    def forget(self, slot: int) -> None:
        """Tell the workers that a slot has another server, or none (`ServerForgotten`)."""
        self._peers.tell(Removed(slot))
        server = self.service.state.directory.names[slot]
        if server is not None:
            self._tell_placed(slot, server)

    def rewind(self, slot: int, last_step: int) -> int:
        """Let the owner of a slot drop its server's rows after a step; returns 0: it counts them (`SlotRewinder`)."""
        owner = self.find_owner(slot)
        if owner is not None:
            self._peers.send(owner, Rewind(slot, last_step))
        return 0
