"""The spans that wait for their collector: a bounded queue, and the thread that exports them.

The event loop only appends; a collector that is away or slow costs dropped spans, which are counted, and no memory.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = structlog.get_logger(__name__)

MAX_WAITING_SPANS = 8_192
"""Spans that wait for export; of more, the newest are dropped. About 1 kB each."""
MAX_EXPORTED_SPANS = 512
"""Spans in one request to the collector."""
EXPORT_INTERVAL_SECONDS = 1.0
"""How long spans are collected before they are exported, unless there are enough for a request."""
EXPORT_CLOSE_SECONDS = 3.0
"""The time that `shutdown` takes at most to export what waits."""


class SpanQueue(SpanProcessor):
    """Exports spans in a thread of its own, in the order in which they ended.

    `explain` returns the reason of the last failed export, for the log.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        explain: Callable[[], str] = str,
        *,
        max_waiting: int = MAX_WAITING_SPANS,
        interval_seconds: float = EXPORT_INTERVAL_SECONDS,
        close_seconds: float = EXPORT_CLOSE_SECONDS,
    ) -> None:
        self._exporter = exporter
        self._explain = explain
        self._max_waiting = max_waiting
        self._interval_seconds = interval_seconds
        self._close_seconds = close_seconds
        self._waiting: deque[ReadableSpan] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_failing = False
        self._counts = {"exported": 0, "dropped": 0, "failed": 0}
        self._thread: threading.Thread | None = None  # started by the first span

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: a span is exported when it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that ended, or drop it if the queue is full or closed."""
        with self._changed:
            if self._is_closing or len(self._waiting) >= self._max_waiting:
                self._counts["dropped"] += 1
                return
            self._waiting.append(span)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="streamd-traces", daemon=True)
                self._thread.start()
            if len(self._waiting) == MAX_EXPORTED_SPANS:
                self._changed.notify()

    def count_spans(self) -> dict[str, int]:
        """Return the spans since start by their end: exported, dropped because of a full queue, failed to export."""
        return dict(self._counts)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return whether nothing waits; the thread exports by itself."""
        return not self._waiting

    def shutdown(self) -> None:
        """Export what waits, then end the thread; what is left after `close_seconds` is dropped."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(self._close_seconds)
        self._exporter.shutdown()  # ends an export that waits before its next try
        with self._changed:
            left = len(self._waiting)
            self._waiting.clear()
            self._counts["dropped"] += left
        if left:
            log.warning("traces_left", spans=left, within_seconds=self._close_seconds)

    # ------------------------------------------------------------ in the thread
    def _run(self) -> None:
        deadline = None
        while spans := self._take_spans():
            self._export(spans)
            if self._is_closing:
                deadline = deadline or time.monotonic() + self._close_seconds
                if self._is_failing or time.monotonic() >= deadline:
                    return  # the rest is counted by `shutdown`

    def _take_spans(self) -> list[ReadableSpan]:
        """Wait for spans and return them, at most one request of them; an empty list means that the queue is closed."""
        with self._changed:
            while not self._is_closing and len(self._waiting) < MAX_EXPORTED_SPANS:
                is_notified = self._changed.wait(self._interval_seconds)
                if not is_notified and self._waiting:
                    break
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_EXPORTED_SPANS))]

    def _export(self, spans: list[ReadableSpan]) -> None:
        try:
            succeeded = self._exporter.export(spans) is SpanExportResult.SUCCESS
            reason = "" if succeeded else self._explain()
        except Exception as error:  # an exporter is foreign code: whatever it raises must not end the thread
            succeeded, reason = False, repr(error)
        self._counts["exported" if succeeded else "failed"] += len(spans)
        if succeeded and self._is_failing:
            log.info("trace_export_recovered", **self._counts)
        elif not succeeded and not self._is_failing:
            log.warning("trace_export_failed", reason=reason, consequence="spans are dropped until it works again")
        self._is_failing = not succeeded
