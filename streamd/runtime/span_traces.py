"""Traces that are recorded as OpenTelemetry spans: a body to its rows, and a due row to the forecast that was sent.

A body's trace belongs to its sender or begins here. A forecast's trace is one of its own, linked to the rows that made
it due. Everything that waits for something else is bounded; what does not fit is not traced.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streamd import __version__
from streamd.core.arrays import Slots
from streamd.core.errors import StreamdError
from streamd.core.scheduling.batches import Batch, BatchOutcome, ServerItem
from streamd.core.state.samples import IndexedSamples, Sample
from streamd.runtime.span_queue import SpanQueue
from streamd.runtime.traces import UNTRACED, BodyTrace, TraceParent
from streamd.runtime.waiting_links import WaitingLinks

MAX_FOLLOWED_SERVERS = 16
"""The servers of one body whose rows and forecasts are traced; the others of a body of thousands are not."""
MAX_SERVERS = 10_000
"""The servers whose open rows, due rows and posted forecasts are traced at once."""
MAX_ROW_LINKS = 8
"""The bodies that one row, and the rows that one forecast is linked to, newest first."""
MAX_SENDS = 8
"""The subscribers of one forecast whose sends are traced."""

CLOCK_STEP_NS = 1_000_000
"""A clock that was set by more than this changes the times of the spans that follow."""


@dataclass(slots=True)
class _PostedForecast:
    """A traced forecast on the board, which subscribers may still get."""

    context: Context
    since: float
    sends_left: int = MAX_SENDS


class SpanTraces:
    """The traces of a daemon; its spans go to `queue`.

    A body is traced if its sender's trace is sampled; without a sender's trace, with the probability `sample_ratio`.
    Called on the event loop; `clock` returns monotonic seconds, `wall_ns` epoch nanoseconds.
    """

    def __init__(
        self,
        queue: SpanQueue,
        sample_ratio: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        choose: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self._queue = queue
        self._sample_ratio = sample_ratio
        self._wall_ns = wall_ns
        self._choose = choose
        self._offset_ns = 0
        resource = Resource.create({"service.name": "streamd", "service.version": __version__})
        # Bodies are chosen here, before any span is made: those that are not chosen cost nothing.
        self._provider = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
        self._provider.add_span_processor(queue)
        self._tracer = self._provider.get_tracer("streamd", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self.rows: WaitingLinks[str, Context] = WaitingLinks(MAX_SERVERS, MAX_ROW_LINKS)
        """By server: the bodies that its open row has values of."""
        self._due: WaitingLinks[int, Link] = WaitingLinks(MAX_SERVERS, MAX_ROW_LINKS)
        self._posted: OrderedDict[int, _PostedForecast] = OrderedDict()

    # ------------------------------------------------------------ a body's way
    def read_parent(self, headers: Mapping[str, str]) -> TraceParent:
        """Return the context of the sender's span, or `None` if the sender has no valid `traceparent`."""
        if "traceparent" not in headers:
            return None
        context = self._propagator.extract(headers, Context())
        return context if trace.get_current_span(context).get_span_context().is_valid else None

    def begin_body(self, name: str, parent: TraceParent) -> BodyTrace:
        """Begin the trace of a body or frame, or one that records nothing if it is not chosen."""
        if parent is None:
            chosen = self._choose() < self._sample_ratio
        else:
            chosen = trace.get_current_span(parent).get_span_context().trace_flags.sampled
        if not chosen:
            return UNTRACED
        return SpanBodyTrace(self, self.start_span(name, parent or Context(), kind=SpanKind.SERVER))

    def start_span(self, name: str, context: Context, since: float | None = None, **options: Any) -> Span:
        """Start a span now, or at a time in the past (monotonic seconds)."""
        return self._tracer.start_span(name, context, start_time=self._to_epoch_ns(since), **options)

    def _to_epoch_ns(self, at: float | None = None) -> int:
        now = self.clock()
        offset_ns = self._wall_ns() - round(now * 1e9)
        # Kept while the clocks agree: the two are not read at the same time, and children must lie in their parents.
        if abs(offset_ns - self._offset_ns) > CLOCK_STEP_NS:
            self._offset_ns = offset_ns
        return self._offset_ns + round((now if at is None else at) * 1e9)

    # ------------------------------------------------------------ a forecast's way
    def row_due(self, slot: int, server: str) -> None:
        """End the row of each body that gave it values, and let the forecast wait for them."""
        now = self.clock()
        for since, body in self.rows.take(server):
            row = self.start_span("row", body, since, attributes={"streamd.server": server})
            row.end(self._to_epoch_ns(now))
            self._due.add(slot, Link(row.get_span_context(), {"streamd.server": server}), now)

    def batch_done(
        self, batch: Batch, outcome: BatchOutcome, *, lane: str, version: str, seconds: float, done: float
    ) -> None:
        """Record the forecasts of a batch whose rows are traced."""
        if not self._due and not self._posted:
            return
        facts = {
            "streamd.lane": lane,
            "streamd.version": version,
            "streamd.batch.windows": len(batch),
            "streamd.inference_ms": round(seconds * 1e3, 3),
        }
        for item in outcome.deliver.list_items():
            self._posted.pop(item.slot, None)  # what is sent from now on is this forecast, traced or not
            if links := self._take_links(batch, item):
                self._record_forecast(item, batch, links, facts, done)
        for failed in outcome.fail:
            if isinstance(failed, ServerItem) and (links := self._take_links(batch, failed)):
                span = self._start_forecast(failed, links)
                span.set_status(Status(StatusCode.ERROR, "the engine gave no forecast"))
                span.end(self._to_epoch_ns(done))

    def _take_links(self, batch: Batch, item: ServerItem) -> list[Link]:
        # A row that became due after its batch was taken belongs to the next forecast.
        return [each.link for each in self._due.take(item.slot, batch.started)]

    def _start_forecast(self, item: ServerItem, links: Sequence[Link]) -> Span:
        first = links[0].attributes or {}
        facts = {"streamd.server": first["streamd.server"], "streamd.context_rows": item.context}
        return self.start_span("forecast", Context(), item.since, links=links, attributes=facts)

    def _record_forecast(
        self, item: ServerItem, batch: Batch, links: Sequence[Link], facts: Mapping[str, Any], done: float
    ) -> None:
        span, posted = self._start_forecast(item, links), self.clock()
        context = trace.set_span_in_context(span, Context())
        for name, since, until, known in (
            ("queue", item.since, batch.started, {}),
            ("lane", batch.started, done, facts),
            ("board", done, posted, {}),
        ):
            self.start_span(name, context, since, attributes=known).end(self._to_epoch_ns(until))
        span.end(self._to_epoch_ns(posted))
        self._posted[item.slot] = _PostedForecast(_refer_to(span.get_span_context()), posted)
        if len(self._posted) > MAX_SERVERS:
            self._posted.popitem(last=False)

    def forecasts_sent(self, slots: Slots) -> None:
        """Record that traced forecasts were handed to the socket of a subscriber."""
        if not self._posted:
            return
        for slot in slots.tolist():
            posted = self._posted.get(slot)
            if posted is not None:
                self.start_span("send", posted.context, posted.since, kind=SpanKind.PRODUCER).end(self._to_epoch_ns())
                posted.sends_left -= 1
                if not posted.sends_left:
                    del self._posted[slot]

    def forget(self, slot: int) -> None:
        """Drop what is known of a slot that gets another server."""
        self._due.forget(slot)
        self._posted.pop(slot, None)

    def count_spans(self) -> dict[str, int]:
        """Return the spans since start by their end."""
        return self._queue.count_spans()

    def close(self) -> None:
        """Export what waits, within a few seconds; blocks."""
        self._provider.shutdown()


