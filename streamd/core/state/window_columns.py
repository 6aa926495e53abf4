"""The columns that windows are stored in, and the stored form of steps, marks and statuses.

The ring of closed rows is `(slot, context_length, feature)`, and the place of a step is `step % context_length`. With a
context length of 4 and step 9 the newest, a slot's ring is:

    place    0   1   2   3
    step     8   9   6   7     the window of steps 6 to 9 is two slices: from (9 + 1) % 4 = 2 to the end, then the rest

The row that still fills lies beside the ring, so that the window that ends at the newest closed row stays whole until
the next row closes.

What can be derived from these arrays is not in the file. It is in arrays too (`make_volatile_columns`), so that it may
lie in memory that other processes share.
"""

from typing import TypeVar

from streamd.core.arrays import Numbers
from streamd.core.contract import MAX_STATUS
from streamd.core.state.layout import Column

StepsT = TypeVar("StepsT", int, Numbers)
"""One step, or an array of steps."""

NO_STEP = -1
"""The step of a row that does not exist; steps are counted from 1970 and are never negative."""

LAST_STEP = 2**40
"""No clock reaches this step, whatever the step length; a later step is damage."""

PRESENT = 0x80
"""The bit of a row's mark that is set if the row has a value of at least one feature; the low bits are its status."""

SEALED_STATUSES = tuple(status | (5 * status + 3) % 16 << 4 for status in range(MAX_STATUS + 1))
"""The stored form of each status of an open row: the low bits are the status, the high bits a number that belongs to
it. Any other byte is damage."""

MAX_MASK_FEATURES = 64
"""Masks of more features do not fit into the arrays: then the store has lists in their place, which no other process
sees."""

CHANGES_MASK = 0xFFFFFFFF
"""`changes` counts in 32 bits and then begins again."""


def make_step_check(steps: StepsT) -> StepsT:
    """Return the second stored form of a step, or of several, by which damage of the first is detected."""
    return -2 - steps


def make_window_columns(context_length: int, features: int) -> tuple[Column, ...]:
    """Return the columns of a window store."""
    return (
        Column("newest", "<i8"),  # step of the newest closed row, or NO_STEP
        Column("newest_check", "<i8"),  # make_step_check(newest)
        Column("open_step", "<i8"),  # step of the row that fills, or NO_STEP
        Column("open_check", "<i8"),  # make_step_check(the step that was opened last)
        Column("journal", "<i8"),  # step of the closed row that is being written, or NO_STEP
        Column("open_values", "<f4", (features,)),
        Column("open_status", "u1"),  # one of SEALED_STATUSES
        Column("open_seal", "<u4"),  # the seal of the open row; NO_SEAL while it is being changed
        Column("marks", "u1", (context_length,)),  # the status of each row, and PRESENT
        Column("seals", "<u4", (context_length,)),  # the seal of each closed row, or NO_SEAL
        Column("values", "<f4", (context_length, features)),
    )


def make_volatile_columns() -> tuple[Column, ...]:
    """Return the columns of what the store derives from its arrays at start; they are no part of the file."""
    return (
        Column("have", "<i4"),  # the number of rows that each window really has
        Column("expected", "<u8"),  # mask of the newest row that had any feature; 0 if none had, which means all
        Column("open_mask", "<u8"),  # the features that the open row has
        # Odd while the window is being changed. It grows by 2 for each step that its newest row moves on, and by 2 for
        # any other change: so only new rows are missing in a copy if both grew alike.
        Column("changes", "<u4"),
    )
