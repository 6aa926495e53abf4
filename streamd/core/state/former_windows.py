"""Reads windows as former versions stored them, and returns them as this version stores them.

Touches arrays only. In that layout each row was stored twice, `context_length` apart, and its seal was a CRC-32:

    seal = zlib.crc32(row, seed ^ step ^ mark << 24) or 1

Of a row whose copies differ, the one that its seal proves is taken. A row that nothing proves is returned without a
seal, so that `repair_windows` finds it damaged. Still earlier versions had no seals, or no checks of steps either.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Slots
from streamd.core.contract import MAX_STATUS
from streamd.core.state.layout import Column, NamedArrays, make_zeros
from streamd.core.state.rebuilding import FlagArray, StepArray, find_steps, iterate_candidate_steps
from streamd.core.state.recovery import find_damage
from streamd.core.state.seals import NO_SEAL, Words, compute_seals
from streamd.core.state.window_columns import NO_STEP, SEALED_STATUSES, make_step_check, make_window_columns
from streamd.core.state.windows import WindowStore

LAST_SEALED_STEP = 2**32 - 1
"""The last step that a former seal can prove: with 32 bits it cannot tell later ones from earlier ones."""

_WRONG_SEAL = 0xFFFFFFFF
"""No row has this seal."""

_COPIED = ("newest", "open_step", "journal", "open_values", "open_status", "newest_check", "open_check")
_POLYNOMIAL = 0xEDB88320


def make_former_columns(context_length: int, features: int) -> tuple[Column, ...]:
    """Return the columns that former versions stored windows in; see `make_window_columns`."""
    return (
        Column("newest", "<i8"),
        Column("open_step", "<i8"),
        Column("journal", "<i8"),
        Column("open_values", "<f4", (features,)),
        Column("open_status", "u1"),
        Column("marks", "u1", (2 * context_length,)),
        Column("values", "<f4", (2 * context_length, features)),
        Column("newest_check", "<i8", added=1),
        Column("open_check", "<i8", added=1),
        Column("seals", "<u4", (context_length,), added=2),
        Column("open_seal", "<u4", added=2),
    )


def read_former_windows(arrays: NamedArrays, slots: Slots, seeds: Words, *, is_sealed: bool) -> NamedArrays:
    """Return the windows of these slots in arrays of `make_window_columns`; `seeds` are those of the slots."""
    return _FormerWindows(arrays, slots, seeds).convert(is_sealed=is_sealed)


class _FormerWindows:
    def __init__(self, arrays: NamedArrays, slots: Slots, seeds: Words) -> None:
        doubled, self._features = arrays["values"].shape[1:]
        self._length = doubled // 2
        self._former = {column.name: arrays[column.name][slots] for column in make_former_columns(1, 1)}
        self._seeds = seeds.astype(np.uint32)
        self._rows = self._former["values"].reshape(len(slots), 2, self._length, self._features)
        self._marks = self._former["marks"].reshape(len(slots), 2, self._length)

    def convert(self, *, is_sealed: bool) -> NamedArrays:
        """Return the windows in this version's arrays."""
        new = make_zeros(make_window_columns(self._length, self._features), len(self._seeds))
        for name in _COPIED:
            new[name][:] = self._former[name]
        self._add_checks(new)
        if is_sealed:
            steps, source = self._prove_rows()
            self._prove_open_rows(new)
        else:
            steps, source = self._believe_rows(new)
        places = np.arange(len(self._seeds))[:, None], source, np.arange(self._length)
        new["values"][:], new["marks"][:] = self._rows[places], self._marks[places]
        self._seal(new, steps)
        return new

    def _add_checks(self, new: NamedArrays) -> None:
        """Add what the earliest version did not write."""
        is_early = (new["open_check"] == 0) & (new["open_status"] <= MAX_STATUS)
        new["open_status"][is_early] = np.array(SEALED_STATUSES, np.uint8)[new["open_status"][is_early]]
        for step, check in (("newest", "newest_check"), ("open_step", "open_check")):
            is_early = new[check] == 0
            new[check][is_early] = make_step_check(new[step][is_early])

    # ------------------------------------------------------------ rows without seals
    def _believe_rows(self, new: NamedArrays) -> tuple[StepArray, StepArray]:
        """Return the step of each place by the slot's numbers, `NO_STEP` for doubtful ones, and the first copy."""
        store = WindowStore(new, need=1, late_steps=0, grace_seconds=0.0)
        damaged = list(find_damage(store, list(range(len(self._seeds)))))
        steps = find_steps(new["newest"], self._length)
        steps[damaged] = NO_STEP
        # A row that was being written may be half the former one: with a seal, recovery would believe it.
        begun = np.flatnonzero(new["journal"] > new["newest"])
        steps[begun, new["journal"][begun] % self._length] = NO_STEP
        rows, statuses = new["open_values"].view(np.uint32), new["open_status"]
        new["open_seal"][:] = compute_seals(rows, self._seeds, new["open_step"], statuses)
        new["open_seal"][damaged] = _WRONG_SEAL
        return steps, np.zeros(steps.shape, np.int64)

    # ------------------------------------------------------------ rows with seals
    def _prove_rows(self) -> tuple[StepArray, StepArray]:
        """Return the step of each place that its seal proves, else `NO_STEP`, and the copy by which it is proven."""
        found = np.full(self._former["seals"].shape, NO_STEP, np.int64)
        source = np.zeros(found.shape, np.int64)
        everywhere = np.arange(len(found))
        doubtful = np.ones(len(found), np.bool_)
        for steps in iterate_candidate_steps(self._former, everywhere, doubtful, self._length):
            for copy in (0, 1):
                places = (found == NO_STEP) & (self._former["seals"] != NO_SEAL) & _is_provable(steps)
                places[places] = self._is_proven(copy, steps, places)
                found[places], source[places] = steps[places], copy
        return found, source

    def _is_proven(self, copy: int, steps: StepArray, places: FlagArray) -> FlagArray:
        marks = self._marks[:, copy][places].astype(np.int64)
        seeds = np.broadcast_to(self._seeds[:, None], places.shape)[places]
        seals = compute_checksums(self._rows[:, copy][places].view(np.uint32), seeds, steps[places], marks)
        proven: FlagArray = seals == self._former["seals"][places]
        return proven

    def _prove_open_rows(self, new: NamedArrays) -> None:
        """Seal the open rows that are proven; one that was being changed has no seal before and after."""
        rows, statuses = new["open_values"].view(np.uint32), new["open_status"].astype(np.int64)
        new["open_seal"][:] = np.where(self._former["open_seal"] == NO_SEAL, NO_SEAL, _WRONG_SEAL)
        for steps in (new["open_step"], make_step_check(new["open_check"])):
            proven = compute_checksums(rows, self._seeds, steps, statuses) == self._former["open_seal"]
            proven &= _is_provable(steps)
            seals = compute_seals(rows, self._seeds, steps, statuses)
            new["open_seal"][proven] = seals[proven]

    def _seal(self, new: NamedArrays, steps: StepArray) -> None:
        """Seal the rows of which the step is known; an empty row has no seal."""
        is_empty = (new["marks"] == 0) & np.isnan(new["values"]).all(axis=2)
        places = (steps != NO_STEP) & ~is_empty
        seeds = np.broadcast_to(self._seeds[:, None], places.shape)[places]
        rows = new["values"][places].view(np.uint32)
        new["seals"][places] = compute_seals(rows, seeds, steps[places], new["marks"][places])


