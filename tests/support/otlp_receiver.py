"""A collector of OpenTelemetry traces: takes OTLP over HTTP on a real socket and keeps the spans."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, kw_only=True)
class ReceivedSpan:
    """One span as it came by the wire."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    links: tuple[str, ...]
    """The ids of the linked spans."""
    attributes: dict[str, Any]
    is_error: bool


@dataclass
class OtlpReceiver:
    """The receiver, with the spans that it has got."""

    url: str = ""
    status: int = 200
    """The HTTP status of its answers."""
    spans: list[ReceivedSpan] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.status == 200:
            message = ExportTraceServiceRequest.FromString(body)
            for resource in message.resource_spans:
                self.resources.append(_read_attributes(resource.resource.attributes))
                for scope in resource.scope_spans:
                    self.spans += map(_read_span, scope.spans)
        return web.Response(status=self.status)

    def find(self, name: str) -> list[ReceivedSpan]:
        """Return the spans of a name, in the order of their start."""
        return sorted((each for each in self.spans if each.name == name), key=lambda each: each.start)

    def find_one(self, name: str) -> ReceivedSpan:
        (span,) = self.find(name)
        return span

    def children_of(self, span: ReceivedSpan) -> list[str]:
        """Return the names of a span's children, in the order of their start."""
        children = [each for each in self.spans if each.parent_id == span.span_id]
        return [each.name for each in sorted(children, key=lambda each: (each.start, each.end))]


def _read_span(span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        links=tuple(link.span_id.hex() for link in span.links),
        attributes=_read_attributes(span.attributes),
        is_error=span.status.code == 2,
    )


def _read_attributes(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@asynccontextmanager
async def run_otlp_receiver() -> AsyncIterator[OtlpReceiver]:
    """Run a receiver on a free port."""
    receiver = OtlpReceiver()
    app = web.Application()
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
