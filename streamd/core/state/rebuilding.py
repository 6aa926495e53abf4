"""Rebuilds windows from the rows that their seals prove, after a power loss or damage on disk.

Touches the store's arrays only. A row that no seal proves is emptied and counted: a window may lack rows afterwards,
but has none of another step, another server, or with a wrong value.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
import numpy.typing as npt

from streamd.core.state.seals import LAST_SEALED_STEP, NO_SEAL, Words, compute_seals, mix_seed
from streamd.core.state.windows import NO_STEP, WindowStore, make_step_check

SLOTS_AT_ONCE = 64
"""The slots whose rows are in memory at the same time: about 2 MB with 288 rows of 14 features."""

StepArray = npt.NDArray[np.int64]
FlagArray = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Rebuilt:
    """The findings of a rebuild, by slot."""

    lost_rows: dict[int, int] = field(default_factory=dict)
    """The number of rows that were emptied, of slots that lost any."""
    repaired: set[int] = field(default_factory=set)
    """The slots of which a second copy or another row proved what was damaged."""
    without_rows: set[int] = field(default_factory=set)
    """Slots without any row, closed or open."""


def rebuild(store: WindowStore, slots: Sequence[int], *, is_torn: bool, damaged: Collection[int] = ()) -> Rebuilt:
    """Keep of these slots the rows that are proven, and empty all other places of their rings.

    Without `is_torn`, every write is in the arrays and changes were finished (`finish_changes`): the numbers of a slot
    are right unless it is one of the `damaged`. With `is_torn`, any page may be older than the others, and the newest
    row is the newest that is proven.
    """
    found = Rebuilt()
    for first in range(0, len(slots), SLOTS_AT_ONCE):
        chunk = slots[first : first + SLOTS_AT_ONCE]
        doubtful = np.array([is_torn or slot in damaged for slot in chunk], np.bool_)
        _Rings(store, np.array(chunk, np.int64), doubtful).rebuild(found)
    return found


def seal_all(store: WindowStore, slots: Sequence[int]) -> None:
    """Seal every row of these slots: they are from a version of streamd that had no seals."""
    arrays = store.arrays
    for first in range(0, len(slots), SLOTS_AT_ONCE):
        chunk = np.array(slots[first : first + SLOTS_AT_ONCE], np.int64)
        rings = _Rings(store, chunk, np.zeros(len(chunk), np.bool_))
        steps = rings.find_steps(arrays["newest"][chunk])
        seals = rings.compute_seals(0, steps, np.ones(steps.shape, np.bool_))
        seals[rings.find_empty()] = NO_SEAL
        arrays["seals"][chunk] = seals
    for slot in slots:
        start = mix_seed(store.seeds[slot], int(arrays["open_step"][slot]), int(arrays["open_status"][slot]))
        arrays["open_seal"][slot] = crc32(arrays["open_values"][slot].tobytes(), start) or 1


class _Rings:
    """The rings of some slots. A place is one of the first copy; arrays by place are `(slots, context_length)`."""

    def __init__(self, store: WindowStore, slots: StepArray, doubtful: FlagArray) -> None:
        self._store = store
        self._slots = slots
        self._doubtful = doubtful
        self._length = store.context_length
        arrays = store.arrays
        self._rows: Words = arrays["values"].view(np.uint32)[slots]
        self._marks = arrays["marks"][slots]
        self._seals: Words = arrays["seals"][slots]
        self._seeds = np.array([store.seeds[slot] for slot in slots.tolist()], np.int64)[:, None]
        self._found = np.full(self._seals.shape, NO_STEP, np.int64)  # the step of each proven row
        self._source = np.zeros(self._seals.shape, np.int8)  # the copy by which it is proven

    def rebuild(self, found: Rebuilt) -> None:
        """Rebuild the slots in the store's arrays."""
        for steps in self._generate_steps():
            for copy in (0, 1):
                self._prove(copy, steps)
        newest = self._found.max(axis=1)
        stored = self._store.arrays["newest"][self._slots]
        newest = np.where(self._doubtful, newest, np.maximum(newest, stored))
        proven = (self._found != NO_STEP) & (self._found > newest[:, None] - self._length)
        broken = ~proven & ~self.find_empty()
        uneven = proven & self._find_uneven()
        for index, slot in enumerate(self._slots.tolist()):
            if broken[index].any():
                found.lost_rows[slot] = self._empty(slot, np.flatnonzero(broken[index]))
            if uneven[index].any():
                self._copy(slot, index, np.flatnonzero(uneven[index]))
                found.repaired.add(slot)
            self._write_numbers(slot, int(newest[index]), bool(self._doubtful[index]), found)

    # ------------------------------------------------------------ proof
    def find_steps(self, newest: StepArray) -> StepArray:
        """Return the step of each place of rings whose newest steps are these; none is a step if `newest` is none."""
        steps = newest[:, None] - (newest[:, None] - np.arange(self._length)) % self._length
        return np.where(newest[:, None] == NO_STEP, NO_STEP, steps)

    def _generate_steps(self) -> Iterator[StepArray]:
        """Yield the steps that the rows may have: as the newest step says, then as any other number of the slot does.

        Of a slot in doubt, rows of the following `context_length` steps may be there too, and of the previous ones: the
        page with the newest step may be older or newer than theirs.
        """
        arrays, slots = self._store.arrays, self._slots
        yield self.find_steps(np.where(self._doubtful, NO_STEP, arrays["newest"][slots]))
        if not self._doubtful.any():
            return
        numbers = [arrays[name][slots] for name in ("newest", "journal", "open_step")]
        numbers += [-2 - arrays[name][slots] for name in ("newest_check", "open_check")]  # see make_step_check
        for number in numbers:
            plausible = self._doubtful & (number >= 0) & (number <= LAST_SEALED_STEP)
            steps = self.find_steps(np.where(plausible, number, NO_STEP))
            for turns in (0, 1, -1):
                yield np.where(steps == NO_STEP, NO_STEP, steps + turns * self._length)

    def _prove(self, copy: int, steps: StepArray) -> None:
        """Note the places whose seal proves that the row there, in one of its copies, is of the given step."""
        open_places = (self._found == NO_STEP) & (self._seals != NO_SEAL) & (steps >= 0)
        if not open_places.any():
            return
        is_proven = np.zeros(open_places.shape, np.bool_)
        is_proven[open_places] = self.compute_seals(copy, steps, open_places)[open_places] == self._seals[open_places]
        self._found[is_proven] = steps[is_proven]
        self._source[is_proven] = copy

    def compute_seals(self, copy: int, steps: StepArray, places: FlagArray) -> Words:
        """Return the seals that the rows of a copy have at these places if they are of these steps; 0 elsewhere."""
        part = slice(copy * self._length, (copy + 1) * self._length)
        marks = self._marks[:, part].astype(np.int64) << 24
        seeds = ((self._seeds ^ steps ^ marks) & 0xFFFFFFFF).astype(np.uint32)
        seals = np.zeros(places.shape, np.uint32)
        seals[places] = compute_seals(self._rows[:, part][places], seeds[places])
        return seals

    def find_empty(self) -> FlagArray:
        """Return the places that have neither a seal nor a value nor a mark."""
        length = self._length
        empty: FlagArray = (self._seals == NO_SEAL) & (self._marks[:, :length] == 0) & (self._marks[:, length:] == 0)
        for part in (self._rows[:, :length], self._rows[:, length:]):
            empty[empty] = np.isnan(part[empty].view(np.float32)).all(axis=1)
        return empty

    def _find_uneven(self) -> FlagArray:
        """Return the places whose two copies differ."""
        length = self._length
        rows: FlagArray = (self._rows[:, :length] != self._rows[:, length:]).any(axis=2)
        marks: FlagArray = self._marks[:, :length] != self._marks[:, length:]
        return np.logical_or(rows, marks)

    # ------------------------------------------------------------ repair
    def _empty(self, slot: int, places: npt.NDArray[np.intp]) -> int:
        arrays = self._store.arrays
        arrays["seals"][slot, places] = NO_SEAL
        for copy in (places, places + self._length):
            arrays["values"][slot, copy] = np.nan
            arrays["marks"][slot, copy] = 0
        return len(places)

    def _copy(self, slot: int, index: int, places: npt.NDArray[np.intp]) -> None:
        """Write the proven copy of each row over the other one."""
        arrays = self._store.arrays
        proven = places + self._length * self._source[index, places]
        other = places + self._length * (1 - self._source[index, places])
        arrays["values"].view(np.uint32)[slot, other] = self._rows[index, proven]
        arrays["marks"][slot, other] = self._marks[index, proven]

    def _write_numbers(self, slot: int, newest: int, is_doubtful: bool, found: Rebuilt) -> None:
        arrays = self._store.arrays
        if is_doubtful:
            before = [int(arrays[name][slot]) for name in ("newest", "newest_check", "journal")]
            after = [newest, make_step_check(newest), NO_STEP]
            for name, number in zip(("newest", "newest_check", "journal"), after, strict=True):
                arrays[name][slot] = number
            if before != after:
                found.repaired.add(slot)
        if is_doubtful or arrays["open_step"][slot] != NO_STEP:
            self._check_open_row(slot, newest, is_doubtful, found)
        if newest == arrays["open_step"][slot] == NO_STEP:
            found.without_rows.add(slot)

    def _check_open_row(self, slot: int, newest: int, is_doubtful: bool, found: Rebuilt) -> None:
        """Keep the open row if it is proven, or if a kill interrupted a change of it; else count it as lost."""
        arrays = self._store.arrays
        stored, seal = int(arrays["open_step"][slot]), int(arrays["open_seal"][slot])
        if not is_doubtful and seal == NO_SEAL:
            return
        last = LAST_SEALED_STEP if is_doubtful else stored
        row, status = arrays["open_values"][slot].tobytes(), int(arrays["open_status"][slot])
        for step in (stored, -2 - int(arrays["open_check"][slot])):  # see make_step_check
            start = mix_seed(self._store.seeds[slot], step, status)
            if newest < step <= last and seal == (crc32(row, start) or 1):
                arrays["open_step"][slot] = step
                arrays["open_check"][slot] = make_step_check(step)
                if step != stored:
                    found.repaired.add(slot)
                return
        arrays["open_step"][slot] = NO_STEP
        if newest < stored <= last:
            found.lost_rows[slot] = found.lost_rows.get(slot, 0) + 1
