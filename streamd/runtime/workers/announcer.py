"""Tells the workers which forecasts the engine process has posted on the board."""

import asyncio
from collections import defaultdict

import numpy as np

from streamd.core.arrays import Slots
from streamd.runtime.service import Service
from streamd.runtime.workers.mail import RETRY_SECONDS
from streamd.runtime.workers.messages import Posted, Serving, pack_slots
from streamd.runtime.workers.peers import Peers


class ForecastAnnouncer:
    """The publisher (`ForecastsPublished`) of an engine process; `open` gives it the service.

    What it publishes was posted since the last call, so that each worker knows all forecasts up to `last_serial`.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._unposted: dict[int, list[Slots]] = defaultdict(list)
        self._service: Service | None = None
        self._model = ""

    def open(self, service: Service) -> None:
        """Announce the forecasts of a service."""
        self._service = service
        self._model = service.model

    def forget(self, worker: int) -> None:
        """Drop what waits for a worker that has ended, or has just been told all."""
        self._unposted.pop(worker, None)

    def publish(self, slots: Slots, now: float) -> None:
        """Tell every worker that these slots have new forecasts on the board."""
        service = self._service
        assert service is not None, "forecasts are posted after the start"
        if service.model != self._model:
            self._model = service.model
            self._peers.tell(Serving(self._model))
        if len(slots):
            for worker in self._peers.presence.here:
                self._post(worker, slots, service.state.board.last_serial)

    def _post(self, worker: int, slots: Slots, last_serial: int) -> None:
        waiting = self._unposted[worker]
        if not waiting and not self._peers.mail.is_congested(worker):
            self._peers.send(worker, Posted(pack_slots(slots), last_serial))
            return
        if not waiting:
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._post_waiting, worker)
        waiting.append(slots)

    def _post_waiting(self, worker: int) -> None:
        """Tell a worker that was slow of all that was posted since, each slot once."""
        waiting = self._unposted.get(worker)
        if not waiting or self._service is None:
            return
        slots = np.unique(np.concatenate(waiting))
        if self._peers.mail.is_congested(worker):
            self._unposted[worker] = [slots]
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._post_waiting, worker)
        else:
            self.forget(worker)
            self._post(worker, slots, self._service.state.board.last_serial)
