"""Repairs a window store after its process ended, in whatever way, and after a clock that was ahead.

Touches the store's arrays only. Every acknowledged sample is complete in them. An interrupted change is finished or
undone by means of its journal. Relies on the order of the writes, which only a crash of the machine does not keep
(`rebuilding.py`).
"""

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import MAX_STATUS
from streamd.core.state.seals import NO_SEAL, compute_seal
from streamd.core.state.window_columns import LAST_STEP, NO_STEP, PRESENT, SEALED_STATUSES, make_step_check
from streamd.core.state.windows import WindowStore


def find_damage(store: WindowStore, slots: list[int]) -> dict[int, str]:
    """Return the slots whose numbers are impossible, each with the reason; called before `recover`."""
    reasons = ((slot, _describe_damage(store, slot)) for slot in slots)
    return {slot: reason for slot, reason in reasons if reason is not None}


def _describe_damage(store: WindowStore, slot: int) -> str | None:
    arrays = store.arrays
    newest, open_step, journal = (int(arrays[name][slot]) for name in ("newest", "open_step", "journal"))
    for name, step in (("newest", newest), ("open_step", open_step), ("journal", journal)):
        if not NO_STEP <= step <= LAST_STEP:
            return f"{name} is {step}, expected a step from 0 to {LAST_STEP}, or {NO_STEP}"
    if newest == open_step == journal == 0:
        return "nothing was ever written to it"
    if journal != NO_STEP and newest != NO_STEP and journal <= newest - store.context_length:
        return f"journal is {journal}, expected a step of the window that ends at {newest}, or a later one"
    if newest != journal and arrays["newest_check"][slot] != make_step_check(newest):
        return f"newest is {newest}, which is not what was written"
    if open_step == NO_STEP:
        return None
    if open_step <= newest and open_step != journal:
        return f"open_step is {open_step}, expected a step after {newest}"
    check, status = int(arrays["open_check"][slot]), int(arrays["open_status"][slot])
    if check != make_step_check(open_step):
        return f"open_step is {open_step}, which is not what was written"
    if status in SEALED_STATUSES:
        return None
    return f"open_status is {status}, expected one of {SEALED_STATUSES}"


def recover(store: WindowStore, slots: list[int], now: float) -> int:
    """Finish the interrupted changes of these slots, and derive what the store keeps in memory only.

    The grace of open rows begins again at `now` (monotonic seconds). Returns the number of slots with an interrupted
    change.
    """
    interrupted = finish_changes(store, slots)
    derive_memory(store, slots, now)
    return interrupted


def finish_changes(store: WindowStore, slots: list[int]) -> int:
    """Finish or undo the change that the journal of each slot names; returns how many had one."""
    journal = store.arrays["journal"]
    interrupted = [slot for slot in slots if journal[slot] != NO_STEP]
    for slot in interrupted:
        _finish_change(store, slot, int(journal[slot]))
    return len(interrupted)


def derive_memory(store: WindowStore, slots: list[int], now: float) -> None:
    """Derive what the store keeps of these slots in memory only; the grace of open rows begins at `now`."""
    for slot in slots:
        _derive_memory(store, slot, now)


def _finish_change(store: WindowStore, slot: int, step: int) -> None:
    arrays, length = store.arrays, store.context_length
    ring, marks, newest = arrays["values"][slot], arrays["marks"][slot], int(arrays["newest"][slot])
    place, was_open = step % length, arrays["open_step"][slot] == step
    # 1. The row was to become the newest, and nothing of it was written yet: forget it.
    if step - newest == 1 and not was_open and is_sealed(store, slot, step - length):
        arrays["journal"][slot] = NO_STEP
        return
    # 2. The row was to become the newest: empty the gap before it, and its place if it was not written as a whole,
    #    store the open row again if it was that one, and make it the newest.
    if step > newest:
        last = step if is_sealed(store, slot, step) and not was_open else step + 1
        gap = np.arange(max(newest + 1, step - length + 1) if newest != NO_STEP else step, last) % length
        ring[gap] = np.nan
        marks[gap] = 0
        arrays["seals"][slot, gap] = NO_SEAL
        if was_open:
            row = arrays["open_values"][slot]
            ring[place] = row
            marks[place] = (int(arrays["open_status"][slot]) & MAX_STATUS) | (0 if np.isnan(row).all() else PRESENT)
            seal_row(store, slot, step)
        arrays["newest"][slot] = step
    # 3. The row was the newest already, or was being amended: it is right as it is.
    else:
        marks[place] = (int(marks[place]) & ~PRESENT) | (0 if np.isnan(ring[place]).all() else PRESENT)
        seal_row(store, slot, step)
    arrays["newest_check"][slot] = make_step_check(int(arrays["newest"][slot]))
    if was_open:
        arrays["open_step"][slot] = NO_STEP
    arrays["journal"][slot] = NO_STEP


