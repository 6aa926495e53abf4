"""The calls of other agents as the document describes them: what their protocols and their senders expect.

Bodies without a JSON Schema are bytes here. A point that is rejected alone does not make its body invalid.
"""

from streamd.core import errors
from streamd.http.access.rules import RouteKey
from streamd.http.documents.agent_answers import (
    OtlpAnswer,
    OtlpErrorAnswer,
)
from streamd.http.documents.answers import ErrorAnswer
from streamd.http.documents.influx_calls import describe_influx_calls
from streamd.http.documents.json_calls import describe_json_calls
from streamd.http.documents.operations import (
    JSON,
    PLAIN_TEXT,
    PROTOBUF,
    BodyContent,
    DocumentedAnswer,
    DocumentedCall,
    describe_foreign_failures,
)
from streamd.http.documents.parameters import make_socket_call
from streamd.http.documents.schemas import (
    BINARY_SCHEMA,
    TEXT_SCHEMA,
    Schema,
    SchemaBook,
    make_list_schema,
)


def describe_agent_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of other agents by route."""
    return {
        **_describe_remote_write(book),
        **describe_influx_calls(book),
        **_describe_otlp(book),
        **describe_json_calls(book),
        ("GET", "/telegraf"): make_socket_call(
            book, "openTelegrafSocket", "agents", "Take Telegraf's JSON or line protocol by a WebSocket."
        ),
    }


# ---------------------------------------------------------------- Prometheus
def _describe_remote_write(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    written = {
        f"X-Prometheus-Remote-Write-{kind}-Written": {"schema": {"type": "integer", "minimum": 0}}
        for kind in ("Samples", "Histograms", "Exemplars")
    }

    def describe(name: str, text: str) -> DocumentedCall:
        return DocumentedCall(
            name=name,
            group="agents",
            text=text,
            details=(
                "The body is a `WriteRequest` of 1.0 or a `Request` of 2.0 (`proto=` in the Content-Type), in snappy"
                " (also without Content-Encoding) or zstd. A body that is too large gets 400, and overload gets 503."
            ),
            body={PROTOBUF: BINARY_SCHEMA},
            has_optional_body=True,
            answers={
                204: DocumentedAnswer(text="The points are taken, or no rule wants them.", headers=written),
                **describe_foreign_failures(
                    {PLAIN_TEXT: TEXT_SCHEMA},
                    (errors.MalformedError, errors.UnsupportedMediaTypeError, errors.TooBusyError),
                ),
            },
        )

    return {
        ("POST", "/api/v1/write"): describe("writeRemote", "Take Prometheus remote write."),
        ("POST", "/receive"): describe("receiveRemote", "The same, under the default path of netdata."),
    }


# ---------------------------------------------------------------- OpenTelemetry
def _describe_otlp(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    resources = make_list_schema({"type": "object", "description": "A `ResourceMetrics`."})
    request: Schema = {"type": "object", "properties": {"resourceMetrics": {**resources, "type": ["array", "null"]}}}
    error: BodyContent = {JSON: book.refer(OtlpErrorAnswer), PROTOBUF: BINARY_SCHEMA}
    # Before the route is known, an error has the daemon's own form.
    own = {status: {**error, JSON: {"anyOf": [error[JSON], book.refer(ErrorAnswer)]}} for status in (403, 421)}
    return {
        ("POST", "/v1/metrics"): DocumentedCall(
            name="exportMetrics",
            group="agents",
            text="Take OTLP over HTTP: an `ExportMetricsServiceRequest`, in protobuf or in JSON.",
            details="Points that are rejected, or name no server, are counted in `partialSuccess`.",
            body={PROTOBUF: BINARY_SCHEMA, JSON: book.add("OtlpRequest", request)},
            answers={
                200: DocumentedAnswer(
                    text="The points are taken, or no rule wants them.",
                    content={JSON: book.refer(OtlpAnswer), PROTOBUF: BINARY_SCHEMA},
                ),
                **describe_foreign_failures(error, others=own),
            },
        ),
    }
