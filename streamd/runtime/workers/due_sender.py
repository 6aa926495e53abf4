"""Sends due servers to the engine process: all of one turn of the loop in one message."""

import asyncio
from collections import Counter
from collections.abc import Callable

import numpy as np

from streamd.core.arrays import Slots
from streamd.runtime.workers.mail import RETRY_SECONDS, Mail
from streamd.runtime.workers.messages import DueReport, encode_message, pack_slots


class DueSender:
    """A router (`DueRouter`) that takes every due server; while the engine process is slow, they wait, each once."""

    def __init__(self, mail: Mail, engine: int) -> None:
        self.before_send: Callable[[], None] = lambda: None
        """Called before servers are reported: what the engine process reads for them must be there."""
        self._mail = mail
        self._engine = engine
        self._single: list[Slots] = []
        self._rows: Counter[int] = Counter()
        self._is_scheduled = False

    def route_due(self, slot: int, rows: int) -> bool:
        """Take a due server."""
        self._rows[slot] += rows
        self._schedule()
        return True

    def route_due_many(self, slots: Slots) -> Slots:
        """Take distinct due servers with one due row each; returns none."""
        if len(slots):
            self._single.append(slots)
            self._schedule()
        return slots[:0]

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return not (self._single or self._rows or self._mail.is_congested(self._engine))

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        if self._mail.is_congested(self._engine):
            self._merge()
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._send)
            return
        self._is_scheduled = False
        self.before_send()
        for slots in self._single:
            self._send_message(slots, np.ones(len(slots), np.int64))
        if self._rows:
            slots, rows = (np.fromiter(part, np.int64) for part in (self._rows.keys(), self._rows.values()))
            self._send_message(slots, rows)
        self._single, self._rows = [], Counter()

    def _send_message(self, slots: Slots, rows: Slots) -> None:
        self._mail.send(self._engine, encode_message(DueReport(pack_slots(slots), rows.tobytes())))

    def _merge(self) -> None:
        for slots in self._single:
            self._rows.update(slots.tolist())
        self._single = []