def is_sealed(store: WindowStore, slot: int, step: int) -> bool:
    """Whether what lies at the place of a step is its row, by the seal, or empty."""
    arrays, place = store.arrays, step % store.context_length
    row, mark = arrays["values"][slot, place], int(arrays["marks"][slot, place])
    seal = int(arrays["seals"][slot, place])
    if mark == 0 and np.isnan(row).all():
        return seal == NO_SEAL
    return seal == compute_seal(row.tobytes(), int(store.seeds[slot]), step, mark)


def seal_row(store: WindowStore, slot: int, step: int) -> None:
    """Give the row of a step the seal of what it has now, or `NO_SEAL` if it is empty."""
    arrays, place = store.arrays, step % store.context_length
    row, mark = arrays["values"][slot, place], int(arrays["marks"][slot, place])
    is_empty = mark == 0 and np.isnan(row).all()
    seal = NO_SEAL if is_empty else compute_seal(row.tobytes(), int(store.seeds[slot]), step, mark)
    arrays["seals"][slot, place] = seal


def rewind(store: WindowStore, slot: int, last_step: int) -> int:
    """Drop a slot's rows after `last_step` and continue from the newest that is left; returns how many were dropped.

    Earlier rows that are still in the ring stay, also those that arrived late in the meantime. The rows are emptied
    first, each under its journal, and then `newest` is set back. If the process is killed in between, the slot lies
    ahead as before.
    """
    arrays, length = store.arrays, store.context_length
    newest, dropped = int(arrays["newest"][slot]), 0
    if store.get_latest_step(slot) <= last_step:
        return 0
    store.begin_change(slot)
    if store.memory is not None and newest > last_step:
        store.memory.drop_after(slot, last_step)  # first: after a kill in between, no mean of them is left
    if int(arrays["open_step"][slot]) > last_step:
        arrays["open_step"][slot] = NO_STEP
        store.drop_open_row(slot)
        dropped += 1
    if newest > last_step:
        steps = np.arange(max(newest - length + 1, 0), newest + 1)
        stored = steps[np.asarray(arrays["marks"][slot, steps % length]) != 0].tolist()
        ahead = [step for step in stored if step > last_step]
        for step in ahead:
            _empty_row(store, slot, step)
        dropped += len(ahead)
        # The journal names a complete row: to finish that change again changes nothing.
        last_left = max((step for step in stored if step <= last_step), default=NO_STEP)
        arrays["journal"][slot] = last_left
        arrays["newest"][slot] = last_left
        # Killed before this line: `recover` writes it, as the journal is set.
        arrays["newest_check"][slot] = make_step_check(last_left)
        arrays["journal"][slot] = NO_STEP
    _derive_memory(store, slot, 0.0)
    return dropped


def _empty_row(store: WindowStore, slot: int, step: int) -> None:
    arrays, place = store.arrays, step % store.context_length
    arrays["journal"][slot] = step
    arrays["values"][slot, place] = np.nan
    arrays["marks"][slot, place] = 0
    arrays["seals"][slot, place] = NO_SEAL
    arrays["journal"][slot] = NO_STEP


def _derive_memory(store: WindowStore, slot: int, now: float) -> None:
    arrays, length = store.arrays, store.context_length
    present = (arrays["marks"][slot] & PRESENT) != 0
    newest = int(arrays["newest"][slot])
    expected = 0
    if newest != NO_STEP and present.any():
        age = int(np.argmax(present[(newest - np.arange(length)) % length]))
        expected = _make_mask(arrays["values"][slot, (newest - age) % length])
    store.restore_slot(slot, have=int(present.sum()), expected=expected)
    if arrays["open_step"][slot] != NO_STEP:
        store.restore_open_row(slot, _make_mask(arrays["open_values"][slot]), now)
    else:
        store.drop_open_row(slot)


def _make_mask(row: Float32) -> int:
    return sum(1 << int(column) for column in np.flatnonzero(~np.isnan(row)))
