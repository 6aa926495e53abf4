"""Tests `streamd/http/wire/column_rows.py`: rows of tensors. All other columns are in `test_bodies.py`."""

from typing import Any

import msgspec
import numpy as np
import pytest

from streamd.core.errors import MalformedError
from streamd.http.body_turns import LARGE_BODY_BYTES
from streamd.http.wire.bodies import decode_body
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.tensors import make_wire_tensor


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_the_rows_of_a_large_tensor_are_read(dtype: str) -> None:
    rows = LARGE_BODY_BYTES // 8 + 5
    values = np.arange(rows * 8).reshape(rows, 8).astype(dtype)
    given = {
        "servers": [f"s{row}" for row in range(rows)],
        "time": list(range(rows)),
        "features": list("abcdefgh"),
        "values": make_wire_tensor(values),
    }
    data = msgspec.msgpack.encode({"columns": given})
    assert len(data) > LARGE_BODY_BYTES
    _, samples = decode_body(data, Encoding.MSGPACK)
    last: Any = list(samples)[-1][1]
    assert (last.server, last.time) == (f"s{rows - 1}", rows - 1)
    assert list(last.values.values()) == values[-1].tolist()


def test_a_tensor_of_many_rows_without_columns_is_not_unfolded() -> None:
    given = {
        "servers": [],
        "time": 1,
        "features": [],
        "values": {"shape": [2 * 10**9, 0], "dtype": "uint8", "data": b""},
    }
    with pytest.raises(MalformedError, match="2000000000 rows"):
        decode_body(msgspec.msgpack.encode({"columns": given}), Encoding.MSGPACK)
