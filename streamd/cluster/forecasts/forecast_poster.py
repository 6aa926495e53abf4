"""Posts forecasts on the board of this node, and notifies its readers: those of other nodes, and the own ones.

Knows no log: what is posted is in the chain of its shard already, or (without a fence) the log has been away.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from streamd.cluster.shard_slots import ShardSlots
from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.cluster.forecast_batches import ChainBatch
from streamd.core.cluster.log_clock import LogClock, make_serial
from streamd.core.cluster.pending_forecasts import ForecastRows
from streamd.core.errors import NoCapacityError, StorageError
from streamd.core.scheduling.batches import ServerRows
from streamd.core.state.forecast_seals import compute_checks
from streamd.runtime.service import Service

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptForecasts:
    """Forecasts of the board that are in the log, of `n` servers, made by one version under one fence."""

    model: str
    fence: int
    servers: tuple[str, ...]
    steps: Numbers
    contexts: Numbers
    serials: Numbers
    values: Float32


class ForecastPoster:
    """The board of a node, as its cluster part writes it; `open` gives it the service.

    `clock` returns monotonic seconds, `wall` epoch seconds.
    """

    def __init__(
        self,
        slots: ShardSlots,
        log_clock: LogClock,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused = 0
        """Forecasts of other nodes since start that were not posted, because no slot is left for their servers."""
        self._slots = slots
        self._log_clock = log_clock
        self._wall = wall
        self._clock = clock
        self._service: Service | None = None

    def open(self, service: Service) -> None:
        """Post on the board of a service."""
        self._service = service

    @property
    def service(self) -> Service:
        """The service, from `open` on."""
        assert self._service is not None, "the service is built before its cluster starts"
        return self._service

    # ------------------------------------------------------------ forecasts of the log
    def post_batch(self, batch: ChainBatch, log_time: float, *, is_history: bool) -> None:
        """Post a batch that was read from the log, stored there at `log_time`: what is newer than the board has.

        `is_history`: it was in the log before this node began to read. Then its serials are those that it had.
        """
        rows, slots = self._find_slots(batch.servers)
        if not len(slots):
            return
        board, fence = self.service.state.board, batch.made_fence or batch.fence
        steps, known = batch.steps[rows], board.get_steps(slots)
        is_newer = steps > known
        if (is_same := (steps == known) & (self._slots.fences[slots] < fence)).any():
            self._replace(batch, rows[is_same], slots[is_same])
        if not is_newer.any():
            return
        rows, slots = rows[is_newer], slots[is_newer]
        serials = None
        if is_history:
            serials = np.arange(len(slots)) + make_serial(log_time) if batch.serials is None else batch.serials[rows]
        self._store(batch, rows, slots, serials)
        self.service.hub.publish(slots, self._clock())

    def _store(self, batch: ChainBatch, rows: Numbers, slots: Slots, serials: Numbers | None) -> None:
        state, values = self.service.state, batch.values[rows]
        self._raise_serials()
        if serials is not None:
            state.board.raise_serials(int(serials.max()))
        model, checks = batch.model.encode(), compute_checks(values)
        state.board.post_many(slots, batch.steps[rows], batch.contexts[rows], model, values, checks, serials)
        self._slots.fences[slots] = batch.made_fence or batch.fence
        self.service.board_sink.received[slots] = np.nan
        state.directory.touch_many(slots, self._wall())

    def _replace(self, batch: ChainBatch, rows: Numbers, slots: Slots) -> None:
        """Put forecasts of rows that have one on the board in its place, if their numbers differ.

        Readers get no notice. The one on the board was made here while the log was away, or an owner could not know it.
        """
        board = self.service.state.board
        differs = (board.values[slots].view(np.uint32) != batch.values[rows].view(np.uint32)).any(axis=(1, 2, 3))
        self._slots.fences[slots[~differs]] = batch.made_fence or batch.fence
        if differs.any():
            self._store(batch, rows[differs], slots[differs], None)

    def _find_slots(self, servers: Sequence[str]) -> tuple[Numbers, Slots]:
        """Return the rows of servers that have a slot, or get one, and the slots."""
        rows, slots, wall = [], [], self._wall()
        known = self.service.state.directory.slots
        for row, server in enumerate(servers):
            slot = known.get(server)
            if slot is None:
                try:
                    slot = self.service.admission.admit(server, wall)
                except (NoCapacityError, StorageError):
                    self.refused += 1
                    continue
            rows.append(row)
            slots.append(slot)
        return np.array(rows, np.int64), np.array(slots, np.int64)

    def take_down(self, server: str, *, keeps_rows: bool) -> None:
        """Remove the forecast of a server that was forgotten, and its slot unless this node has its rows."""
        state = self.service.state
        slot = state.directory.slots.get(server)
        if slot is None:
            return
        if not keeps_rows:
            state.forget(slot)
            self.service.owners.forget(slot)
            return
        state.board.take_down(slot)
        self._slots.forget(slot)
        self.service.hub.forget(slot)

    def release_slots(self, slots: Slots) -> None:
        """Free the slots of servers without a reader here; their rows are at other nodes."""
        for slot in slots.tolist():
            self.service.state.forget(slot)
            self.service.owners.forget(slot)

    def has_forecast(self, server: str) -> bool:
        """Whether the board has a forecast of a server."""
        state = self.service.state
        slot = state.directory.slots.get(server)
        return slot is not None and state.board.get_serial(slot) > 0

    # ------------------------------------------------------------ own forecasts
    def read_forecasts(self, steps: Mapping[str, int]) -> list[KeptForecasts]:
        """Return the forecasts of these steps that are on the board and in the log, by version and fence."""
        board, known, fences = self.service.state.board, self.service.state.directory.slots, self._slots.fences
        found: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for server, step in steps.items():
            slot = known.get(server)
            forecast = None if slot is None else board.get_forecast(slot)
            if slot is None or forecast is None or forecast.step != step or not fences[slot]:
                continue
            found.setdefault((forecast.model, int(fences[slot])), []).append((server, slot))
        kept = []
        for (model, fence), pairs in found.items():
            slots = np.array([slot for _, slot in pairs], np.int64)
            kept.append(
                KeptForecasts(
                    model=model,
                    fence=fence,
                    servers=tuple(server for server, _ in pairs),
                    steps=board.get_steps(slots),
                    contexts=board.get_contexts(slots),
                    serials=board.get_serials(slots),
                    values=board.values[slots],
                )
            )
        return kept

    def post_rows(self, rows: ForecastRows, fence: int) -> None:
        """Post own forecasts; `fence` 0 if they are not in the log. Those that readers have only get their fence."""
        state = self.service.state
        is_present = state.directory.generations[rows.slots] == rows.generations
        steps = state.board.get_steps(rows.slots)
        is_known = rows.is_posted & (steps == rows.steps)
        self._slots.fences[rows.slots[is_present & is_known]] = fence
        is_new = is_present & ~rows.is_posted & (steps < rows.steps)
        if not is_new.all():
            rows = rows.select(np.flatnonzero(is_new))
        if len(rows):
            self._store_own(rows, fence)

    def _store_own(self, rows: ForecastRows, fence: int) -> None:
        servers = ServerRows(
            slots=rows.slots,
            generations=rows.generations,
            steps=rows.steps,
            contexts=rows.contexts,
            since=rows.since,
        )
        self._raise_serials()
        self._slots.fences[rows.slots] = fence
        sink = self.service.board_sink
        sink.store(servers, _as_contiguous(rows.values), rows.checks, rows.model.encode())
        sink.publish(rows.slots, self._clock())

    def _raise_serials(self) -> None:
        self.service.state.board.raise_serials(make_serial(self._log_clock.read(self._clock())) - 1)


def _as_contiguous(values: Float32) -> Float32:
    return np.ascontiguousarray(values, np.float32)
