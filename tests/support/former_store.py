"""Windows as former versions wrote them (layout 1): each row twice, and sealed by a CRC-32.

The writing part of that code, to make former files for tests; see `streamd/core/state/former_windows.py`.
"""

from zlib import crc32

import numpy as np

from streamd.core.contract import MAX_STATUS
from streamd.core.state.layout import NamedArrays, make_scalar_view
from streamd.core.state.rows import PackedRow, iterate_columns
from streamd.core.state.seals import NO_SEAL
from streamd.core.state.window_columns import NO_STEP, PRESENT, SEALED_STATUSES, make_step_check


def mix_seed(seed: int, step: int, mark: int) -> int:
    """Return the start value of a row's checksum."""
    return (seed ^ step ^ mark << 24) & 0xFFFFFFFF


class FormerStore:
    """Takes samples as `WindowStore.write_sample` does, without time: an open row waits for a later step."""

    def __init__(self, arrays: NamedArrays, seeds: list[int], late_steps: int) -> None:
        self.capacity, twice, self.features = arrays["values"].shape
        self.context_length = twice // 2
        self.late_steps = min(late_steps, self.context_length - 1)
        self.arrays = arrays
        self.seeds = seeds
        self._ring = arrays["values"]
        self._marks = arrays["marks"]
        self._bytes = make_scalar_view(self._ring).cast("B")
        self._flat_marks = make_scalar_view(self._marks)
        self._newest = make_scalar_view(arrays["newest"])
        self._open_step = make_scalar_view(arrays["open_step"])
        self._journal = make_scalar_view(arrays["journal"])
        self._newest_check = make_scalar_view(arrays["newest_check"])
        self._open_check = make_scalar_view(arrays["open_check"])
        self._open_bytes = make_scalar_view(arrays["open_values"]).cast("B")
        self._open_status = make_scalar_view(arrays["open_status"])
        self._seals = make_scalar_view(arrays["seals"])
        self._open_seal = make_scalar_view(arrays["open_seal"])
        self._open_mask = [0] * self.capacity
        self._expected = [0] * self.capacity
        self._expected_step = [NO_STEP] * self.capacity
        self._full = (1 << self.features) - 1
        self._row_bytes = 4 * self.features

    def reset(self, slot: int) -> None:
        """Empty a slot: no row is closed, none is open, and every value is missing."""
        self._newest[slot] = self._open_step[slot] = self._journal[slot] = NO_STEP
        self._newest_check[slot] = self._open_check[slot] = make_step_check(NO_STEP)
        self._ring[slot] = np.nan
        self._marks[slot] = 0
        self.arrays["seals"][slot] = NO_SEAL
        self._open_seal[slot] = NO_SEAL
        self._open_mask[slot] = self._expected[slot] = 0
        self._expected_step[slot] = NO_STEP

    def write_sample(self, slot: int, step: int, row: PackedRow, status: int | None) -> None:
        """Write the row of one sample; one that is too old is ignored."""
        open_step = self._open_step[slot]
        newest = self._newest[slot]
        latest = newest if open_step == NO_STEP else open_step
        if step <= latest:
            if latest - step > self.late_steps:
                return
            if step <= newest:
                self._amend_closed(slot, step, row, status)
                return
            if step < open_step:
                self._store_closed(slot, step, row.data, row.mask, status or 0)
                return
        if open_step != NO_STEP and step > open_step:
            self._close_row(slot)
            open_step = NO_STEP
        expected = self._expected[slot] or self._full
        if open_step == NO_STEP:
            if row.mask & expected == expected:
                self._store_closed(slot, step, row.data, row.mask, status or 0)
                return
            self._open_row(slot, step)
        self._fill_open_row(slot, row, status)
        if self._open_mask[slot] & expected == expected:
            self._close_row(slot)

    def _open_row(self, slot: int, step: int) -> None:
        # The values are emptied before the step is set: a row that a restart finds open has none of an older row.
        self._open_seal[slot] = NO_SEAL
        self.arrays["open_values"][slot] = np.nan
        self._open_status[slot] = SEALED_STATUSES[0]
        self._open_check[slot] = make_step_check(step)
        self._open_step[slot] = step
        self._open_mask[slot] = 0

    def _fill_open_row(self, slot: int, row: PackedRow, status: int | None) -> None:
        # Without a seal while it changes: after a kill in between, the row has some of the cells, and no false seal.
        self._open_seal[slot] = NO_SEAL
        base = slot * self._row_bytes
        self._copy_cells(row, self._open_bytes, base)
        if status is not None:
            self._open_status[slot] = SEALED_STATUSES[status]
        self._open_mask[slot] |= row.mask
        start = mix_seed(self.seeds[slot], self._open_step[slot], self._open_status[slot])
        self._open_seal[slot] = crc32(self._open_bytes[base : base + self._row_bytes], start) or 1

    def _close_row(self, slot: int) -> None:
        base = slot * self._row_bytes
        data = self._open_bytes[base : base + self._row_bytes]
        step, status = self._open_step[slot], self._open_status[slot] & MAX_STATUS
        self._store_closed(slot, step, data, self._open_mask[slot], status)

    def _store_closed(self, slot: int, step: int, data: bytes | memoryview, mask: int, status: int) -> None:
        self._journal[slot] = step
        length = self.context_length
        newest = self._newest[slot]
        if newest != NO_STEP and step - newest > 1:
            self._clear_rows(slot, newest + 1, min(step - newest - 1, length))
        place_of_seal = slot * length + step % length
        first = place_of_seal + slot * length
        mark = status | PRESENT if mask else status
        for place in (first, first + length):
            base = place * self._row_bytes
            self._bytes[base : base + self._row_bytes] = data
            self._flat_marks[place] = mark
        # mix_seed without a call, as below. A row without a value or a status is as if it was never sent.
        self._seals[place_of_seal] = (crc32(data, self.seeds[slot] ^ step ^ mark << 24) or 1) if mark else NO_SEAL
        self._newest[slot] = step
        self._newest_check[slot] = -2 - step  # make_step_check without a call: this is the hot path
        if self._open_step[slot] == step:
            self._open_step[slot] = NO_STEP
        self._journal[slot] = NO_STEP
        if mask:
            self._expected[slot] = mask
            self._expected_step[slot] = step

    def _amend_closed(self, slot: int, step: int, row: PackedRow, status: int | None) -> None:
        self._journal[slot] = step
        length = self.context_length
        first = slot * 2 * length + step % length
        mark = self._flat_marks[first]
        if status is not None:
            mark = (mark & PRESENT) | status
        if row.mask:
            mark |= PRESENT
        for place in (first, first + length):
            self._copy_cells(row, self._bytes, place * self._row_bytes)
            self._flat_marks[place] = mark
        base = first * self._row_bytes
        start = mix_seed(self.seeds[slot], step, mark)
        seal = (crc32(self._bytes[base : base + self._row_bytes], start) or 1) if mark else NO_SEAL
        self._seals[slot * length + step % length] = seal
        self._journal[slot] = NO_STEP
        if row.mask and step > self._expected_step[slot]:
            self._expected[slot], self._expected_step[slot] = row.mask, step
        elif step == self._expected_step[slot]:
            self._expected[slot] |= row.mask

    def _clear_rows(self, slot: int, step: int, count: int) -> None:
        """Empty `count` rows from `step` on: steps of which no sample was sent."""
        places = np.arange(step, step + count) % self.context_length
        for copy in (places, places + self.context_length):
            self._ring[slot, copy] = np.nan
            self._marks[slot, copy] = 0
        self.arrays["seals"][slot, places] = NO_SEAL

    def _copy_cells(self, row: PackedRow, to: memoryview, base: int) -> None:
        """Copy the values that a row has over the row that begins at byte `base` of `to`."""
        if row.mask == self._full:
            to[base : base + self._row_bytes] = row.data
            return
        for column in iterate_columns(row.mask):
            at = 4 * column
            to[base + at : base + at + 4] = row.data[at : at + 4]
