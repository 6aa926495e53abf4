"""Tests `streamd/protocols/prometheus/labels.py`: labels in any order become one series; each fault is named."""

import pytest

from streamd.core.errors import InvalidSampleError
from streamd.core.mapping.series import SourceSeries
from streamd.protocols.prometheus.labels import MAX_LABEL_BYTES, MAX_SERIES_LABELS, build_series

NAME = (b"__name__", b"up")


def test_the_order_of_labels_does_not_matter() -> None:
    pairs = [(b"b", b"2"), NAME, (b"a", "é".encode()), (b"empty", b"")]
    for each in (pairs, pairs[::-1]):
        assert build_series(each) == SourceSeries("up", {"a": "é", "b": "2"})


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(b"a", b"1")], "the label __name__ is missing or empty, expected the name of the metric"),
        ([(b"__name__", b"")], "the label __name__ is missing or empty, expected the name of the metric"),
        ([NAME, (b"", b"1")], "a label has no name"),
        ([NAME, (b"", b"")], "a label has no name"),
        ([NAME, (b"a", b""), (b"a", b"1")], "the label 'a' is repeated"),
        ([NAME, (b"a", b"\xff")], r"the label 'a'='\\xff' is not UTF-8"),
        ([NAME, (b"\xc3\x28", b"1")], r"the label '\\xc3('='1' is not UTF-8"),
        ([NAME, (b"n" * 1_025, b"1")], "the name of a label has 1025 bytes, at most 1024 are taken"),
        ([NAME, (b"n" * 99, b"v" * 9_999)], f"the label '{'n' * 64}' has 9999 bytes, at most 1024 are taken"),
        ([NAME] * (MAX_SERIES_LABELS + 1), "66 labels, at most 65 are taken, __name__ included"),
    ],
)
def test_a_fault_is_named(pairs: list[tuple[bytes, bytes]], expected: str) -> None:
    with pytest.raises(InvalidSampleError) as raised:
        build_series(pairs)
    assert str(raised.value) == expected


def test_as_many_and_as_long_labels_as_are_taken() -> None:
    longest = b"v" * MAX_LABEL_BYTES
    pairs = [NAME, *((b"%d" % number, longest) for number in range(MAX_SERIES_LABELS - 1))]
    assert len(build_series(pairs).labels) == MAX_SERIES_LABELS - 1
