"""Keeps Python's full garbage collections short, however many servers and series there are. Touches only `gc`.

A full collection visits every object that may be part of a cycle: 1 s for 220,000 series of 20,000 servers, and 24 such
pauses while they are created. But series and servers are no garbage: they live for weeks, and when they are removed,
their cycles are broken, so reference counts free them. So after each growth all objects are frozen: later collections
do not visit them, and reference counts still free them.

The price: what is frozen while it is in progress and ends as a cycle is not freed: a few kilobytes of requests for each
freeze, and some 100 kB of a candidate, but no lanes. A fleet that has its size is not frozen again. For one that
changes all the time, all objects are collected after many freezes: one long pause in days in place of one in minutes.
"""

import gc
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

FREEZE_AFTER_SERIES = 5_000
"""A full collection takes 20 ms to visit so many new series."""

FREEZE_AFTER_SHARE = 0.05
"""The share of all series that must be new, so that a fleet which changes slowly is seldom frozen."""

THAW_AFTER_FREEZES = 100
"""A fleet that grows to 2,000,000 series is frozen 80 times."""

THRESHOLDS = (700, 10, 100)
"""The third one is ten times Python's: a full collection comes after 700,000 new objects, so after a freeze."""


class GarbageFreezer:
    """Freezes the objects that exist once many series were created since the last time.

    `count_created` returns how many series were created since the start, `count_series` how many there are.
    """

    def __init__(self, count_created: Callable[[], int], count_series: Callable[[], int]) -> None:
        self.freezes = 0
        """The number of times that objects were frozen since all were collected."""
        self._count_created = count_created
        self._count_series = count_series
        self._created_before = 0
        self._thresholds = gc.get_threshold()

    def freeze_loaded(self) -> None:
        """Collect all garbage and freeze the rest: after start-up, when a pause harms no caller."""
        gc.set_threshold(*THRESHOLDS)
        gc.collect()
        self._freeze()

    def sweep(self) -> None:
        """Freeze if enough series are new, which takes some milliseconds; after many times, collect all garbage."""
        new = self._count_created() - self._created_before
        if new < max(FREEZE_AFTER_SERIES, FREEZE_AFTER_SHARE * self._count_series()):
            return
        if self.freezes < THAW_AFTER_FREEZES:
            gc.collect(1)  # what has just become garbage must not be frozen
        else:
            self._collect_all()
        self._freeze()

    def close(self) -> None:
        """Return to Python's own ways, so that what was frozen is collected in a process that goes on."""
        gc.set_threshold(*self._thresholds)
        if self.freezes:
            gc.unfreeze()
            self.freezes = 0

    def _freeze(self) -> None:
        gc.freeze()
        self.freezes += 1
        self._created_before = self._count_created()

    def _collect_all(self) -> None:
        began = time.monotonic()
        gc.unfreeze()
        found = gc.collect()
        self.freezes = 0
        log.info("garbage_collected", objects=found, seconds=round(time.monotonic() - began, 3))
