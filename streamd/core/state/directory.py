"""The slot of each server: names, capacity, and the server that is forgotten if every slot is in use.

Touches arrays only; the windows and forecasts of a slot are others' arrays.
"""

import math
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from streamd.core.errors import InvalidServerError, NoCapacityError
from streamd.core.state.layout import Column, NamedArrays, make_scalar_view, make_zeros

MAX_SERVER_NAME_BYTES = 256
SHORT_NAME_BYTES = 64
"""Most names are not longer: then no page of the column with the rest of the names is ever touched."""

DIRECTORY_COLUMNS = (
    Column("name", "u1", (SHORT_NAME_BYTES,)),
    Column("name_rest", "u1", (MAX_SERVER_NAME_BYTES - SHORT_NAME_BYTES,)),
    Column("name_bytes", "<u2"),  # 0 if the slot is free; written last: it commits the slot
    Column("last_seen", "<f8"),  # epoch seconds at which the newest sample arrived
    Column("name_check", "<u4"),  # checksum of the name
)
FORMER_DIRECTORY_COLUMNS = (
    Column("name", "u1", (MAX_SERVER_NAME_BYTES,)),
    Column("name_bytes", "<u2"),
    Column("last_seen", "<f8"),
    Column("name_check", "<u4", added=1),
)
"""The columns of former versions."""

VOLATILE_DIRECTORY_COLUMNS = (
    Column("generations", "<i8"),
    Column("seeds", "<u4"),
)
"""What the directory keeps of each slot in memory only; other processes may share it."""

LATEST_SEEN = 1e11
"""Epoch seconds (in the year 5138) beyond which no sample can have arrived."""


