"""Tests `streamd/tools/captures/dump_requests.py`: samples of a dump as remote write 2.0, bounded in size."""

from pathlib import Path

import cramjam
import pytest

from streamd.protocols.prometheus.remote_write import RemoteWriteMessage, decode_remote_write
from streamd.tools.captures import dump_requests as module
from streamd.tools.captures.dump_requests import make_dump_requests
from streamd.tools.captures.dump_samples import DumpSamples
from streamd.tools.captures.requests import CapturedRequest
from streamd.tools.captures.sources import read_dump
from tests.support.recording_sink import RecordingSink
from tests.support.remote_write_bodies import read_request_2

STEP_SECONDS = 60


def make(text: str) -> list[CapturedRequest]:
    kept = DumpSamples()
    for _ in read_dump(Path("dump"), text.encode().splitlines(), kept):
        pass
    kept.finish()
    requests = list(make_dump_requests(kept, "dump", STEP_SECONDS))
    kept.close()
    return requests


def unpack(request: CapturedRequest) -> bytes:
    return bytes(cramjam.snappy.decompress_raw(request.body))


def make_line(name: str, time_ms: int, value: float = 1.0, **labels: str) -> str:
    pairs = "".join(f', {label}="{text}"' for label, text in labels.items())
    return f'{{__name__="{name}"{pairs}}} {value:g} {time_ms}\n'


def test_a_request_has_the_samples_of_one_step_with_all_labels() -> None:
    lines = [make_line(name, time, time / 8, instance="a:1") for name in ("b", "a") for time in (0, 30_000, 60_000)]
    first, second = make("".join(lines))
    assert read_request_2(unpack(first)) == [
        ([("__name__", name), ("instance", "a:1")], [(0, 0.0), (30_000, 3_750.0)]) for name in ("b", "a")
    ]
    assert read_request_2(unpack(second)) == [
        ([("__name__", name), ("instance", "a:1")], [(60_000, 7_500.0)]) for name in ("b", "a")
    ]
    assert first.path == "/api/v1/write"
    assert first.headers["Content-Type"] == "application/x-protobuf;proto=io.prometheus.write.v2.Request"
    assert first.name == "dump, samples from 1970-01-01 00:00:00 UTC on"


def test_the_first_symbol_is_empty_and_each_text_is_there_once() -> None:
    (request,) = make(make_line("a", 1, x="1") + make_line("a", 1, x="2"))
    body = unpack(request)
    assert body.startswith(b"\x22\x00")
    assert (body.count(b"__name__"), body.count(b"\x01x")) == (1, 1)


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_REQUEST_SAMPLES", 10), ("MAX_REQUEST_BYTES", 200), ("MAX_DUMP_SERIES_SAMPLES", 3)]
)
def test_large_slices_become_several_requests_or_series(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(module, limit, value)
    requests = make("".join(make_line(f"m{series}", time) for series in range(8) for time in range(7)))
    sink = RecordingSink()
    for request in requests:
        for _ in decode_remote_write(unpack(request), sink, RemoteWriteMessage.VERSION_2):
            pass
        series = read_request_2(unpack(request))
        if limit == "MAX_DUMP_SERIES_SAMPLES":
            assert max(len(samples) for _, samples in series) == value
        else:
            assert len(series) <= 3
    assert [(series.name, time) for series, time, _ in sink.points] == [
        (f"m{series}", time / 1000) for series in range(8) for time in range(7)
    ]
    assert sink.rejected == []


def test_any_time_that_a_dump_may_have_is_sent() -> None:
    times = [-(10**17), -1, 0, 10**17]
    requests = make("".join(make_line("a", time) for time in times))
    assert [
        samples[0][0] - (samples[0][0] > 2**63) * 2**64 for r in requests for _, samples in read_request_2(unpack(r))
    ] == times
    assert requests[0].name.endswith(" ms on")


def test_no_sample_is_no_request() -> None:
    assert make("") == make('{__name__="a"} NaN 1\n') == []