# ---------------------------------------------------------------- checksums of former versions
def _is_provable(steps: StepArray) -> FlagArray:
    provable: FlagArray = (steps >= 0) & (steps <= LAST_SEALED_STEP)
    return provable


def compute_checksums(rows: Words, seeds: Words, steps: StepArray, marks: npt.NDArray[Any]) -> Words:
    """Return the former seals of rows `(n, words)`: `zlib.crc32` of each, beginning with its seed, step and mark."""
    low, high = _make_tables()
    state = ~((seeds ^ steps ^ marks << 24) & 0xFFFFFFFF).astype(np.uint32)
    for column in range(rows.shape[1]):
        state ^= rows[:, column]
        state = low[state & np.uint32(0xFFFF)] ^ high[state >> np.uint32(16)]
    return np.maximum(~state, np.uint32(1))


@cache
def _make_tables() -> tuple[Words, Words]:
    """Return the effect of the low and of the high 16 bits of the state on itself, four bytes later."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> np.uint32(1) ^ np.uint32(_POLYNOMIAL), table >> np.uint32(1))
    by_distance = [table]
    for _ in range(3):
        before = by_distance[-1]
        by_distance.append(table[before & np.uint32(0xFF)] ^ before >> np.uint32(8))
    halves = np.arange(2**16, dtype=np.uint32)
    first, second = halves & np.uint32(0xFF), halves >> np.uint32(8)
    return by_distance[3][first] ^ by_distance[2][second], by_distance[1][first] ^ by_distance[0][second]