class Directory:
    """Servers by name and by slot, over arrays that survive the process.

    The arrays of former versions have whole names in one column; without `has_checks`, they have no checksums of names.
    `volatile` are arrays of `VOLATILE_DIRECTORY_COLUMNS`; without them the directory makes its own.
    """

    def __init__(self, arrays: NamedArrays, volatile: NamedArrays | None = None, *, has_checks: bool = False) -> None:
        self._names = [arrays[name] for name in ("name", "name_rest") if name in arrays]
        self._name_bytes = arrays["name_bytes"]
        self._checks = arrays["name_check"]
        self._last_seen = arrays["last_seen"]
        self._seen = make_scalar_view(self._last_seen)
        self._known_checks = () if has_checks else (0,)
        self.capacity = len(self._name_bytes)
        self.slots: dict[str, int] = {}
        self.names: list[str | None] = [None] * self.capacity
        shared = make_zeros(VOLATILE_DIRECTORY_COLUMNS, self.capacity) if volatile is None else volatile
        self.generations: npt.NDArray[np.int64] = shared["generations"]
        """By slot: grows when the slot is released, so that work for its earlier server is recognised as stale."""
        self.seeds: npt.NDArray[np.uint32] = shared["seeds"]
        """By slot: a number of the name, with which rows and forecasts are sealed; 0 if the slot is free."""
        self._generations = make_scalar_view(self.generations)
        self._seeds = make_scalar_view(self.seeds)
        self.unreadable = 0
        """Slots whose stored name or numbers were impossible (a damaged file); they were freed."""
        self._load()
        self._ordered: list[str] | None = None
        """All names in order, if no server came or left since they were sorted."""
        self._none_before = -math.inf
        """No server was seen last before this (epoch seconds), so that most newcomers are refused without a search."""
        self._free = [slot for slot in range(self.capacity - 1, -1, -1) if self.names[slot] is None]

    def _load(self) -> None:
        for slot in np.flatnonzero(self._name_bytes).tolist():
            name = self._read_name(slot)
            if not name or name in self.slots:
                self._name_bytes[slot] = 0
                self.unreadable += 1
                continue
            self.slots[name] = slot
            self.names[slot] = name
            self._seeds[slot] = self._checks[slot] = _checksum(name.encode())

    def _read_name(self, slot: int) -> str:
        """Return the name of the server of a slot; empty if it is damaged."""
        size, seen = int(self._name_bytes[slot]), float(self._last_seen[slot])
        if size > MAX_SERVER_NAME_BYTES or not (math.isfinite(seen) and 0 <= seen <= LATEST_SEEN):
            return ""
        encoded = b"".join(bytes(part[slot]) for part in self._names)[:size]
        if self._checks[slot] not in (*self._known_checks, _checksum(encoded)):
            return ""
        try:
            name = encoded.decode()
            check_server_name(name)
        except (UnicodeDecodeError, InvalidServerError):
            return ""
        return name

    def free_damaged(self, slot: int) -> None:
        """Free a slot whose numbers are impossible, and count it."""
        self.release(slot)
        self.unreadable += 1

    def find_slot(self, silent_since: float = math.inf) -> tuple[int, str | None]:
        """Return the slot that the next new server gets, and the server that it evicts (None if the slot is free).

        The server that has been silent the longest is evicted first. Raises `NoCapacityError` if even that one was
        seen after `silent_since` (epoch seconds).
        """
        if self._free:
            return self._free[-1], None
        if self._none_before <= silent_since:
            slot = int(np.argmin(self._last_seen))
            self._none_before = float(self._last_seen[slot])
            if self._none_before <= silent_since:
                return slot, self.names[slot]
        raise NoCapacityError(
            f"all {self.capacity} slots (max_servers) have servers that were seen lately (evict_after_seconds)"
        )

    def admit(self, slot: int, name: str, now: float) -> None:
        """Give a slot to `name`.

        It must be the slot of `find_slot`, free (`release` its server first), and its other columns must be reset.
        """
        taken = self._free.pop()
        assert taken == slot, f"slot {slot} is not the next free one"
        encoded = name.encode()
        self._write_name(slot, encoded)
        self._last_seen[slot] = now
        self._checks[slot] = _checksum(encoded)
        self._name_bytes[slot] = len(encoded)
        self.slots[name] = slot
        self.names[slot] = name
        self._seeds[slot] = _checksum(encoded)
        self._ordered = None

    def _write_name(self, slot: int, encoded: bytes) -> None:
        for part in self._names:
            piece, encoded = encoded[: part.shape[1]], encoded[part.shape[1] :]
            if piece:
                part[slot, : len(piece)] = np.frombuffer(piece, np.uint8)

    def release(self, slot: int) -> None:
        """Free a slot; `find_slot` returns it next."""
        self._name_bytes[slot] = 0
        name = self.names[slot]
        assert name is not None, f"slot {slot} is free already"
        # A wrong checksum, so that a damaged length cannot bring the server back.
        self._checks[slot] = ~np.uint32(_checksum(name.encode()))
        del self.slots[name]
        self._ordered = None
        self.names[slot] = None
        self._seeds[slot] = 0
        self.expire(slot)
        self._free.append(slot)

    def list_used(self) -> npt.NDArray[np.int64]:
        """Return the slots that have a server, `(n,)`."""
        return np.flatnonzero(self._name_bytes)

    def get_generation(self, slot: int) -> int:
        """Return a slot's generation; see `generations`."""
        return int(self._generations[slot])

    def expire(self, slot: int) -> None:
        """Let work that was begun for a slot be recognised as stale."""
        self._generations[slot] += 1

    def touch(self, slot: int, now: float) -> None:
        """Record that a sample of this server arrived at `now` (epoch seconds)."""
        self._seen[slot] = now

    def touch_many(self, slots: npt.NDArray[np.int64] | slice, now: float) -> None:
        """Record that samples of these slots' servers arrived at `now` (epoch seconds)."""
        self._last_seen[slots] = now

    def iterate_names(self, after: str = "") -> Iterator[str]:
        """Return the names behind `after`, in order; do not admit or release a server meanwhile.

        They are sorted once after each change, so that one who reads page after page costs its pages only.
        """
        if self._ordered is None:
            self._ordered = sorted(self.slots)
        return islice(self._ordered, bisect_right(self._ordered, after), None)

    @property
    def last_seen(self) -> npt.NDArray[np.float64]:
        """By slot: when the newest sample of its server arrived (epoch seconds), without a meaning for free slots."""
        return self._last_seen

    def get_last_seen(self, slot: int) -> float:
        """Return when the newest sample of this slot's server arrived (epoch seconds)."""
        return float(self._last_seen[slot])

    def is_seen_after(self, time_seconds: float) -> bool:
        """Whether any recorded arrival is after a time (epoch seconds), which may be in the future."""
        return bool(self._last_seen.max() > time_seconds)

    def limit_last_seen(self, now: float) -> None:
        """Set every arrival after `now` (epoch seconds) to `now`: the clock was ahead when it was recorded."""
        np.minimum(self._last_seen, now, out=self._last_seen)
        self._none_before = min(self._none_before, now)

    def __len__(self) -> int:
        return len(self.slots)


def _checksum(encoded: bytes) -> int:
    return zlib.crc32(encoded) or 1


def check_server_name(name: str) -> None:
    """Raise `InvalidServerError` unless `name` is 1 to 256 bytes of UTF-8."""
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError as exc:
        raise InvalidServerError("server is not valid UTF-8 (a lone surrogate)") from exc
    if not 0 < size <= MAX_SERVER_NAME_BYTES:
        raise InvalidServerError(f"server has {size} bytes of UTF-8, expected 1 to {MAX_SERVER_NAME_BYTES}")
