"""Windows of some servers as bytes, independent of where and how long a node keeps them: the snapshots of a shard.

Touches the arrays of a window store, and no clock. A snapshot is a head in MessagePack, then columns: of each server
its numbers, of each row its step, mark and values, of each mean of the memory its period, count and values.
"""

import struct
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Float64, Numbers, Slots
from streamd.core.cluster.formats import check_format
from streamd.core.contract import MAX_STATUS
from streamd.core.errors import InvalidServerError, MalformedError
from streamd.core.state.directory import LATEST_SEEN, check_server_name
from streamd.core.state.memory_columns import NO_PERIOD
from streamd.core.state.recovery import derive_memory
from streamd.core.state.seals import compute_seal, compute_seals
from streamd.core.state.window_columns import LAST_STEP, NO_STEP, PRESENT, SEALED_STATUSES, make_step_check
from streamd.core.state.windows import WindowStore

SNAPSHOT_KIND = 2
"""The kind of a message of windows."""

SNAPSHOT_VERSION = 1

MAX_CHUNKS = 100_000
"""A shard has a few servers in each: a million servers in all."""

OWNER_KIND = 3
"""The kind of the marker of a new owner."""

_PREFIX = struct.Struct("<BBI")
_OWNER = struct.Struct("<BBq")
_ServerColumns = (("newest", "<i8"), ("open_step", "<i8"), ("open_status", "u1"), ("last_seen", "<f8"))


class SnapshotHead(msgspec.Struct, array_like=True, kw_only=True):
    """The description of a snapshot, before its windows."""

    chunk: int
    chunks: int
    """The number of chunks that the shard had then."""
    covered: int
    """The last message of rows that is in these windows."""
    time: float
    """The log's time of that message, in epoch seconds."""
    fence: int
    """That of the owner that wrote it: no earlier owner replaces it."""
    features: int
    servers: list[str]
    rows: list[int]
    """The number of rows of each server."""
    means: list[int]
    """The number of means of each server."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded snapshot; `rows` and `means` are those of all servers, one after the other."""

    head: SnapshotHead
    columns: Mapping[str, npt.NDArray[np.generic]]
    open_values: Float32
    steps: Numbers
    marks: npt.NDArray[np.uint8]
    values: Float32
    periods: Numbers
    counts: Numbers
    means: Float32


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SnapshotHead)


def pack_windows(
    store: WindowStore,
    servers: Mapping[str, int],
    last_seen: Float64,
    *,
    chunk: int,
    chunks: int,
    covered: int,
    time: float,
    fence: int,
) -> bytes:
    """Return the windows of some servers, given with their slots, as one snapshot.

    `last_seen (capacity,)` are epoch seconds. The memory must be settled.
    """
    slots = np.fromiter(servers.values(), np.int64, len(servers))
    arrays, length = store.arrays, store.context_length
    newest = arrays["newest"][slots]
    # By age, so that the rows of each server are in order of time.
    steps = newest[:, None] - np.arange(length - 1, -1, -1)
    marks = arrays["marks"][slots[:, None], steps % length]
    is_row = (marks != 0) & (steps >= 0) & (newest != NO_STEP)[:, None]
    which, age = np.nonzero(is_row)
    row_steps = steps[which, age]
    mean_counts, periods, counts, means = _gather_means(store, slots)
    head = SnapshotHead(
        chunk=chunk,
        chunks=chunks,
        covered=covered,
        time=time,
        fence=fence,
        features=store.features,
        servers=list(servers),
        rows=is_row.sum(axis=1).tolist(),
        means=mean_counts,
    )
    encoded = _encoder.encode(head)
    statuses = arrays["open_status"][slots] & MAX_STATUS
    parts = (
        newest.astype("<i8"),
        arrays["open_step"][slots].astype("<i8"),
        statuses.astype("u1"),
        last_seen[slots].astype("<f8"),
        arrays["open_values"][slots].astype("<f4"),
        row_steps.astype("<i8"),
        marks[which, age].astype("u1"),
        arrays["values"][slots[which], row_steps % length].astype("<f4"),
        periods.astype("<i8"),
        counts.astype("<u2"),
        means.astype("<f4"),
    )
    body = b"".join(part.tobytes() for part in parts)
    return _PREFIX.pack(SNAPSHOT_KIND, SNAPSHOT_VERSION, len(encoded)) + encoded + body


