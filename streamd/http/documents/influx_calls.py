"""The calls of InfluxDB's clients as the document describes them. Lines of line protocol are text here."""

from streamd.core import errors
from streamd.http.access.rules import RouteKey
from streamd.http.documents.agent_answers import (
    InfluxErrorAnswer,
    InfluxHealthAnswer,
    InfluxQueryAnswer,
)
from streamd.http.documents.operations import (
    JSON,
    PLAIN_TEXT,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
    describe_foreign_failures,
)
from streamd.http.documents.schemas import (
    TEXT_SCHEMA,
    SchemaBook,
    make_enum_schema,
)
from streamd.http.protocols.influx import STAMPED_HEADER
from streamd.protocols.line_protocol import TIME_UNITS

_VERSION_HEADERS = {"X-Influxdb-Version": {"schema": TEXT_SCHEMA}, "X-Influxdb-Build": {"schema": TEXT_SCHEMA}}


def describe_influx_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of InfluxDB by route."""
    return {**_describe_writes(book), **_describe_query(book), **_describe_probes(book)}


def _describe_writes(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    error = {JSON: book.refer(InfluxErrorAnswer)}
    precision = DocumentedParameter(
        name="precision",
        schema=make_enum_schema([*TIME_UNITS, ""], default="ns"),
        text="The unit of the timestamps.",
    )

    def describe(name: str, text: str) -> DocumentedCall:
        stamped = {STAMPED_HEADER: {"schema": {"type": "integer", "minimum": 1}}}
        return DocumentedCall(
            name=name,
            group="agents",
            text=text,
            details=(
                "All other parameters of InfluxDB are ignored. Good lines are taken beside bad ones, which get 400 (200"
                " if the sender is Telegraf's `outputs.http`, which would repeat the batch for ever)."
            ),
            parameters=(precision,),
            body={PLAIN_TEXT: {"type": "string", "description": "Lines of line protocol."}},
            has_optional_body=True,
            answers={
                200: DocumentedAnswer(text="For Telegraf: some lines are bad.", content=error, headers=stamped),
                204: DocumentedAnswer(text="The lines are taken.", headers=stamped),
                **describe_foreign_failures(error),
            },
        )

    return {
        ("POST", "/api/v2/write"): describe("writeInflux2", "Take InfluxDB line protocol."),
        ("POST", "/write"): describe("writeInflux1", "The same, for clients of InfluxDB 1."),
    }


def _describe_query(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    error = {JSON: book.refer(InfluxErrorAnswer)}
    query = DocumentedParameter(
        name="q",
        schema={"type": "string", "pattern": r"^\s*[Cc][Rr][Ee][Aa][Tt][Ee]\s+[Dd][Aa][Tt][Aa][Bb][Aa][Ss][Ee]\s"},
        text="The statement; it may also come in the body, as a form.",
        is_required=True,
    )
    return {
        ("POST", "/query"): DocumentedCall(
            name="queryInflux",
            group="agents",
            text="Answer `CREATE DATABASE`, which clients of InfluxDB 1 send first; nothing else.",
            parameters=(query,),
            answers={
                200: DocumentedAnswer(
                    text="Done.", content={JSON: book.refer(InfluxQueryAnswer)}, headers=_VERSION_HEADERS
                ),
                **describe_foreign_failures(error, (errors.MalformedError, errors.RateLimitedError)),
            },
        ),
    }


def _describe_probes(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    return {
        ("GET", "/ping"): DocumentedCall(
            name="pingInflux",
            group="agents",
            text="Answer clients of InfluxDB.",
            answers={
                204: DocumentedAnswer(text="The daemon is there.", headers=_VERSION_HEADERS),
                **describe_failures(book, (), is_public=True),
            },
        ),
        ("GET", "/health"): DocumentedCall(
            name="getInfluxHealth",
            group="agents",
            text="Answer clients of InfluxDB 2.",
            answers={
                200: DocumentedAnswer(text="Ready for writes.", content={JSON: book.refer(InfluxHealthAnswer)}),
                **describe_failures(book, (), is_public=True),
            },
        ),
    }
