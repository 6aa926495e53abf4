"""News of the engine process for a worker: servers, forecasts, the version that serves, and rows made of points."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from streamd.core.arrays import Slots
from streamd.core.errors import StorageError, TooOldError
from streamd.core.state.recovery import rewind
from streamd.core.state.rows import PackedRow
from streamd.runtime.service import Service
from streamd.runtime.workers.followed import FollowedServers
from streamd.runtime.workers.messages import (
    Confirmed,
    Message,
    Placed,
    Posted,
    Release,
    Removed,
    Rewind,
    Rewound,
    Serving,
    Storage,
    Welcome,
    WriteRows,
    unpack_slots,
)

TellEngine = Callable[[Message], None]
"""Sends the engine process a message."""


class EngineNews:
    """The news for the service of one worker; `on_serving` is called with the name of another version that serves."""

    def __init__(
        self, service: Service, followed: FollowedServers, tell: TellEngine, on_serving: Callable[[str], object]
    ) -> None:
        self.service = service
        self.followed = followed
        self._tell = tell
        self._on_serving = on_serving
        self._handlers: dict[type, Callable[[Any], object]] = {
            Placed: self._handle_placed,
            Removed: self._handle_removed,
            Release: self._handle_release,
            Posted: lambda message: self._publish(unpack_slots(message.slots), message.last_serial),
            Serving: self._handle_serving,
            Storage: self._handle_storage,
            WriteRows: self._handle_rows,
            Rewind: lambda message: self.rewind(message.slot, message.last_step),
        }

    def handle(self, message: Message) -> bool:
        """Handle a message; false if it is none of these."""
        handler = self._handlers.get(type(message))
        if handler is None:
            return False
        handler(message)
        return True

    def follow_again(self, message: Welcome) -> None:
        """Read again what a former engine process may not have told."""
        for slot in self.followed.read_all():
            self.service.hub.forget(slot)
        self._handle_serving(Serving(message.model))
        # It posted them, and was killed before it reported them.
        self._publish(self.service.state.board.find_unpublished(message.last_serial), message.last_serial)

    def _handle_placed(self, message: Placed) -> None:
        # An older message: a later one says what came after it in that slot.
        if self.service.state.directory.get_generation(message.slot) == message.generation:
            self.followed.place(message.slot, message.server)

    def _handle_removed(self, message: Removed) -> None:
        server = self.followed.remove(message.slot)
        self.service.hub.forget(message.slot)
        self.service.state.ahead.forget(message.slot)
        if server is not None:
            self.service.admission.forget_name(server)

    def _handle_release(self, message: Release) -> None:
        self.followed.release(message.slot)
        state = self.service.state
        state.windows.drop_open_row(message.slot)
        if state.memory is not None:
            state.memory.settle()  # another process writes the slot from now on
        state.directory.expire(message.slot)  # whoever remembers the slot for its server notices it
        self._tell(Confirmed(message.number))

    def _publish(self, slots: Slots, last_serial: int) -> None:
        fresh = self.service.state.board.publish_up_to(slots, last_serial)
        if len(fresh):
            self.service.hub.publish(fresh, time.monotonic())

    def _handle_serving(self, message: Serving) -> None:
        if message.model != self.service.model:
            self._on_serving(message.model)

    def _handle_storage(self, message: Storage) -> None:
        self.service.state.refuse_writes(StorageError(message.problem) if message.problem else None)

    def _handle_rows(self, message: WriteRows) -> None:
        directory, windows = self.service.state.directory, self.service.state.windows
        for slot, generation, step, data, mask, status in message.rows:
            if directory.get_generation(slot) != generation:
                continue  # its server was forgotten meanwhile
            try:
                due = windows.write_row(slot, step, PackedRow(data, mask), None if status < 0 else status)
            except TooOldError:
                continue  # newer rows came meanwhile
            if due:
                self.service.pipeline.mark_due(slot, due)
        self._tell(Confirmed(message.number))

    def rewind(self, slot: int, last_step: int) -> int:
        """Drop the rows of an own server after a step, and let the engine process drop what was made of them."""
        state = self.service.state
        dropped = rewind(state.windows, slot, last_step)
        state.directory.expire(slot)
        state.ahead.forget(slot)
        self._tell(Rewound(slot, last_step))
        return dropped

    def find_unforecast(self) -> Slots:
        """Return the slots of own servers whose newest row has no forecast."""
        state = self.service.state
        return np.array([slot for slot in self.followed.own_slots if state.is_unforecast(slot)], np.int64)
