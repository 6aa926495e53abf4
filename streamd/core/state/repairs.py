"""Brings a window store into order when it is opened, whatever ended the process that wrote it.

Decides between the two ways: finish what a kill interrupted (`recovery.py`), and keep what the seals prove
(`rebuilding.py`). Touches the store's arrays only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from streamd.core.state.rebuilding import rebuild
from streamd.core.state.recovery import derive_memory, find_damage, finish_changes
from streamd.core.state.windows import WindowStore


@dataclass(kw_only=True)
class Repairs:
    """The findings of `repair_windows`, by slot."""

    interrupted: int = 0
    """The number of slots whose interrupted change was finished or undone."""
    lost_rows: dict[int, int] = field(default_factory=dict)
    """The number of rows that were emptied because nothing proves them."""
    repaired: set[int] = field(default_factory=set)
    """Slots that are right again, by what was stored twice."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Slots of which nothing is usable, with the reason; the caller frees them."""


def repair_windows(store: WindowStore, slots: Sequence[int], now: float, *, is_torn: bool) -> Repairs:
    """Repair these slots, and derive what the store keeps in memory only (`now`: monotonic seconds).

    With `is_torn`, any page may be older than the others (see `rebuild`).
    """
    for slot in slots:
        store.begin_change(slot)
    damaged = {} if is_torn else find_damage(store, list(slots))
    # The journal of a torn file may be older or newer than the row that it names.
    sound = [slot for slot in slots if slot not in damaged]
    interrupted = 0 if is_torn else finish_changes(store, sound)
    rebuilt = rebuild(store, slots, is_torn=is_torn, damaged=damaged)
    unreadable = {slot: reason for slot, reason in damaged.items() if slot in rebuilt.without_rows}
    derive_memory(store, [slot for slot in slots if slot not in unreadable], now)
    return Repairs(
        interrupted=interrupted,
        lost_rows={slot: count for slot, count in rebuilt.lost_rows.items() if slot not in unreadable},
        repaired=(rebuilt.repaired | set(damaged)) - set(unreadable),
        unreadable=unreadable,
    )
