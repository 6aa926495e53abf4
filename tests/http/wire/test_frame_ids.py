"""Tests `streamd/http/wire/frame_ids.py`: a frame with an id is the frame itself with one field more."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from streamd.http.wire.codecs import Encoding, encode
from streamd.http.wire.frame_ids import add_frame_id

messages = st.dictionaries(
    st.text(max_size=5).filter(lambda name: name != "id"), st.integers(-(2**63), 2**63), min_size=1, max_size=20
)
identifiers = st.integers(0, 2**53)


@given(messages, identifiers)
def test_the_id_is_the_last_field_of_json(message: dict[str, int], identifier: int) -> None:
    framed = add_frame_id(encode(message, Encoding.JSON), identifier, Encoding.JSON)
    assert list(json.loads(framed).items()) == [*message.items(), ("id", identifier)]


@given(messages, identifiers)
def test_the_id_is_the_last_field_of_messagepack(message: dict[str, int], identifier: int) -> None:
    framed = add_frame_id(memoryview(msgspec.msgpack.encode(message)), identifier, Encoding.MSGPACK)
    assert list(msgspec.msgpack.decode(framed).items()) == [*message.items(), ("id", identifier)]