class SpanBodyTrace:
    """A body that is traced: a span with a child for each step."""

    def __init__(self, traces: SpanTraces, span: Span) -> None:
        self._traces = traces
        self._span = span
        self._step: Context | None = None
        self._last_index: dict[str, int] = {}
        """By followed server: the place of its last sample in the body."""

    def __enter__(self) -> "SpanBodyTrace":
        """Return the trace."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End the span, with the error that ended the body, if there is one."""
        _set_error(self._span, error)
        self._span.end()

    @contextmanager
    def run_step(self, name: str) -> Iterator[None]:
        """Record one step of the work as a child of the body's span."""
        span = self._traces.start_span(name, trace.set_span_in_context(self._span, Context()))
        self._step = _refer_to(span.get_span_context())
        try:
            yield
        except BaseException as error:
            _set_error(span, error)
            _set_error(self._span, error)  # a socket answers an error of a frame and goes on
            raise
        finally:
            span.end()

    def follow_samples(self, samples: IndexedSamples) -> IndexedSamples:
        """Yield the same samples; the rows of the first servers are linked to the step that runs."""
        for index, sample in samples:
            if isinstance(sample, Sample) and self._is_followed(sample.server):
                self._follow(sample.server)
                self._last_index[sample.server] = index
            yield index, sample

    def follow_servers(self, servers: Iterable[str]) -> None:
        """Link the next rows of the first of these servers to the step that runs."""
        for server, _ in zip(servers, range(MAX_FOLLOWED_SERVERS), strict=False):
            self._follow(server)

    def _is_followed(self, server: str) -> bool:
        return server in self._last_index or len(self._last_index) < MAX_FOLLOWED_SERVERS

    def _follow(self, server: str) -> None:
        if self._step is not None:
            self._traces.rows.add(server, self._step, self._traces.clock())

    def note_result(self, accepted: int, rejected: int, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        """Note the counts of the answer; a server whose last sample was rejected is followed no further."""
        self._span.set_attributes({"streamd.accepted": accepted, "streamd.rejected": rejected})
        rejected_indices = {each["index"] for each in errors}
        for server, index in self._last_index.items():
            if index in rejected_indices and self._step is not None:
                self._traces.rows.discard(server, self._step)


def _refer_to(span: SpanContext) -> Context:
    """Return a context that names a span as the parent, without keeping the span itself."""
    return trace.set_span_in_context(NonRecordingSpan(span), Context())


def _set_error(span: Span, error: BaseException | None) -> None:
    if error is not None and span.is_recording():
        code = error.code if isinstance(error, StreamdError) else type(error).__name__
        span.set_attribute("error.type", code)
        # Not the message: it may hold what the sender sent.
        span.set_status(Status(StatusCode.ERROR, code))