def _gather_means(store: WindowStore, slots: Slots) -> tuple[list[int], Numbers, Numbers, Float32]:
    """Return the number of means of each slot, and of each mean its period, count and values."""
    if store.memory is None or not len(slots):
        return [0] * len(slots), np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, store.features), np.float32)
    arrays = store.memory.arrays
    stored = arrays["periods"][slots]
    which, places = np.nonzero(stored != NO_PERIOD)
    at = (slots[which], places)
    counts = np.bincount(which, minlength=len(slots)).tolist()
    return (
        counts,
        arrays["periods"][at].astype(np.int64) - 1,
        arrays["counts"][at].astype(np.int64),
        arrays["means"][at],
    )


def encode_owner(fence: int) -> bytes:
    """Return the marker of an owner among the snapshots."""
    return _OWNER.pack(OWNER_KIND, SNAPSHOT_VERSION, fence)


# ---------------------------------------------------------------- decoding
def decode_owner(data: bytes) -> int:
    """Return the fence of an owner's marker; raises `MalformedError`, `LaterFormatError`."""
    if len(data) != _OWNER.size or data[0] != OWNER_KIND:
        raise MalformedError(f"an owner's marker has {len(data)} bytes, expected {_OWNER.size} of kind {OWNER_KIND}")
    _, version, fence = _OWNER.unpack(data)
    check_format(version, SNAPSHOT_VERSION, "the marker of an owner")
    return int(fence)


def read_head(data: bytes) -> SnapshotHead:
    """Return what a snapshot says of itself; raises `MalformedError` if it is none, `LaterFormatError`."""
    head, _ = _split_head(data)
    return head


def decode_snapshot(data: bytes, features: int) -> Snapshot:
    """Return a snapshot.

    Raises `MalformedError` if the bytes are not one of windows with so many features, `LaterFormatError`.
    """
    head, at = _split_head(data)
    if head.features != features:
        raise MalformedError(f"the windows of a snapshot have {head.features} features, expected {features}")
    servers, rows, means = len(head.servers), sum(head.rows), sum(head.means)
    shapes = (
        *((name, dtype, (servers,)) for name, dtype in _ServerColumns),
        ("open_values", "<f4", (servers, features)),
        ("steps", "<i8", (rows,)),
        ("marks", "u1", (rows,)),
        ("values", "<f4", (rows, features)),
        ("periods", "<i8", (means,)),
        ("counts", "<u2", (means,)),
        ("means", "<f4", (means, features)),
    )
    size = at + sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for _, dtype, shape in shapes)
    if size != len(data):
        raise MalformedError(f"a snapshot of {rows} rows takes {size} bytes, and it has {len(data)}")
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for name, dtype, shape in shapes:
        count = int(np.prod(shape, dtype=np.int64))
        columns[name] = np.frombuffer(data, dtype, count, at).reshape(shape).copy()  # aligned
        at += columns[name].nbytes
    snapshot = Snapshot(
        head=head,
        columns={name: columns[name] for name, _ in _ServerColumns},
        open_values=columns["open_values"].astype(np.float32),
        steps=columns["steps"].astype(np.int64),
        marks=columns["marks"].astype(np.uint8),
        values=columns["values"].astype(np.float32),
        periods=columns["periods"].astype(np.int64),
        counts=columns["counts"].astype(np.int64),
        means=columns["means"].astype(np.float32),
    )
    _check_numbers(snapshot)
    return snapshot


def _split_head(data: bytes) -> tuple[SnapshotHead, int]:
    """Return the head, and where the columns begin."""
    if len(data) < _PREFIX.size:
        raise MalformedError(f"a snapshot has {len(data)} bytes, expected at least {_PREFIX.size}")
    kind, version, size = _PREFIX.unpack_from(data)
    if kind != SNAPSHOT_KIND:
        raise MalformedError(f"a snapshot is of kind {kind}, expected {SNAPSHOT_KIND}")
    check_format(version, SNAPSHOT_VERSION, "a snapshot")
    end = _PREFIX.size + size
    try:
        head = _decoder.decode(data[_PREFIX.size : end])
        for server in head.servers:
            check_server_name(server)
    except (msgspec.MsgspecError, UnicodeDecodeError, InvalidServerError) as exc:
        raise MalformedError(f"the head of a snapshot is unreadable: {exc}") from exc
    if head.chunks > MAX_CHUNKS:
        raise MalformedError(f"a snapshot is of {head.chunks} chunks, expected at most {MAX_CHUNKS}")
    lengths = {len(head.servers), len(head.rows), len(head.means)}
    if len(lengths) > 1 or min([0, *head.rows, *head.means]) < 0 or not 0 <= head.chunk < max(head.chunks, 1):
        raise MalformedError(f"the head of the snapshot of chunk {head.chunk} of {head.chunks} does not fit together")
    return head, end


