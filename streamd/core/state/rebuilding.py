"""Rebuilds windows from the rows that their seals prove, after a power loss or damage on disk.

Touches the store's arrays only. A row that no seal proves is emptied and counted: a window may lack rows afterwards,
but has none of another step, another server, or with a wrong value.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamd.core.state.layout import NamedArrays
from streamd.core.state.seals import NO_SEAL, Words, compute_seal, compute_seals
from streamd.core.state.window_columns import LAST_STEP, NO_STEP, make_step_check
from streamd.core.state.windows import WindowStore

SLOTS_AT_ONCE = 64
"""The slots whose rows are in memory at the same time: about 1 MB with 288 rows of 14 features."""

StepArray = npt.NDArray[np.int64]
FlagArray = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Rebuilt:
    """The findings of a rebuild, by slot."""

    lost_rows: dict[int, int] = field(default_factory=dict)
    """The number of rows that were emptied, of slots that lost any."""
    repaired: set[int] = field(default_factory=set)
    """The slots of which another number or a row proved what was damaged."""
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


def find_steps(newest: StepArray, length: int) -> StepArray:
    """Return the step of each place of rings, `(slots, length)`, by their newest steps; `NO_STEP` if they have none."""
    steps = newest[:, None] - (newest[:, None] - np.arange(length)) % length
    return np.where(newest[:, None] == NO_STEP, NO_STEP, steps)


def iterate_candidate_steps(
    arrays: NamedArrays, slots: StepArray, doubtful: FlagArray, length: int
) -> Iterator[StepArray]:
    """Yield the steps that rows may have, `(slots, length)`: by the newest step, then by any other number of the slot.

    Of a slot in doubt, rows of the following `length` steps may be there too, and of the previous ones: the page with
    the newest step may be older or newer than theirs.
    """
    yield find_steps(np.where(doubtful, NO_STEP, arrays["newest"][slots]), length)
    if not doubtful.any():
        return
    numbers = [arrays[name][slots] for name in ("newest", "journal", "open_step")]
    numbers += [make_step_check(arrays[name][slots]) for name in ("newest_check", "open_check")]
    for number in numbers:
        plausible = doubtful & (number >= 0) & (number <= LAST_STEP)
        steps = find_steps(np.where(plausible, number, NO_STEP), length)
        for turns in (0, 1, -1):
            yield np.where(steps == NO_STEP, NO_STEP, steps + turns * length)


class _Rings:
    """The rings of some slots; arrays by place are `(slots, context_length)`."""

    def __init__(self, store: WindowStore, slots: StepArray, doubtful: FlagArray) -> None:
        self._store = store
        self._slots = slots
        self._doubtful = doubtful
        self._length = store.context_length
        arrays = store.arrays
        self._rows: Words = arrays["values"].view(np.uint32)[slots]
        self._marks = arrays["marks"][slots]
        self._seals: Words = arrays["seals"][slots]
        self._seeds = store.seeds[slots][:, None]
        self._found = np.full(self._seals.shape, NO_STEP, np.int64)  # the step of each proven row

    def rebuild(self, found: Rebuilt) -> None:
        """Rebuild the slots in the store's arrays."""
        candidates = iterate_candidate_steps(self._store.arrays, self._slots, self._doubtful, self._length)
        for steps in candidates:
            self._prove(steps)
        newest = self._found.max(axis=1)
        stored = self._store.arrays["newest"][self._slots]
        newest = np.where(self._doubtful, newest, np.maximum(newest, stored))
        proven = (self._found != NO_STEP) & (self._found > newest[:, None] - self._length)
        broken = ~proven & ~self._find_empty()
        for index, slot in enumerate(self._slots.tolist()):
            if broken[index].any():
                found.lost_rows[slot] = self._empty(slot, np.flatnonzero(broken[index]))
            self._write_numbers(slot, int(newest[index]), bool(self._doubtful[index]), found)

    # ------------------------------------------------------------ proof
    def _prove(self, steps: StepArray) -> None:
        """Note the places whose seal proves that the row there is of the given step."""
        rows, places = np.nonzero((self._found == NO_STEP) & (self._seals != NO_SEAL) & (steps >= 0))
        if not len(rows):
            return
        at = (rows, places)
        seeds = np.broadcast_to(self._seeds, self._seals.shape)[at]
        is_proven = compute_seals(self._rows[at], seeds, steps[at], self._marks[at]) == self._seals[at]
        self._found[rows[is_proven], places[is_proven]] = steps[at][is_proven]

    def _find_empty(self) -> FlagArray:
        """Return the places that have neither a seal nor a value nor a mark."""
        empty: FlagArray = (self._seals == NO_SEAL) & (self._marks == 0)
        empty[empty] = np.isnan(self._rows[empty].view(np.float32)).all(axis=1)
        return empty

    # ------------------------------------------------------------ repair
    def _empty(self, slot: int, places: npt.NDArray[np.intp]) -> int:
        arrays = self._store.arrays
        arrays["seals"][slot, places] = NO_SEAL
        arrays["values"][slot, places] = np.nan
        arrays["marks"][slot, places] = 0
        return len(places)

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
        last = LAST_STEP if is_doubtful else stored
        row, status = arrays["open_values"][slot].tobytes(), int(arrays["open_status"][slot])
        seed = int(self._store.seeds[slot])
        for step in (stored, -2 - int(arrays["open_check"][slot])):  # see make_step_check
            if newest < step <= last and seal == compute_seal(row, seed, step, status):
                arrays["open_step"][slot] = step
                arrays["open_check"][slot] = make_step_check(step)
                if step != stored:
                    found.repaired.add(slot)
                return
        arrays["open_step"][slot] = NO_STEP
        if newest < stored <= last:
            found.lost_rows[slot] = found.lost_rows.get(slot, 0) + 1
