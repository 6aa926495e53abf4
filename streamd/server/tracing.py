"""Opens the traces that the settings want: OpenTelemetry's exporter over HTTP, or nothing.

The only module that names the exporter. Without an endpoint it imports nothing.
"""

import logging

from streamd.core.errors import ConfigError
from streamd.runtime.traces import NO_TRACES, Traces
from streamd.server.config import TracingSection

EXPORT_TIMEOUT_SECONDS = 5.0
"""The time that one export may take, tries again included."""


def open_traces(settings: TracingSection) -> Traces:
    """Return the traces of a daemon, which records nothing if no endpoint is set.

    Raises `ConfigError` if an endpoint is set and the packages are not installed.
    """
    if not settings.otlp_endpoint:
        return NO_TRACES
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from streamd.runtime.span_queue import SpanQueue
        from streamd.runtime.span_traces import SpanTraces
    except ImportError as exc:
        raise ConfigError(
            f"otlp_endpoint is set, but tracing is not installed ({exc}): pip install 'streamd[tracing]', or remove it"
        ) from exc
    messages = _LastMessage()
    endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_SECONDS)
    return SpanTraces(SpanQueue(exporter, messages.read), settings.sample_ratio)


class _LastMessage(logging.Handler):
    """The last message of the exporter, which logs each try; the queue logs one line when its state changes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._message = ""
        logger = logging.getLogger("opentelemetry")
        logger.handlers[:] = [self]
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self._message = record.getMessage()

    def read(self) -> str:
        """Return the last message."""
        return self._message
