"""Tests `streamd/http/message_types.py`: the type of a message, whatever else is in it."""

import pytest

from streamd.http.message_types import read_message_type
from streamd.http.wire.codecs import Encoding, encode


@pytest.mark.parametrize("encoding", Encoding)
def test_the_type_of_a_message_is_read(encoding: Encoding) -> None:
    assert read_message_type(encode({"type": "subscribe-fleet", "limit": "x"}, encoding), encoding) == "subscribe-fleet"
    assert read_message_type(encode({"servers": []}, encoding), encoding) == ""


def test_what_is_no_message_has_no_type() -> None:
    for data in ("", "[]", '{"type": 1}', '{"type": "a"'):
        assert read_message_type(data, Encoding.JSON) == ""
    assert read_message_type(b"\xc1", Encoding.MSGPACK) == ""
