"""Messages of a row log as bytes: sections of rows, of points, and of orders to forget a server. Touches no window.

    message: kind u8, version u8, then sections, each: type u8, bytes u32, body
    rows:    flags u8, features u16, rows u32, bytes of names u32, names (MessagePack), times f64, places u32, statuses
             u8, values f32 (rows, features)
    forget:  until f64 (epoch seconds of the log), the server's name

All numbers are little-endian. A section of rows names each server once; `places` are those of the rows' names, and are
left out if row k is of name k. One time stands for all rows if they have the same. A section is encoded once, where its
rows came in, and messages are sections one after the other: so a list of names has the same bytes each time.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Float64, Slots
from streamd.core.cluster.formats import check_format
from streamd.core.contract import MAX_STATUS
from streamd.core.errors import InvalidServerError, MalformedError
from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.core.state.directory import check_server_name

ROWS_MESSAGE = 1
"""The kind of a message of sections."""

ROWS_FORMAT_VERSION = 1

ROWS_SECTION, POINTS_SECTION, FORGET_SECTION = 1, 2, 3
"""The types of sections."""

NO_ROW_STATUS = 255
"""The status of a row without one."""

MAX_SECTION_BYTES = 192 * 1024
"""A section of rows is cut before it is longer, so that a message holds it."""

LAST_SECOND = 1e12
"""No sample has a later time: agents and nodes check it against a clock."""

MAX_REMEMBERED_BYTES = 2**20
"""Lists of names that a decoder remembers."""

MESSAGE_HEAD = bytes((ROWS_MESSAGE, ROWS_FORMAT_VERSION))

_SECTION = struct.Struct("<BI")
_UNTIL = struct.Struct("<d")
_ROWS = struct.Struct("<BHII")
_MAY_EVICT, _IS_IDENTITY, _ONE_TIME, _HAS_STATUSES = 1, 2, 4, 8

_encode_names = msgspec.msgpack.Encoder().encode
_names_decoder = msgspec.msgpack.Decoder(list[str])

Statuses = npt.NDArray[np.uint8]


class LoggedRows(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Rows of one section: `values (n, features)` at `times (n,)`, of the servers `names.names[places[k]]`.

    `places` is `None` if row k is of name k, `statuses` if no row has one. With `may_evict`, the sender may let new
    servers take the slots of others.
    """

    names: NameList
    times: Float64
    values: Float32
    places: Slots | None = None
    statuses: Statuses | None = None
    may_evict: bool = False

    def __len__(self) -> int:
        return len(self.times)

    def list_servers(self) -> Sequence[str]:
        """Return the server of each row."""
        names = self.names.names
        return names if self.places is None else [names[place] for place in self.places.tolist()]

    def select(self, is_chosen: npt.NDArray[np.bool_]) -> "LoggedRows":
        """Return some of the rows, in their order."""
        chosen = np.flatnonzero(is_chosen)
        return LoggedRows(
            names=self.names,
            times=self.times[chosen],
            values=self.values[chosen],
            places=chosen if self.places is None else self.places[chosen],
            statuses=None if self.statuses is None else self.statuses[chosen],
            may_evict=self.may_evict,
        )

    def make_frame(self, features: NameList) -> ColumnFrame:
        """Return rows without statuses as a frame of columns."""
        times, count = self.times, len(self.times)
        is_one = count > 0 and bool((times == times[0]).all())
        names = self.names if self.places is None else NameList(self.list_servers())
        time: float | list[Any] = float(times[0]) if is_one else times.tolist()
        return ColumnFrame(servers=names, features=features, time=time, values=self.values)


# ---------------------------------------------------------------- sections
def make_rows_message(sections: Sequence[bytes]) -> bytes:
    """Return the sections as one message."""
    return b"".join((MESSAGE_HEAD, *sections))


def make_section(kind: int, body: bytes) -> bytes:
    """Return a section of a type."""
    return _SECTION.pack(kind, len(body)) + body


def make_forget_section(server: str, until: float) -> bytes:
    """Return the order to forget a server, which counts if the log stores it by `until`, in its epoch seconds."""
    return make_section(FORGET_SECTION, _UNTIL.pack(until) + server.encode())


