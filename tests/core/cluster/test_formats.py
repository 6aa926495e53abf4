"""Tests `streamd/core/cluster/formats.py`, and that each decoder of the logs tells a later format from damage."""

from collections.abc import Callable

import pytest

from streamd.core.cluster.forecast_batches import OwnerMarker, decode_chain_message, encode_chain_message
from streamd.core.cluster.formats import LATER_FORMATS, LaterFormatError, check_format
from streamd.core.cluster.row_batches import iterate_sections, make_rows_message
from streamd.core.cluster.window_batches import SNAPSHOT_KIND, read_head
from streamd.core.errors import MalformedError

MARKER = encode_chain_message(OwnerMarker(fence=1, number=0, node="a"))
ROWS = make_rows_message([])


def test_a_later_format_is_told_apart_from_one_that_does_not_exist() -> None:
    check_format(2, 2, "a row")
    with pytest.raises(LaterFormatError, match="a row is of format 3, which a later release writes; this one reads 2"):
        check_format(3, 2, "a row")
    for found in (1, 2 + LATER_FORMATS + 1):
        with pytest.raises(MalformedError, match=f"a row is of format {found}, expected 2"):
            check_format(found, 2, "a row")


@pytest.mark.parametrize(
    ("data", "decode"),
    [
        (MARKER, lambda data: decode_chain_message(data, (1, 1, 1))),
        (ROWS, lambda data: list(iterate_sections(data))),
        (bytes((SNAPSHOT_KIND, 1)) + bytes(20), read_head),
    ],
    ids=["chain", "rows", "snapshot"],
)
def test_the_second_byte_of_what_is_in_the_logs_is_the_format(data: bytes, decode: Callable[[bytes], object]) -> None:
    with pytest.raises(LaterFormatError):
        decode(data[:1] + bytes((data[1] + 1,)) + data[2:])
    with pytest.raises(MalformedError):
        decode(data[:1] + b"\0" + data[2:])
