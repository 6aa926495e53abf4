"""The shapes of the bodies and frames that agents send, and their limits.

There are five shapes of one body, because decoding straight into the final types is fastest, but fails as a whole:

- `Body` holds either `Sample`s or one `ColumnsBody`. A small body is decoded so first; if all is valid, nothing else is
  tried.
- `LooseBody` and `LooseColumns` are the same two, with each sample, or each cell of `servers`, `time` and `values`,
  left as bytes (`msgspec.Raw`). They are decoded if `Body` fails, and always if the body is large. Then the samples are
  decoded in groups while they are taken, and those of a group that fails one by one. So one bad sample costs only
  itself, and a large body neither blocks the event loop nor is ever decoded as a whole.
"""

from collections.abc import Generator
from typing import Annotated, TypeVar

import msgspec

from streamd.core.errors import (
    InvalidInputError,
    InvalidSampleError,
    InvalidServerError,
    InvalidTimeError,
    InvalidValueError,
)
from streamd.core.state.samples import MAX_SAMPLE_VALUES, Sample, Time
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.tensors import WireTensor

T = TypeVar("T")

DecodingSteps = Generator[None, None, T]
"""Work that is done in steps, between which the event loop may run; it returns the result."""

MAX_DECODED_SAMPLES = 100_000
"""Samples, or rows of columns, in one body: it takes a few bytes to send one and 4 µs to reject it."""

MAX_DECODED_VALUES = 1_000_000
"""Cells of columns in one body, and commas in a large one of JSON: to find the end of each takes 0.06 µs at once."""

GROUP_SAMPLES = 250
"""Samples that are decoded together."""

GROUP_BYTES = 2**18
"""The samples of a group that is larger are decoded one by one."""

EXPECTED_SAMPLE_TIME = "; expected epoch seconds as a number, or RFC 3339 with an offset"
"""What the error of a time that cannot be decoded ends with."""

FIELD_ERRORS: dict[str, type[InvalidInputError]] = {
    "server": InvalidServerError,
    "time": InvalidTimeError,
    "values": InvalidValueError,
    "status": InvalidSampleError,
}
"""The error of each field of a sample that cannot be decoded."""

_Bounded = msgspec.Meta(max_length=MAX_DECODED_SAMPLES)

Identifier = str | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | None
"""The id of a frame, returned in its ack. An integer has at most 64 bits, since the JSON encoder takes no larger."""

Row = list[float | None]
"""The values of one server at one time, in the order of `features`; `None` is a missing value."""


class ColumnsBody(msgspec.Struct):
    """Rows of many servers: `values[row][feature]` for `servers[row]` at `time` (one for all, or one a row)."""

    servers: list[str]
    time: Time | list[Time]
    features: list[str]
    values: list[Row] | WireTensor


class Body(msgspec.Struct):
    """A body of `POST /v1/samples`, or a frame of `/v1/ingest`."""

    samples: list[Sample] | None = None
    columns: ColumnsBody | None = None
    id: Identifier = None


class LooseColumns(msgspec.Struct):
    """`ColumnsBody` with the cells of `servers`, `time` and `values` left as bytes."""

    servers: Annotated[list[msgspec.Raw], _Bounded]
    time: msgspec.Raw
    features: Annotated[list[str], msgspec.Meta(max_length=MAX_SAMPLE_VALUES)]
    values: Annotated[list[msgspec.Raw], _Bounded] | WireTensor


class LooseBody(msgspec.Struct):
    """`Body` with its samples left as bytes."""

    samples: Annotated[list[msgspec.Raw], _Bounded] | None = None
    columns: LooseColumns | None = None
    id: Identifier = None


def has_too_many_values(data: bytes, encoding: Encoding) -> bool:
    """Whether a large sample or row of JSON has too many values; MessagePack states their number first."""
    return encoding is Encoding.JSON and len(data) > GROUP_BYTES and data.count(b",") > MAX_SAMPLE_VALUES + 16
