"""Tests `streamd/protocols/prometheus/series_encoding.py`: the project's decoder, and a naive one, read it back."""

import cramjam
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.protocols.prometheus.remote_write import decode_remote_write
from streamd.protocols.prometheus.series_encoding import (
    TIME_LIMIT_MS,
    encode_label,
    encode_request,
    encode_samples,
    encode_series,
)
from tests.support.recording_sink import RecordingSink
from tests.support.remote_write_bodies import read_request_1

SAMPLES = st.tuples(
    st.one_of(st.integers(0, TIME_LIMIT_MS - 1), st.sampled_from([0, 127, 128, 2**35 - 1, 2**35, TIME_LIMIT_MS - 1])),
    st.floats(-9e29, 9e29),
)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)


@given(st.lists(st.tuples(TEXTS, st.lists(SAMPLES, min_size=1, max_size=5)), max_size=4))
def test_what_is_encoded_is_read_back(series: list[tuple[str, list[tuple[int, float]]]]) -> None:
    encoded = []
    for server, samples in series:
        times, values = (np.array(column) for column in zip(*samples, strict=True))
        labels = [encode_label("__name__", "m"), encode_label("server", server)]
        encoded.append(encode_series(labels, encode_samples(times.astype(np.int64), values).tobytes()))
    body = bytes(cramjam.snappy.decompress_raw(encode_request(encoded)))
    expected = [([("__name__", "m"), ("server", server)], samples) for server, samples in series]
    assert read_request_1(body) == expected
    sink = RecordingSink()
    for _ in decode_remote_write(body, sink):
        pass
    assert not sink.rejected
    assert [(each.labels["server"], time, value) for each, time, value in sink.points] == [
        (server, time / 1_000, value) for server, samples in series for time, value in samples
    ]


def test_samples_of_many_series_share_their_times() -> None:
    samples = encode_samples(np.array([1_000, 2_000], np.int64), np.array([[1.0, 2.0], [3.0, 4.0]]))
    rows = [encode_series([encode_label("__name__", str(row))], samples[row].tobytes()) for row in range(2)]
    read = read_request_1(bytes(cramjam.snappy.decompress_raw(encode_request(rows))))
    assert [samples for _, samples in read] == [[(1_000, 1.0), (2_000, 2.0)], [(1_000, 3.0), (2_000, 4.0)]]
