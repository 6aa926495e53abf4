"""The messages between the processes of one daemon, in MessagePack.

Arrays travel as their bytes, in the byte order of this machine: no message leaves it.
"""

from typing import Any

import msgspec
import numpy as np

from streamd.core.arrays import Slots
from streamd.core.state.samples import Sample, Time


class _Message(msgspec.Struct, tag=True, array_like=True):
    pass


# ---------------------------------------------------------------- a worker to the engine
class Hello(_Message):
    """A worker has started and waits for a `Welcome`; `run` counts its starts."""

    run: int


class DueReport(_Message):
    """Rows closed, and their servers became due: `slots` and the number of `rows` of each, both int64."""

    slots: bytes
    rows: bytes


class Admit(_Message):
    """A worker asks for slots for new servers that it owns; `Admitted` answers."""

    number: int
    servers: list[str]
    wall: float
    may_evict: bool


class Rewound(_Message):
    """A worker dropped the rows of a server after a step, because they were ahead of the clock."""

    slot: int
    last_step: int


# ---------------------------------------------------------------- the engine to a worker
class Welcome(_Message):
    """The state is open: the contract by its fields, the identifiers of its files, and the version that serves.

    `run` counts the starts of the engine process, and `last_serial` is the highest serial on the board.
    """

    run: int
    last_serial: int
    contract: dict[str, Any]
    windows_file: str
    board_file: str
    model: str
    is_draining: bool


class Placed(_Message):
    """A server got a slot; of interest to every worker."""

    slot: int
    generation: int
    server: str


class Removed(_Message):
    """A slot has no server any more."""

    slot: int


class Admitted(_Message):
    """The answer to `Admit`: for each server its slot, or the code and the text of an error."""

    number: int
    slots: list[int]
    errors: list[tuple[str, str] | None]


class Release(_Message):
    """The owner of a slot must write it no more, since its server is to be forgotten; `Confirmed` answers."""

    number: int
    slot: int


class Posted(_Message):
    """Forecasts of these slots, int64, are on the board; `last_serial` is the highest serial there."""

    slots: bytes
    last_serial: int


class Rewind(_Message):
    """The owner of a slot is to drop the rows of its server after a step, which are ahead of the clock."""

    slot: int
    last_step: int


class Serving(_Message):
    """The name of the version that serves now."""

    model: str


class Storage(_Message):
    """The reason why nothing may be written; empty if it may be again."""

    problem: str


class WriteRows(_Message):
    """Rows whose steps are over, from the points of other agents, for the owner of their slots; `Confirmed` answers."""

    number: int
    rows: list[tuple[int, int, int, bytes, int, int]]
    """Slot, generation, step, values (float32), mask, status (-1: none)."""


class AskCounts(_Message):
    """The engine asks a worker for its metrics; `Counts` answers."""

    number: int


class Counts(_Message):
    """The metrics of a worker, as text, and what its status has."""

    number: int
    metrics: bytes
    status: dict[str, Any]


# ---------------------------------------------------------------- a worker to another one
class Here(_Message):
    """A worker takes what others hand on; with `asks`, the other one answers the same if it does so too.

    `run` counts the starts of the sender.
    """

    run: int
    asks: bool


class HandOn(_Message):
    """Samples of servers that another worker owns, with the index of each in its body; `Taken` answers.

    The sender has checked that the caller may write the servers, and says whether it may evict others.
    """

    number: int
    indexes: list[int]
    samples: list[Sample]
    may_evict: bool


class HandOnFrame(_Message):
    """Rows of a frame of columns, as `HandOn`; `values (rows, features)` are of the type `dtype`.

    `servers` are their names in MessagePack, the same bytes for the same names.
    """

    number: int
    indexes: bytes
    servers: bytes
    features: list[str]
    times: Time | list[Time]
    values: bytes
    dtype: str
    may_evict: bool


class HandOnSingles(_Message):
    """Samples of single frames, as `HandOn`, with all their values in cells of the features; `TakenSingles` answers."""

    number: int
    samples: bytes
    may_evict: bool


class TakenSingles(_Message):
    """The answer to `HandOnSingles`: the place, code and text of each error; the others were accepted."""

    number: int
    errors: list[tuple[int, str, str]]


class HandOnRows(_Message):
    """Usual rows of samples of single frames, in the order in which they came; `TakenRows` answers.

    The sender has checked their times and that their callers may write the servers. A slot is that of the server
    whose name has the checksum.
    """

    number: int
    slots: bytes
    """int64"""
    checks: bytes
    """uint32: the checksums of the names"""
    times: bytes
    """float64: epoch seconds"""
    rows: bytes
    """float32 (rows, features)"""
    masks: dict[int, int]
    """By place: the features that a row has, if it has not all."""
    statuses: dict[int, int]
    """By place."""


class TakenRows(_Message):
    """The answer to `HandOnRows`: the places of rows that were not written, and must be taken by their names."""

    number: int
    others: list[int]


class Taken(_Message):
    """The answer to `HandOn`: how many rows were accepted and rejected, and the errors as in an answer to the body."""

    number: int
    accepted: int
    rejected: int
    errors: list[dict[str, Any]]


class Failed(_Message):
    """The answer to any request that could not be handled at all: the code and the text of the error."""

    number: int
    code: str
    text: str


class Confirmed(_Message):
    """The answer to a request that has no result."""

    number: int


Message = (
    Hello | DueReport | Admit | Rewound | Welcome | Placed | Removed | Rewind | Admitted | Release | Posted | Serving
    | Storage | WriteRows | AskCounts | Counts | Here | HandOn | HandOnFrame | HandOnSingles | TakenSingles
    | HandOnRows | TakenRows | Taken | Failed | Confirmed
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """Return a message as bytes."""
    return _encoder.encode(message)


def decode_message(data: bytes) -> Message:
    """Return the message that `encode_message` made into bytes."""
    return _decoder.decode(data)


def pack_slots(slots: Slots) -> bytes:
    """Return the bytes of an array of slots."""
    return np.ascontiguousarray(slots, np.int64).tobytes()


def unpack_slots(data: bytes) -> Slots:
    """Return an array of slots; it must not be changed."""
    return np.frombuffer(data, np.int64)