def iterate_sections(message: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and the body of each section of a message.

    Raises `MalformedError` for what is no message, or where a section is cut off; those before it were yielded.
    Raises `LaterFormatError`.
    """
    if len(message) < 2 or message[0] != ROWS_MESSAGE:
        raise MalformedError(f"a message of rows begins with {message[:1]!r}, expected {ROWS_MESSAGE}")
    check_format(message[1], ROWS_FORMAT_VERSION, "a message of rows")
    view, at = memoryview(message), len(MESSAGE_HEAD)
    while at < len(view):
        if at + _SECTION.size > len(view):
            raise MalformedError(f"the head of a section at byte {at} is cut off")
        kind, size = _SECTION.unpack_from(view, at)
        at += _SECTION.size
        if at + size > len(view):
            raise MalformedError(f"a section at byte {at} should have {size} bytes, and {len(view) - at} are left")
        yield kind, view[at : at + size]
        at += size


# ---------------------------------------------------------------- rows
def encode_names(names: Sequence[str]) -> bytes:
    """Return names as bytes, the same for the same names."""
    return _encode_names(names if isinstance(names, list) else list(names))


def encode_rows(
    encoded_names: bytes,
    times: float | Float64,
    values: Float32,
    *,
    places: Slots | None = None,
    statuses: Statuses | None = None,
    may_evict: bool = False,
) -> bytes:
    """Return rows `(n, features)` as a section; `times` is one for all of them, or `(n,)`."""
    count, features = values.shape
    flags = (
        (_MAY_EVICT if may_evict else 0)
        | (_IS_IDENTITY if places is None else 0)
        | (_ONE_TIME if isinstance(times, float) else 0)
        | (0 if statuses is None else _HAS_STATUSES)
    )
    packed_times = struct.pack("<d", times) if isinstance(times, float) else times.astype("<f8").tobytes()
    body = b"".join(
        (
            _ROWS.pack(flags, features, count, len(encoded_names)),
            encoded_names,
            packed_times,
            b"" if places is None else places.astype("<u4").tobytes(),
            b"" if statuses is None else statuses.tobytes(),
            values.astype("<f4", copy=False).tobytes(),
        )
    )
    return make_section(ROWS_SECTION, body)


def count_rows_of_section(features: int) -> int:
    """Return how many rows of so many features surely fit into a section, with names of the longest size."""
    return max(MAX_SECTION_BYTES // (4 * features + 280), 1)


class RowDecoder:
    """Decodes sections of rows; equal lists of names are the same object, at which others remember what they know."""

    def __init__(self, features: int) -> None:
        self._features = features
        self._lists: dict[bytes, NameList] = {}
        self._remembered_bytes = 0

    def decode(self, body: memoryview) -> LoggedRows:
        """Return the rows of a section; raises `MalformedError` if the bytes are not one."""
        if len(body) < _ROWS.size:
            raise MalformedError(f"a section of rows has {len(body)} bytes, expected at least {_ROWS.size}")
        flags, features, count, name_bytes = _ROWS.unpack_from(body)
        if features != self._features:
            raise MalformedError(f"rows have {features} features, expected {self._features}")
        sizes = (
            name_bytes,
            8 if flags & _ONE_TIME else 8 * count,
            0 if flags & _IS_IDENTITY else 4 * count,
            count if flags & _HAS_STATUSES else 0,
            4 * count * features,
        )
        if _ROWS.size + sum(sizes) != len(body):
            raise MalformedError(f"{count} rows take {_ROWS.size + sum(sizes)} bytes, and the section has {len(body)}")
        parts, at = [], _ROWS.size
        for size in sizes:
            parts.append(bytes(body[at : at + size]))
            at += size
        names = self._recall(parts[0])
        times = np.frombuffer(parts[1], "<f8")
        return LoggedRows(
            names=names,
            times=_check_times(np.full(count, times[0]) if flags & _ONE_TIME else times),
            places=_check_places(None if flags & _IS_IDENTITY else parts[2], count, len(names)),
            statuses=_check_statuses(parts[3]) if flags & _HAS_STATUSES else None,
            values=np.frombuffer(parts[4], "<f4").reshape(count, features),
            may_evict=bool(flags & _MAY_EVICT),
        )

    def _recall(self, encoded: bytes) -> NameList:
        known = self._lists.get(encoded)
        if known is None:
            known = NameList(decode_names(encoded))
            if self._remembered_bytes > MAX_REMEMBERED_BYTES:
                self._lists.clear()
                self._remembered_bytes = 0
            self._lists[encoded] = known
            self._remembered_bytes += len(encoded)
        return known


def decode_names(encoded: bytes) -> list[str]:
    """Return what `encode_names` encoded; raises `MalformedError` if one is no server's name."""
    try:
        names = _names_decoder.decode(encoded)
        for name in names:
            check_server_name(name)
    except (msgspec.MsgspecError, UnicodeDecodeError, InvalidServerError) as exc:
        raise MalformedError(f"the names of servers are unreadable: {exc}") from exc
    return names


def decode_forget(body: memoryview) -> tuple[str, float]:
    """Return the server that is to be forgotten, and until when the order counts; raises `MalformedError`."""
    if len(body) < _UNTIL.size:
        raise MalformedError(f"an order to forget a server has {len(body)} bytes, expected {_UNTIL.size} and a name")
    (until,) = _UNTIL.unpack_from(body)
    if math.isnan(until):
        raise MalformedError("the time until which an order to forget a server counts is no number")
    try:
        server = bytes(body[_UNTIL.size :]).decode()
        check_server_name(server)
    except (UnicodeDecodeError, InvalidServerError) as exc:
        raise MalformedError(f"the name of a server to forget is unreadable: {exc}") from exc
    return server, until


def _check_times(times: Float64) -> Float64:
    if not ((times >= 0) & (times <= LAST_SECOND)).all():
        raise MalformedError(f"a time is no number of seconds from 0 to {LAST_SECOND:g}")
    return times


def _check_places(encoded: bytes | None, count: int, names: int) -> Slots | None:
    if encoded is None:
        if count != names:
            raise MalformedError(f"there are {count} rows of {names} names, expected one of each")
        return None
    places = np.frombuffer(encoded, "<u4").astype(np.int64)
    if count and int(places.max()) >= names:
        raise MalformedError(f"a row is of name {int(places.max())}, and there are {names}")
    return places


def _check_statuses(encoded: bytes) -> Statuses:
    statuses = np.frombuffer(encoded, np.uint8)
    if not ((statuses <= MAX_STATUS) | (statuses == NO_ROW_STATUS)).all():
        raise MalformedError(f"a status is beyond {MAX_STATUS}")
    return statuses
