"""Tests `streamd/runtime/span_traces.py` on a clock of its own: which rows a forecast is linked to, and its bounds."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from streamd.core.scheduling.batches import Batch, BatchOutcome, ServerRows
from streamd.core.state.samples import Sample
from streamd.runtime.span_queue import SpanQueue
from streamd.runtime.span_traces import MAX_SENDS, SpanTraces

SLOT = 3


class KeptSpans(SpanQueue):
    """A queue that keeps what ended, in place of exporting it in a thread."""

    def __init__(self) -> None:
        super().__init__(InMemorySpanExporter())
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


@dataclass
class TraceRig:
    """Traces of one server on a clock that only a test moves."""

    kept: KeptSpans = field(default_factory=KeptSpans)
    now: float = 100.0
    wall: float = 1_700_000_000.0

    def __post_init__(self) -> None:
        self.traces = SpanTraces(
            self.kept, 1.0, clock=lambda: self.now, wall_ns=lambda: round(self.wall * 1e9), choose=lambda: 0.5
        )

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def close_row(self) -> None:
        """Send a sample that closes a row, in a body that is traced."""
        with self.traces.begin_body("POST /v1/samples", None) as body, body.run_step("take"):
            list(body.follow_samples(iter([(0, Sample("web-01", 0.0, {}))])))
            self.advance(1)
            self.traces.row_due(SLOT, "web-01")

    def end_batch(self, started: float, *, fails: bool = False, slot: int = SLOT) -> None:
        slots, generations, steps, contexts = (np.array([number]) for number in (slot, 1, 7, 8))
        since = np.array([started - 1])
        rows = ServerRows(slots=slots, generations=generations, steps=steps, contexts=contexts, since=since)
        outcome = BatchOutcome(fail=[*rows.list_items()]) if fails else BatchOutcome(rows=np.array([0]), deliver=rows)
        batch = Batch(rows, started=started)
        self.traces.batch_done(batch, outcome, lane="a", version="v", seconds=0.5, done=self.now)

    def find(self, name: str) -> list[ReadableSpan]:
        return [each for each in self.kept.spans if each.name == name]


@pytest.fixture
def rig() -> TraceRig:
    return TraceRig()


def link_ids(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def span_ids(spans: list[ReadableSpan]) -> list[int]:
    return [span.context.span_id for span in spans if span.context is not None]


def test_a_row_that_closes_while_a_batch_runs_belongs_to_the_next_forecast(rig: TraceRig) -> None:
    rig.close_row()
    started = rig.now
    rig.advance(1)
    rig.close_row()
    rig.end_batch(started)
    rig.end_batch(rig.now)
    first, second = rig.find("forecast")
    earlier, later = span_ids(rig.find("row"))
    assert (link_ids(first), link_ids(second)) == ([earlier], [later])


def test_a_superseded_row_is_linked_to_the_forecast_that_replaces_it(rig: TraceRig) -> None:
    rig.close_row()
    rig.close_row()
    rig.end_batch(rig.now)
    (forecast,) = rig.find("forecast")
    assert link_ids(forecast) == span_ids(rig.find("row"))


def test_a_forecast_that_failed_is_an_error_and_is_not_sent(rig: TraceRig) -> None:
    rig.close_row()
    rig.end_batch(rig.now, fails=True)
    rig.traces.forecasts_sent(np.array([SLOT]))
    (forecast,) = rig.find("forecast")
    assert forecast.status.status_code is StatusCode.ERROR
    assert rig.find("send") == []


def test_sends_of_a_forecast_are_traced_until_the_next_forecast_or_a_bound(rig: TraceRig) -> None:
    rig.close_row()
    rig.end_batch(rig.now)
    for _ in range(MAX_SENDS + 3):
        rig.traces.forecasts_sent(np.array([SLOT, SLOT + 1]))
    assert len(rig.find("send")) == MAX_SENDS
    rig.close_row()
    rig.end_batch(rig.now)
    rig.end_batch(rig.now)  # of a row that is not traced: what is sent from now on is this forecast
    rig.traces.forecasts_sent(np.array([SLOT]))
    assert len(rig.find("send")) == MAX_SENDS


def test_a_forgotten_slot_keeps_nothing(rig: TraceRig) -> None:
    rig.close_row()
    rig.traces.forget(SLOT)
    rig.end_batch(rig.now)
    assert rig.find("forecast") == []
    rig.close_row()
    rig.end_batch(rig.now)
    rig.traces.forget(SLOT)
    rig.traces.forecasts_sent(np.array([SLOT]))
    assert rig.find("send") == []


def test_times_are_those_of_the_wall_clock_also_after_it_was_set(rig: TraceRig) -> None:
    rig.close_row()
    rig.wall += 3_600
    rig.close_row()
    first, second = rig.find("row")
    assert first.start_time == 1_700_000_000 * 10**9
    assert second.start_time == (1_700_000_001 + 3_600) * 10**9
    assert second.end_time == second.start_time + 10**9
