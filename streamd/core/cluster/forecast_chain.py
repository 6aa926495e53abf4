"""The chain of one shard's forecasts in the log: what may be appended, and which row of each server was forecast.

The log takes an append only at the position that its sender knows, so whatever nodes believe, one chain arises. Appends
and reads nothing itself.

FOLLOWING → CLAIMING → OWNING, and from each of the last two → FENCED.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum

from streamd.core.cluster.chain_entries import ChainEntry, ChainGapError, EntryKind, FencedError
from streamd.core.cluster.shards import STEP_PARTS, find_step_part


class ChainState(Enum):
    """The states of a chain at a node."""

    FOLLOWING = "following"
    """It reads what others append."""
    CLAIMING = "claiming"
    """It has the lease; its marker is not in the chain yet."""
    OWNING = "owning"
    """Its marker is the last one: it may append."""
    FENCED = "fenced"
    """A later owner's marker came, or what came is not known: it never appends again."""


class ForecastChain:
    """One node's view of a shard's chain.

    First `load` what the stream has, in order, then `finish_loading`; then `follow` each entry that is read, and, from
    the first claim on, `apply` it. An owner appends one entry at a time, each with `position` as the expected last
    sequence: `begin_claim`, `begin_batch` or `begin_record` returns it, then `confirm`, or `reject` (another entry came
    before), or, if no answer came, the same append again or `doubt`. After `reject`, the tail must be read and applied.
    """

    def __init__(self) -> None:
        self.state = ChainState.FOLLOWING
        self.position = 0
        """The sequence of the newest entry that is known."""
        self.fence = 0
        """The fence of the newest owner in the chain."""
        self.forgot_rows = 0
        self.fenced_entries = 0
        """Entries with a lower fence than the chain's: compare-and-set failed. They are passed over."""
        self._steps: dict[str, int] = {}
        self._places: dict[str, int] = {}
        """The sequence of the entry that has each server's newest forecast."""
        self._parts: list[set[str]] = [set() for _ in range(STEP_PARTS)]
        """The servers of each part: to hash all names for each record takes a millisecond for a thousand."""
        self._records: dict[int, int] = {}
        """The sequence of each part's newest record."""
        self._whole_from = 1
        """From here on no entry is missing."""
        self._claim = 0
        self._pending: ChainEntry | None = None
        self._expected = 0
        """The position at which the append in flight is made."""
        self._reads_through = 0

    # ------------------------------------------------------------ what is in the chain
    def find_step(self, server: str) -> int | None:
        """Return the newest step of a server that was forecast; `None` without a forecast."""
        return self._steps.get(server)

    @property
    def steps(self) -> Mapping[str, int]:
        """The newest step of each server that was forecast; a view."""
        return self._steps

    @property
    def must_read(self) -> bool:
        """Whether entries have to be read and applied before the next append."""
        return self.position < self._reads_through

    @property
    def is_appending(self) -> bool:
        """Whether an append is in flight."""
        return self._pending is not None

    @property
    def purge_below(self) -> int:
        """The sequence below which no batch and no marker is needed: all parts have later records."""
        return min(self._records.values()) if len(self._records) == STEP_PARTS else 0

    @property
    def superseded_below(self) -> int:
        """The sequence below which nothing is needed: records have all steps, and no newest forecast lies there."""
        return min([self.purge_below, *self._places.values()])

    @property
    def is_whole(self) -> bool:
        """Whether all is known that its entries have, also those that were removed: later records have it."""
        return self._whole_from <= self.purge_below + 1

    @property
    def forecasts(self) -> int:
        """The number of servers whose newest forecast is in the chain."""
        return len(self._places)

    def list_forecasts(self, below: int) -> list[str]:
        """Return the servers whose newest forecast is in an entry below a sequence."""
        return [server for server, place in self._places.items() if place < below]

    def limit_forecasts(self, below: int, most: float) -> int:
        """Return the highest sequence, at most `below`, such that no more than `most` newest forecasts lie below it."""
        places = sorted(place for place in self._places.values() if place < below)
        return below if len(places) <= most else places[int(most)]

    def note_removed(self, below: int) -> None:
        """Note that the entries below a sequence are not in the log any more: which rows were forecast stays known."""
        self._places = {server: place for server, place in self._places.items() if place >= below}

    # ------------------------------------------------------------ reading
    def load(self, entry: ChainEntry) -> None:
        """Take an entry of the stream's content at the beginning; entries come in order, with holes where purged."""
        self.follow(entry)

    def follow(self, entry: ChainEntry) -> list[str]:
        """Take the next entry that is there, and return as `apply`.

        Entries before it may be missing: the owner removed them before they were read. Later records have what was in
        them; until these are read, the chain is not whole.
        """
        if entry.sequence <= self.position:
            return []
        if entry.sequence != self.position + 1:
            self._whole_from = entry.sequence
        return self._take(entry)

    def finish_loading(self, last: int) -> None:
        """End the loading, or a part of it; `last` is the stream's last sequence at the beginning of it.

        Raises `ChainGapError` if the steps of some servers are unknown: what was removed is in no record that was read.
        The chain can be followed nevertheless, and not be owned.
        """
        if self.position < last:
            self.position, self._whole_from = last, last + 1
        self._check_whole()

    def _check_whole(self) -> None:
        if not self.is_whole:
            raise ChainGapError(
                f"the chain of forecasts lacks entries from {self.purge_below + 1} to {self._whole_from - 1}; "
                "its records need them"
            )

    def apply(self, entry: ChainEntry) -> list[str]:
        """Take the next entry; returns the servers whose forecasts are new, none for an entry that is known.

        Raises `ChainGapError` if entries are missing before it; an owner is then fenced.
        """
        if entry.sequence <= self.position:
            return []
        if entry.sequence != self.position + 1:
            self.lose_track()
            raise ChainGapError(f"the chain of forecasts lacks entry {self.position + 1}; {entry.sequence} came")
        return self._take(entry)

    def lose_track(self) -> None:
        """Note that entries cannot be read: an owner cannot know whether it still is one."""
        self._pending = None
        if self.state is not ChainState.FOLLOWING:
            self.state = ChainState.FENCED

    def _take(self, entry: ChainEntry) -> list[str]:
        self.position = entry.sequence
        self._pending = None  # it expected the position before
        if entry.fence < self.fence:
            self.fenced_entries += 1
            return []
        self._follow_fence(entry)
        for server in entry.forgotten:
            self._remove(server)
        self.forgot_rows = max(self.forgot_rows, entry.forgot_rows)
        if entry.kind is EntryKind.RECORD:
            self._take_record(entry)
            return []
        return self._raise_steps(entry.steps, entry.sequence)

    def _take_record(self, entry: ChainEntry) -> None:
        """Take the steps of a part's servers, and of no others: also what was forgotten unread, or dropped, is gone."""
        self._records[entry.part] = entry.sequence
        for server in self._parts[entry.part] - entry.steps.keys():
            self._remove(server)
        self._parts[entry.part].update(entry.steps)
        self._steps.update(entry.steps)

    def _follow_fence(self, entry: ChainEntry) -> None:
        self.fence = entry.fence
        if self.state is ChainState.FOLLOWING or entry.fence < self._claim:
            return
        if entry.fence > self._claim:
            self.state = ChainState.FENCED
        elif self.state is ChainState.CLAIMING:
            self.state = ChainState.OWNING

    def _raise_steps(self, steps: Mapping[str, int], sequence: int) -> list[str]:
        known = self._steps
        self._places.update((server, sequence) for server, step in steps.items() if known.get(server, step) <= step)
        new = [server for server, step in steps.items() if server not in known or known[server] < step]
        for server in new:
            if server not in known:
                self._parts[find_step_part(server)].add(server)
            known[server] = steps[server]
        return new

    def _remove(self, server: str) -> None:
        self._places.pop(server, None)
        if self._steps.pop(server, None) is not None:
            self._parts[find_step_part(server)].discard(server)

    # ------------------------------------------------------------ appending
    def begin_claim(self, fence: int) -> ChainEntry:
        """Return the marker to append for a lease of this revision; it is in flight from now on.

        Raises `FencedError` if the chain has a marker of this fence or a later one, `ChainGapError` if it is not whole.
        """
        self._check_free(ChainState.FOLLOWING, ChainState.CLAIMING)
        self._check_whole()
        if fence <= self.fence:
            self.state = ChainState.FENCED
            raise FencedError(f"the chain of forecasts has an owner with fence {self.fence}; {fence} is not later")
        self.state, self._claim = ChainState.CLAIMING, fence
        return self._begin(ChainEntry(kind=EntryKind.MARKER, fence=fence))

    def needs_rows(self, applied: int) -> bool:
        """Whether the owner must read rows before it forecasts: it has applied the row log up to this sequence only.

        The former owner may have read an order to forget that this one did not: then it would take rows of the time
        before that for new ones.
        """
        return applied < self.forgot_rows

    def note_rows_made_anew(self) -> None:
        """Note that the row log was made anew, so that the orders to forget that the chain has are in it no more.

        Later entries say so to other nodes. Else the orders of the new log would count as done up to that place.
        """
        self.forgot_rows = 0

    def select(self, forecasts: Iterable[tuple[str, int]], forgotten: Collection[str] = ()) -> list[bool]:
        """Return which of these (server, step) may be appended: the others have a forecast of this step or a later one.

        `forgotten` are the servers that the same batch removes. Of several of one server, only the first may be.
        """
        known, seen, chosen = self._steps, set(), []
        for server, step in forecasts:
            is_new = server not in seen and (server not in known or known[server] < step or server in forgotten)
            seen.add(server)
            chosen.append(is_new)
        return chosen

    def begin_batch(self, steps: Mapping[str, int], forgotten: Sequence[str] = (), forgot_rows: int = 0) -> ChainEntry:
        """Return the batch to append, of selected forecasts and deleted servers; it is in flight from now on.

        `forgot_rows` is the sequence in the row log of the newest order to forget. Raises `FencedError`.
        """
        self._check_free(ChainState.OWNING)
        return self._begin(
            ChainEntry(
                kind=EntryKind.BATCH,
                fence=self._claim,
                steps=steps,
                forgotten=forgotten,
                forgot_rows=max(self.forgot_rows, forgot_rows),
            )
        )

    def begin_record(self) -> ChainEntry | None:
        """Return the record to append next, in flight from now on; `None` if nothing but records came since the last.

        The parts take turns: so no record above the oldest one is ever replaced, and the chain has no holes there.
        Raises `FencedError`.
        """
        self._check_free(ChainState.OWNING)
        if len(self._records) == STEP_PARTS and self.position == max(self._records.values()) and self._is_turn_over():
            return None
        part = min(range(STEP_PARTS), key=lambda each: (self._records.get(each, 0), each))
        steps = {server: self._steps[server] for server in self._parts[part]}
        return self._begin(
            ChainEntry(kind=EntryKind.RECORD, fence=self._claim, steps=steps, forgot_rows=self.forgot_rows, part=part)
        )

    def _is_turn_over(self) -> bool:
        """Whether all parts were recorded since the last batch or marker."""
        return max(self._records.values()) - min(self._records.values()) == STEP_PARTS - 1

    def confirm(self, sequence: int) -> list[str]:
        """Take the log's answer that the append in flight is stored; returns the servers whose forecasts are new.

        It returns no server if the entry was read and applied before this answer came.
        """
        pending = self._pending
        if pending is None or sequence <= self.position:
            return []
        return self.apply(replace(pending, sequence=sequence))

    def reject(self, last: int | None) -> None:
        """Take the log's answer that another entry came before; `last` is its last sequence, `None` if not known.

        If the log lost entries that it had, an owner is fenced: what else is lost is not known.
        """
        self._pending = None
        if last is not None and last < self._expected:
            self.lose_track()
            return
        self._reads_through = max(self._reads_through, self.position + 1 if last is None else last)

    def doubt(self) -> None:
        """Abandon the append in flight, which has no answer: it may be stored, or may be stored later.

        The next append is made at the same position, so only one of the two can be stored.
        """
        self._pending = None

    def resign(self) -> None:
        """Append nothing more; the chain can be followed."""
        self._pending = None
        self.state = ChainState.FOLLOWING

    def drop_steps(self, below: int, kept: Container[str] = ()) -> list[str]:
        """Remove the servers whose newest step is below `below`, and return them: their rows can come no more.

        Those in `kept` stay, whatever their steps. Only for the owner: all others read it from its records.
        """
        old = [server for server, step in self._steps.items() if step < below and server not in kept]
        for server in old:
            self._remove(server)
        return old

    def _check_free(self, *states: ChainState) -> None:
        if self.state not in states:
            raise FencedError(f"the chain of forecasts is {self.state.value} here; nothing can be appended")
        if self._pending is not None or self.must_read:
            raise FencedError("an append to the chain of forecasts is in flight, or its tail was not read")

    def _begin(self, entry: ChainEntry) -> ChainEntry:
        self._pending, self._expected = entry, self.position
        return entry
