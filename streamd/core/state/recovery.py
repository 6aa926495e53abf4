"""Puts a window store in order: after its process ended, however it ended, and after a clock that was ahead.

What was acked is complete in the arrays; a change that was under way is finished or undone by its journal.
"""

import numpy as np

from streamd.core.contract import MAX_STATUS
from streamd.core.state.windows import NO_STEP, PRESENT, SEALED_STATUSES, WindowStore, make_step_check

LAST_STEP = 2**40
"""No clock comes so far, at whatever step length; a step beyond it is damage."""


def find_damage(store: WindowStore, slots: list[int]) -> dict[int, str]:
    """Return the slots whose numbers make no sense, each with the reason, before anything is recovered."""
    reasons = ((slot, _damage(store, slot)) for slot in slots)
    return {slot: reason for slot, reason in reasons if reason is not None}


def _damage(store: WindowStore, slot: int) -> str | None:
    arrays = store.arrays
    newest, open_step, journal = (int(arrays[name][slot]) for name in ("newest", "open_step", "journal"))
    for name, step in (("newest", newest), ("open_step", open_step), ("journal", journal)):
        if not NO_STEP <= step <= LAST_STEP:
            return f"{name} is {step}, expected a step from 0 to {LAST_STEP}, or {NO_STEP}"
    if newest == open_step == journal == 0:
        return "nothing was ever written to it"
    if journal != NO_STEP and newest != NO_STEP and journal <= newest - store.context_length:
        return f"journal is {journal}, expected a step of the window that ends at {newest}, or a later one"
    if newest != journal and arrays["newest_check"][slot] not in (0, make_step_check(newest)):
        return f"newest is {newest}, which is not what was written"
    if open_step == NO_STEP:
        return None
    if open_step <= newest and open_step != journal:
        return f"open_step is {open_step}, expected a step after {newest}"
    check, status = int(arrays["open_check"][slot]), int(arrays["open_status"][slot])
    if check not in (0, make_step_check(open_step)):
        return f"open_step is {open_step}, which is not what was written"
    if status in SEALED_STATUSES or (check == 0 and status <= MAX_STATUS):
        return None
    return f"open_status is {status}, expected one of {SEALED_STATUSES}"


def recover(store: WindowStore, slots: list[int], now: float) -> int:
    """Finish interrupted changes of these slots and derive what is kept in memory only.

    `now` is monotonic seconds: open rows get a new grace. Returns how many slots had been cut off in the
    middle of a change.
    """
    journal = store.arrays["journal"]
    interrupted = [slot for slot in slots if journal[slot] != NO_STEP]
    for slot in interrupted:
        _finish(store, slot, int(journal[slot]))
    for slot in slots:
        _derive(store, slot, now)
    return len(interrupted)


def _finish(store: WindowStore, slot: int, step: int) -> None:
    arrays, length = store.arrays, store.context_length
    ring, marks, newest = arrays["values"][slot], arrays["marks"][slot], int(arrays["newest"][slot])
    place = step % length
    # 1. The row was about to become the newest: advance, and put the open row again if it was that one.
    if step > newest:
        gap = np.arange(max(newest + 1, step - length + 1) if newest != NO_STEP else step, step + 1) % length
        for copy in (gap, gap + length):
            ring[copy] = np.nan
            marks[copy] = 0
        if arrays["open_step"][slot] == step:
            row = arrays["open_values"][slot]
            mark = (int(arrays["open_status"][slot]) & MAX_STATUS) | (0 if np.isnan(row).all() else PRESENT)
            for copy_place in (place, place + length):
                ring[copy_place] = row
                marks[copy_place] = mark
        arrays["newest"][slot] = step
    # 2. The row was the newest already, or was amended: its first copy was written first.
    else:
        ring[place + length] = ring[place]
        marks[place] = (int(marks[place]) & ~PRESENT) | (0 if np.isnan(ring[place]).all() else PRESENT)
        marks[place + length] = marks[place]
    arrays["newest_check"][slot] = make_step_check(int(arrays["newest"][slot]))
    if arrays["open_step"][slot] == step:
        arrays["open_step"][slot] = NO_STEP
    arrays["journal"][slot] = NO_STEP


def rewind(store: WindowStore, slot: int, last_step: int) -> int:
    """Drop a slot's rows after `last_step`, and go on from the newest that is left; returns how many were dropped.

    Rows before it that are still in the ring stay, late ones that came in the meantime too. The rows are emptied
    first, each by its journal, and then `newest` goes back: killed in between, the slot lies ahead as before.
    """
    arrays, length = store.arrays, store.context_length
    newest, dropped = int(arrays["newest"][slot]), 0
    if store.get_latest_step(slot) <= last_step:
        return 0
    if int(arrays["open_step"][slot]) > last_step:
        arrays["open_step"][slot] = NO_STEP
        store.drop_open_row(slot)
        dropped += 1
    if newest > last_step:
        steps = np.arange(max(newest - length + 1, 0), newest + 1)
        held = steps[np.asarray(arrays["marks"][slot, steps % length]) != 0].tolist()
        ahead = [step for step in held if step > last_step]
        for step in ahead:
            _empty(store, slot, step)
        dropped += len(ahead)
        # The journal names a row that is whole: to finish it changes nothing.
        kept = max((step for step in held if step <= last_step), default=NO_STEP)
        arrays["journal"][slot] = kept
        arrays["newest"][slot] = kept
        arrays["newest_check"][slot] = make_step_check(
            kept
        )  # killed before it, the journal has it written at the start
        arrays["journal"][slot] = NO_STEP
    _derive(store, slot, 0.0)
    return dropped


def _empty(store: WindowStore, slot: int, step: int) -> None:
    arrays, length = store.arrays, store.context_length
    arrays["journal"][slot] = step
    for place in (step % length, step % length + length):
        arrays["values"][slot, place] = np.nan
        arrays["marks"][slot, place] = 0
    arrays["journal"][slot] = NO_STEP


def _derive(store: WindowStore, slot: int, now: float) -> None:
    arrays, length = store.arrays, store.context_length
    present = (arrays["marks"][slot, :length] & PRESENT) != 0
    newest = int(arrays["newest"][slot])
    expected, expected_step = 0, NO_STEP
    if newest != NO_STEP and present.any():
        age = int(np.argmax(present[(newest - np.arange(length)) % length]))
        expected_step = newest - age
        expected = _mask(arrays["values"][slot, expected_step % length])
    store.restore_slot(slot, have=int(present.sum()), expected=expected, expected_step=expected_step)
    if arrays["open_step"][slot] != NO_STEP:
        store.restore_open_row(slot, _mask(arrays["open_values"][slot]), now)


def _mask(row: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> int:
    return sum(1 << int(column) for column in np.flatnonzero(~np.isnan(row)))
