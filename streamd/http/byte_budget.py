"""The memory for bodies and frames that are not taken yet, shared fairly between those that hold it.

Counts bytes and chooses who loses; `requests.py` and `connections.py` read the bytes and close the connections.
"""

from collections import Counter
from collections.abc import Callable, Hashable

from streamd.core.errors import TooBusyError

SHORTEST_AGE_SECONDS = 1.0
"""A younger holder counts as this old, so that only its size counts against it."""


class ByteHolder:
    """The bytes of one body, or of the unfinished and unread frames of one socket; a part of a `ByteBudget`."""

    __slots__ = ("_budget", "evict", "expected_bytes", "held_bytes", "is_evicted", "owner", "since")

    def __init__(self, budget: "ByteBudget", owner: Hashable, evict: Callable[[], None] | None) -> None:
        self._budget = budget
        self.owner = owner
        self.evict = evict
        """Ends the holder to make space for others; `None` while its bytes are in use and cannot be freed."""
        self.expected_bytes = 0
        """The bytes that were announced, such as a Content-Length. They count in the choice, not in the sum."""
        self.held_bytes = 0
        self.since = 0.0
        """The time at which it began to hold bytes."""
        self.is_evicted = False

    def reserve(self, count_bytes: int) -> None:
        """Hold more bytes; raises `TooBusyError` if the budget is exhausted and no other holder is to blame."""
        self._budget.reserve_bytes(self, count_bytes)

    def release(self, count_bytes: int) -> None:
        """Give some bytes back; an evicted holder has none."""
        self._budget.release_bytes(self, count_bytes)

    def resize(self, held_bytes: int) -> None:
        """Hold exactly this many bytes; raises `TooBusyError` as `reserve`."""
        if held_bytes > self.held_bytes:
            self.reserve(held_bytes - self.held_bytes)
        else:
            self.release(self.held_bytes - held_bytes)

    def reopen(self, evict: Callable[[], None] | None) -> None:
        """Give all bytes back, and be able to hold others, also after an eviction."""
        self.close()
        self.evict = evict
        self.is_evicted = False

    def close(self) -> None:
        """Give all bytes back; a second call does nothing."""
        self._budget.release_bytes(self, self.held_bytes)


class ByteBudget:
    """A sum of bytes that its holders do not exceed, however many they are.

    When a reservation does not fit, a holder must lose: it is evicted, or refused if it is the one that reserves.
    Only the owner that has most counts, and of its holders only one with at least half of an equal share. So who holds
    little never loses because others hold much. Of these the one with the largest size times age loses: a fast sender
    of a large body is gone soon, a sender that stalls is not.

    An owner is what a limit is fair between, such as a token or an address.
    """

    def __init__(self, total_bytes: int, clock: Callable[[], float]) -> None:
        self.total_bytes = total_bytes
        self.held_bytes = 0
        """The bytes that are held now."""
        self.evictions = 0
        """Holders that were evicted since the start."""
        self._clock = clock
        self._holders: dict[ByteHolder, None] = {}
        """The holders with bytes, the oldest first."""

    def __len__(self) -> int:
        return len(self._holders)

    def open_holder(self, owner: Hashable, evict: Callable[[], None] | None = None) -> ByteHolder:
        """Return a new holder without bytes; `evict` is called at most once, and its bytes are free from then on."""
        return ByteHolder(self, owner, evict)

    def reserve_bytes(self, holder: ByteHolder, count_bytes: int) -> None:
        """See `ByteHolder.reserve`."""
        if holder.is_evicted:
            raise TooBusyError("its bytes were needed for others")
        if self.held_bytes + count_bytes > self.total_bytes:
            self._make_space(holder, count_bytes)
        if not holder.held_bytes:
            holder.since = self._clock()
            self._holders[holder] = None
        holder.held_bytes += count_bytes
        self.held_bytes += count_bytes

    def release_bytes(self, holder: ByteHolder, count_bytes: int) -> None:
        """See `ByteHolder.release`."""
        count_bytes = min(count_bytes, holder.held_bytes)
        holder.held_bytes -= count_bytes
        self.held_bytes -= count_bytes
        if not holder.held_bytes:
            self._holders.pop(holder, None)

    def _make_space(self, asking: ByteHolder, count_bytes: int) -> None:
        """Evict holders until the bytes fit; raises `TooBusyError` if the holder that reserves is the one to lose."""
        while self.held_bytes + count_bytes > self.total_bytes:
            loser = self._choose_loser(asking, count_bytes)
            if loser is asking:
                raise TooBusyError(
                    f"bodies and frames of {self.held_bytes} bytes are pending already, at most {self.total_bytes}"
                )
            self._evict(loser)

    def _evict(self, loser: ByteHolder) -> None:
        evict, loser.evict = loser.evict, None
        assert evict is not None, "only such a holder is chosen"
        self.release_bytes(loser, loser.held_bytes)
        loser.is_evicted = True
        self.evictions += 1
        evict()

    def _choose_loser(self, asking: ByteHolder, count_bytes: int) -> ByteHolder:
        """Return the holder to evict, or the one that reserves."""
        sizes = {holder: holder.held_bytes for holder in self._holders}
        sizes[asking] = asking.held_bytes + count_bytes
        owned: Counter[Hashable] = Counter()
        for holder, size in sizes.items():
            owned[holder.owner] += size
        largest = max(owned, key=lambda owner: (owned[owner], owner == asking.owner))
        sizes_of_owner = {holder: size for holder, size in sizes.items() if holder.owner == largest}
        half_share = owned[largest] / len(sizes_of_owner) / 2
        now = self._clock()

        def weigh(holder: ByteHolder) -> tuple[float, bool]:
            age_seconds = now - holder.since if holder.held_bytes else 0.0
            size = max(sizes[holder], holder.expected_bytes)
            return size * max(age_seconds, SHORTEST_AGE_SECONDS), holder is asking

        can_lose = (
            holder
            for holder, size in sizes_of_owner.items()
            if size >= half_share and (holder is asking or holder.evict is not None)
        )
        return max(can_lose, key=weigh, default=asking)
