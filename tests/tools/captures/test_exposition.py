"""Tests `streamd/tools/captures/exposition.py`: an exporter's answer to a scrape becomes points."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import MalformedError
from streamd.tools.captures.exposition import SLICE_SCRAPE_LINES, decode_exposition, is_exposition
from tests.support.recording_sink import RecordingSink


def decode(text: str) -> RecordingSink:
    sink = RecordingSink()
    for _ in decode_exposition(text.encode("utf-8", "surrogatepass"), sink, "web-01:9100", 50.0):
        pass
    return sink


def test_samples_have_their_labels_and_the_instance_and_time_of_the_scrape() -> None:
    sink = decode('# HELP a Text.\n# TYPE a counter\na{mode="user",cpu="0"} 1.5e3\n\nb 2\nc{} +0.5 12345\n')
    assert [(series.name, series.labels, time, value) for series, time, value in sink.points] == [
        ("a", {"instance": "web-01:9100", "mode": "user", "cpu": "0"}, 50.0, 1500.0),
        ("b", {"instance": "web-01:9100"}, 50.0, 2.0),
        ("c", {"instance": "web-01:9100"}, 12.345, 0.5),
    ]


def test_label_values_may_hold_anything_with_escapes() -> None:
    (point,) = decode(r'a{x="q\"}, \\ \n{",instance="other",} 1').points
    assert point[0].labels == {"instance": "other", "x": 'q"}, \\ \n{'}


def test_nan_is_missing_and_what_cannot_be_read_is_rejected_alone() -> None:
    sink = decode('a NaN\nb +Inf\nc{x=1} 2\nd 1_0\ne\nf 1 2 3\ng 7\nh{y="1" 3')
    assert [series.name for series, _, _ in sink.points] == ["g"]
    assert sink.skipped == {"missing value": 1}
    assert [str(error).partition(":")[0] for error in sink.rejected] == [f"line {n}" for n in (2, 3, 4, 5, 6, 8)]
    assert "expected a finite number" in str(sink.rejected[0])
    assert "expected labels like" in str(sink.rejected[1])


def test_a_text_without_any_sample_is_malformed() -> None:
    for text in ("", "# HELP a Text.\n", "no sample\n"):
        with pytest.raises(MalformedError, match="no line is a sample"):
            decode(text)


def test_the_reader_gives_way_after_each_slice() -> None:
    body = b"a 1\n" * (3 * SLICE_SCRAPE_LINES)
    assert len(list(decode_exposition(body, RecordingSink(), "a", 0.0))) == 3


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("a 1", True),
        ("\n# TYPE a gauge", True),
        ('a{b="c"} NaN 1', True),
        ("a x=1", False),
        ("a,b=c d=1", False),
        ("", False),
    ],
)
def test_the_text_format_is_recognised(text: str, is_one: bool) -> None:
    assert is_exposition(text) is is_one


@given(st.text(st.sampled_from('ab{}="\\,. \n#1NaN\t'), max_size=40))
def test_any_text_is_read_or_malformed(text: str) -> None:
    with suppress(MalformedError):
        decode(text)
