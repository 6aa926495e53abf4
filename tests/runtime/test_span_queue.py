"""Tests `streamd/runtime/span_queue.py`: bounds, the drain, and one log line when the state changes."""

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from streamd.runtime import span_queue
from streamd.runtime.span_queue import SpanQueue

SPAN = ReadableSpan("a")
SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class StubExporter(SpanExporter):
    """An exporter that a test holds and lets fail."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.results: list[SpanExportResult | Exception] = []
        """The results of the next exports; the last one counts for all further ones."""
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.is_shut_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.release()
        self.gate.wait()
        self.sizes.append(len(spans))
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0] if self.results else SUCCESS
        if isinstance(result, Exception):
            raise result
        return result

    def shutdown(self) -> None:
        self.is_shut_down = True
        self.gate.set()


@pytest.fixture
def exporter() -> StubExporter:
    return StubExporter()


def test_what_waits_is_exported_at_the_end(exporter: StubExporter) -> None:
    queue = SpanQueue(exporter, interval_seconds=60)
    for _ in range(span_queue.MAX_EXPORTED_SPANS + 3):
        queue.on_end(SPAN)
    queue.shutdown()
    assert sum(exporter.sizes) == span_queue.MAX_EXPORTED_SPANS + 3
    assert max(exporter.sizes) <= span_queue.MAX_EXPORTED_SPANS
    assert exporter.is_shut_down
    queue.on_end(SPAN)
    assert queue.count_spans() == {"exported": sum(exporter.sizes), "dropped": 1, "failed": 0}


def test_a_queue_without_spans_starts_no_thread(exporter: StubExporter) -> None:
    before = threading.active_count()
    queue = SpanQueue(exporter)
    assert threading.active_count() == before
    queue.shutdown()
    assert exporter.sizes == []


def test_spans_beyond_the_bound_are_dropped_while_the_collector_hangs(exporter: StubExporter) -> None:
    exporter.gate.clear()
    queue = SpanQueue(exporter, max_waiting=5, interval_seconds=0.001, close_seconds=0.01)
    queue.on_end(SPAN)
    exporter.entered.acquire()  # the thread hangs in the first export
    for _ in range(8):
        queue.on_end(SPAN)
    assert queue.count_spans()["dropped"] == 3
    with capture_logs() as logs:
        queue.shutdown()
    assert [each["event"] for each in logs] == ["traces_left"]
    assert queue.count_spans()["dropped"] == 8


def test_a_collector_that_is_away_is_logged_once_and_once_when_it_is_back(exporter: StubExporter) -> None:
    exporter.results = [FAILURE, OSError("away"), FAILURE, SUCCESS]
    queue = SpanQueue(exporter, lambda: "refused", interval_seconds=0.001)
    with capture_logs() as logs:
        for _ in range(4):
            queue.on_end(SPAN)
            exporter.entered.acquire()  # so that the next span is in an export of its own
        queue.shutdown()
    assert [each["event"] for each in logs] == ["trace_export_failed", "trace_export_recovered"]
    assert logs[0]["reason"] == "refused"
    assert queue.count_spans() == {"exported": 1, "dropped": 0, "failed": 3}


def test_a_closing_queue_does_not_try_again(exporter: StubExporter) -> None:
    exporter.results = [FAILURE]
    queue = SpanQueue(exporter, interval_seconds=60)
    for _ in range(3 * span_queue.MAX_EXPORTED_SPANS):
        queue.on_end(SPAN)
    with capture_logs():
        queue.shutdown()
    assert sum(queue.count_spans().values()) == 3 * span_queue.MAX_EXPORTED_SPANS
    assert queue.count_spans()["exported"] == 0
