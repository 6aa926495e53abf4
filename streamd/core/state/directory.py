"""The slot of each server: names, capacity, and the server that is forgotten if every slot is in use.

Touches arrays only; the windows and forecasts of a slot are others' arrays.
"""

import math
import zlib

import numpy as np

from streamd.core.errors import InvalidServerError
from streamd.core.state.layout import Column, NamedArrays, make_scalar_view

MAX_SERVER_NAME_BYTES = 256
DIRECTORY_COLUMNS = (
    Column("name", "u1", (MAX_SERVER_NAME_BYTES,)),
    Column("name_bytes", "<u2"),  # 0 if the slot is free; written last: it commits the slot
    Column("last_seen", "<f8"),  # epoch seconds at which the newest sample arrived
    Column("name_check", "<u4", added=True),  # checksum of the name; 0 if an earlier version wrote it
)
LATEST_SEEN = 1e11
"""Epoch seconds (in the year 5138) beyond which no sample can have arrived."""


class Directory:
    """Servers by name and by slot, over arrays that survive the process."""

    def __init__(self, arrays: NamedArrays) -> None:
        self._names = arrays["name"]
        self._name_bytes = arrays["name_bytes"]
        self._checks = arrays["name_check"]
        self._last_seen = arrays["last_seen"]
        self._seen = make_scalar_view(self._last_seen)
        self.capacity = len(self._name_bytes)
        self.slots: dict[str, int] = {}
        self.names: list[str | None] = [None] * self.capacity
        self.generations = [0] * self.capacity
        """By slot: grows when the slot is released, so that work for its earlier server is recognised as stale."""
        self.unreadable = 0
        """Slots whose stored name or numbers were impossible (a damaged file); they were freed."""
        self._load()
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

    def _read_name(self, slot: int) -> str:
        """Return the name of the server of a slot; empty if it is damaged."""
        size, seen = int(self._name_bytes[slot]), float(self._last_seen[slot])
        if size > MAX_SERVER_NAME_BYTES or not (math.isfinite(seen) and 0 <= seen <= LATEST_SEEN):
            return ""
        encoded = bytes(self._names[slot, :size])
        if self._checks[slot] not in (0, _checksum(encoded)):
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

    def find_slot(self) -> tuple[int, str | None]:
        """Return the slot that the next new server gets, and the server that it evicts (None if the slot is free).

        The server that has been silent the longest is evicted first.
        """
        if self._free:
            return self._free[-1], None
        slot = int(np.argmin(self._last_seen))
        return slot, self.names[slot]

    def admit(self, slot: int, name: str, now: float) -> None:
        """Give a slot to `name`.

        It must be the slot of `find_slot`, free (`release` its server first), and its other columns must be reset.
        """
        taken = self._free.pop()
        assert taken == slot, f"slot {slot} is not the next free one"
        encoded = name.encode()
        self._names[slot, : len(encoded)] = np.frombuffer(encoded, np.uint8)
        self._last_seen[slot] = now
        self._checks[slot] = _checksum(encoded)
        self._name_bytes[slot] = len(encoded)
        self.slots[name] = slot
        self.names[slot] = name

    def release(self, slot: int) -> None:
        """Free a slot; `find_slot` returns it next."""
        self._name_bytes[slot] = 0
        name = self.names[slot]
        assert name is not None, f"slot {slot} is free already"
        # A wrong checksum, so that a damaged length cannot bring the server back.
        self._checks[slot] = ~np.uint32(_checksum(name.encode()))
        del self.slots[name]
        self.names[slot] = None
        self.generations[slot] += 1
        self._free.append(slot)

    def touch(self, slot: int, now: float) -> None:
        """Record that a sample of this server arrived at `now` (epoch seconds)."""
        self._seen[slot] = now

    def get_last_seen(self, slot: int) -> float:
        """Return when the newest sample of this slot's server arrived (epoch seconds)."""
        return float(self._last_seen[slot])

    def is_seen_after(self, time_seconds: float) -> bool:
        """Whether any recorded arrival is after a time (epoch seconds), which may be in the future."""
        return bool(self._last_seen.max() > time_seconds)

    def limit_last_seen(self, now: float) -> None:
        """Set every arrival after `now` (epoch seconds) to `now`: the clock was ahead when it was recorded."""
        np.minimum(self._last_seen, now, out=self._last_seen)

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
