"""Tests `streamd/http/wire/list_counts.py`: the counts are those of the decoded JSON, wherever its pieces are cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.http.wire import list_counts
from streamd.http.wire.list_counts import ListCounts, count_commas_of_lists

TEXTS = st.text('{}[],"\\u:aé\n', max_size=5)
VALUES = st.recursive(
    st.one_of(st.integers(0, 9), st.none(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=30,
)


def count_decoded(value: Any, depth: int = 1) -> ListCounts:
    """Return the counts of decoded JSON."""
    counts = ListCounts()
    if not isinstance(value, list | dict):
        return counts
    commas = max(len(value) - 1, 0)
    counts.commas_at_2 = commas if depth == 2 else 0
    counts.list_commas_at_3 = commas if depth == 3 and isinstance(value, list) else 0
    for each in value.values() if isinstance(value, dict) else value:
        inner = count_decoded(each, depth + 1)
        counts.commas_at_2 += inner.commas_at_2
        counts.list_commas_at_3 += inner.list_commas_at_3
    return counts


def count(data: bytes, piece_bytes: int) -> ListCounts:
    """Return the counts of the whole body, read in pieces of this size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(list_counts, "_PIECE_BYTES", piece_bytes)
        *_, counts = count_commas_of_lists(data)
    return counts


@given(st.dictionaries(TEXTS, VALUES, max_size=4), st.booleans(), st.integers(1, 20).map(lambda half: 2 * half))
def test_the_counts_are_those_of_the_decoded_body(body: dict[str, Any], is_ascii: bool, piece_bytes: int) -> None:
    data = json.dumps(body, ensure_ascii=is_ascii).encode()
    expected, counts = count_decoded(body), count(data, piece_bytes)
    assert (counts.commas_at_2, counts.list_commas_at_3) == (expected.commas_at_2, expected.list_commas_at_3)
    assert (counts.depth, counts.is_in_string) == (0, False)


@given(st.binary(max_size=200) | st.text('{}[],"\\', max_size=60).map(str.encode), st.integers(1, 20))
def test_any_bytes_can_be_counted_and_each_piece_takes_some(data: bytes, half: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(list_counts, "_PIECE_BYTES", 2 * half)
        steps = sum(1 for _ in count_commas_of_lists(data))
    assert steps <= len(data)


def test_a_piece_ends_in_no_escape() -> None:
    data = b'{"a":["' + b"\\" * 60 + b'\\"' + b',{}","' + b'\\\\",1,2]}'
    for piece_bytes in range(2, 40, 2):
        assert count(data, piece_bytes).commas_at_2 == 3, piece_bytes
