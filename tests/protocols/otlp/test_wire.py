"""Tests `streamd/protocols/otlp/wire.py`: the fields of messages, compared with the official library."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from streamd.core.errors import MalformedError
from streamd.protocols.otlp.wire import FIXED64, VARINT, make_tag, read_varint, walk_fields


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_integer_is_read_as_it_was_written(value: int) -> None:
    data = AnyValue(int_value=value).SerializeToString()
    [(tag, begin, end)] = walk_fields(data, 0, len(data))
    assert tag == make_tag(AnyValue.INT_VALUE_FIELD_NUMBER, VARINT)
    assert read_varint(data, begin, end) == (value % 2**64, end)


@given(st.integers(0, 2**64 - 1), st.floats(allow_nan=False), st.integers(0, 2**32 - 1))
def test_the_fields_of_a_point(time: int, value: float, flags: int) -> None:
    data = NumberDataPoint(time_unix_nano=time or 1, as_double=value, flags=flags or 1).SerializeToString()
    fields = {tag: data[begin:end] for tag, begin, end in walk_fields(b"xx" + data + b"yy", 2, len(data) + 2)}
    assert list(fields) == [
        make_tag(NumberDataPoint.TIME_UNIX_NANO_FIELD_NUMBER, FIXED64),
        make_tag(NumberDataPoint.AS_DOUBLE_FIELD_NUMBER, FIXED64),
        make_tag(NumberDataPoint.FLAGS_FIELD_NUMBER, VARINT),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a", "expected an integer"),
        (b"\x0a\x05abc", "ends within this field"),
        (b"\x09abc", "ends within this field"),
        (b"\x0d", "ends within this field"),
        (b"\x08\xff", "expected an integer"),
        (b"\x08" + b"\xff" * 11, "expected an integer"),
        (b"\x0b", "no wire type"),
        (b"\x02\x00", "no field number"),
        (b"\xff\xff\xff\xff\xff\xff\x01", "no field number"),
    ],
)
def test_what_is_no_message(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        list(walk_fields(data, 0, len(data)))