def _check_numbers(snapshot: Snapshot) -> None:
    newest, open_step = snapshot.columns["newest"], snapshot.columns["open_step"]
    last_seen, statuses = snapshot.columns["last_seen"], snapshot.columns["open_status"]
    of_row = np.repeat(np.asarray(newest), snapshot.head.rows)
    is_good = (
        _are_steps(newest)
        and _are_steps(open_step)
        and bool(((snapshot.steps >= 0) & (snapshot.steps <= of_row)).all())
        and bool(((snapshot.marks & ~np.uint8(PRESENT | MAX_STATUS)) == 0).all())
        and bool((np.asarray(statuses) <= MAX_STATUS).all())
        and bool((np.isfinite(last_seen) & (np.asarray(last_seen) >= 0) & (np.asarray(last_seen) <= LATEST_SEEN)).all())
        and bool(((snapshot.periods >= 0) & (snapshot.periods < 2**32 - 1)).all())
    )
    if not is_good:
        raise MalformedError(f"the snapshot of chunk {snapshot.head.chunk} has a step, mark or time that cannot be")


def _are_steps(steps: npt.NDArray[np.generic]) -> bool:
    numbers = np.asarray(steps)
    return bool(((numbers >= NO_STEP) & (numbers <= LAST_STEP)).all())


# ---------------------------------------------------------------- restoring
_LEFT_OUT = -1
"""In place of the slot of a server that gets none."""


def restore_windows(store: WindowStore, snapshot: Snapshot, slots: Sequence[int | None], now: float) -> None:
    """Write the windows of a snapshot to the slots of its servers, which must be empty; `None` leaves one out.

    The grace of open rows begins at `now` (monotonic seconds). A shorter window keeps the newest rows.
    """
    at = np.array([_LEFT_OUT if slot is None else slot for slot in slots], np.int64)
    given = np.flatnonzero(at != _LEFT_OUT)
    restored: list[int] = at[given].tolist()
    for slot in restored:
        store.begin_change(slot)
    # All servers at once: a few large array operations take a third of the time of many small ones.
    _restore_rows(store, snapshot, at)
    _restore_means(store, snapshot, at)
    for place in given.tolist():
        _restore_open_row(store, snapshot, place, int(at[place]))
    derive_memory(store, restored, now)


def _restore_rows(store: WindowStore, snapshot: Snapshot, at: Slots) -> None:
    arrays, length = store.arrays, store.context_length
    given, newest = at != _LEFT_OUT, np.asarray(snapshot.columns["newest"]).astype(np.int64)
    which = np.repeat(np.arange(len(at)), snapshot.head.rows)
    steps, marks, values = snapshot.steps, snapshot.marks, snapshot.values
    kept = given[which] & (steps > newest[which] - length)
    if not kept.all():
        which, steps, marks, values = which[kept], steps[kept], marks[kept], np.ascontiguousarray(values[kept])
    slots, places = at[which], steps % length
    arrays["values"][slots, places] = values
    arrays["marks"][slots, places] = marks
    if len(steps):
        seeds = store.seeds[slots].astype(np.int64)
        arrays["seals"][slots, places] = compute_seals(values.view(np.uint32), seeds, steps, marks.astype(np.int64))
    arrays["newest"][at[given]] = newest[given]
    arrays["newest_check"][at[given]] = make_step_check(newest[given])


def _restore_open_row(store: WindowStore, snapshot: Snapshot, place: int, slot: int) -> None:
    arrays, open_step = store.arrays, int(snapshot.columns["open_step"][place])
    if open_step <= int(snapshot.columns["newest"][place]):
        return
    status = SEALED_STATUSES[int(snapshot.columns["open_status"][place])]
    arrays["open_values"][slot] = snapshot.open_values[place]
    arrays["open_status"][slot] = status
    arrays["open_check"][slot] = make_step_check(open_step)
    arrays["open_step"][slot] = open_step
    data = arrays["open_values"][slot].tobytes()
    arrays["open_seal"][slot] = compute_seal(data, int(store.seeds[slot]), open_step, status)


def _restore_means(store: WindowStore, snapshot: Snapshot, at: Slots) -> None:
    memory, periods = store.memory, snapshot.periods
    if memory is None or not len(periods):
        return
    which = np.repeat(np.arange(len(at)), snapshot.head.means)
    latest = np.full(len(at), NO_STEP)
    np.maximum.at(latest, which, periods)
    # The newest ones, if this node keeps fewer: of two with the same place, the later one.
    kept = (at[which] != _LEFT_OUT) & (periods > latest[which] - memory.arrays["periods"].shape[1])
    if kept.any():
        means = np.ascontiguousarray(snapshot.means[kept])
        memory.store_means(at[which[kept]], periods[kept], means, snapshot.counts[kept])
