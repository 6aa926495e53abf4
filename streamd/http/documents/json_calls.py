"""The calls of agents that send JSON of their own, as the document describes them: netdata, Telegraf and others.

A point that is rejected alone does not make its body invalid.
"""

from streamd.http.access.rules import RouteKey
from streamd.http.documents.agent_answers import (
    PointsAnswer,
    PutErrorAnswer,
    PutSummaryAnswer,
)
from streamd.http.documents.answers import ErrorAnswer
from streamd.http.documents.operations import (
    JSON,
    PLAIN_TEXT,
    BodyContent,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_foreign_failures,
)
from streamd.http.documents.schemas import (
    TEXT_SCHEMA,
    Schema,
    SchemaBook,
    make_list_schema,
)


def describe_json_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of agents that send JSON of their own by route."""
    return {**_describe_put(book), **_describe_point_calls(book)}


# ---------------------------------------------------------------- netdata and OpenTSDB
def _describe_put(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    dimension: Schema = {"type": "object", "description": "A dimension of netdata's.", "required": ["chart_id"]}
    item = {"anyOf": [dimension, _add_datapoint(book)]}
    summary = book.refer(PutSummaryAnswer)
    error = book.refer(PutErrorAnswer)
    refusals = describe_foreign_failures({JSON: error})
    # With `summary` or `details`, the counts are the answer also if some datapoints were rejected.
    refusals[400] = DocumentedAnswer(
        text="Some datapoints were rejected, or the body cannot be read.", content={JSON: {"anyOf": [error, summary]}}
    )
    return {
        ("POST", "/api/put"): DocumentedCall(
            name="putPoints",
            group="agents",
            text="Take netdata's JSON, and OpenTSDB's.",
            parameters=tuple(
                DocumentedParameter(name=name, schema=TEXT_SCHEMA, text=f"Whatever its value is, answer with {what}.")
                for name, what in (("summary", "counts"), ("details", "counts and errors"))
            ),
            body={JSON: {"anyOf": [make_list_schema(item), item]}},
            answers={
                200: DocumentedAnswer(text="All is taken, with counts.", content={JSON: summary}),
                204: DocumentedAnswer(text="All is taken."),
                **refusals,
            },
        ),
    }


def _add_datapoint(book: SchemaBook) -> Schema:
    text = {"type": "string", "minLength": 1}
    number: Schema = {
        "anyOf": [{"type": ["number", "null"]}, {"type": "string", "pattern": r"^-?[0-9]{1,9}(\.[0-9]{1,9})?$"}]
    }
    seconds: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 99999999999999}
    return book.add(
        "PutDatapoint",
        {
            "type": "object",
            "description": "A datapoint of OpenTSDB's; times are epoch seconds or milliseconds.",
            "properties": {
                "metric": text,
                "timestamp": seconds,
                "value": number,
                "tags": {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
            },
            "required": ["metric", "timestamp", "value"],
        },
    )


# ---------------------------------------------------------------- agents that expect no particular answer
def _describe_point_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    points, error = book.refer(PointsAnswer), book.refer(ErrorAnswer)
    refusals = describe_foreign_failures({JSON: error})
    rejected_alone: Schema = {"description": "Anything else is rejected alone, and counted in the answer."}

    def describe(name: str, text: str, body: BodyContent, details: str = "") -> DocumentedCall:
        return DocumentedCall(
            name=name,
            group="agents",
            text=text,
            details=details,
            body=body,
            answers={200: DocumentedAnswer(text="What was taken.", content={JSON: points}), **refusals},
        )

    metric = {"type": "object", "properties": {"name": TEXT_SCHEMA, "fields": {"type": "object"}}}
    metric["required"] = ["name", "fields"]
    batch = {"type": "object", "properties": {"metrics": make_list_schema({"anyOf": [metric, rejected_alone]})}}
    batch["required"] = ["metrics"]
    host = {"type": "object", "properties": {"hostname": {"type": "string", "minLength": 1}}, "required": ["hostname"]}
    glances = {"type": "object", "properties": {"system": host}, "required": ["system"]}
    pcp_host = {"type": "object", "properties": {"@host": TEXT_SCHEMA, "@metrics": make_list_schema({})}}
    pcp_host["required"] = ["@host", "@metrics"]
    hosts = {"type": "object", "properties": {"@hosts": make_list_schema(pcp_host)}, "required": ["@hosts"]}
    pcp = {"type": "object", "properties": {"@pcp": hosts}, "required": ["@pcp"]}
    telegraf = describe(
        "sendTelegraf",
        "Take Telegraf's JSON, or line protocol.",
        {JSON: {"anyOf": [batch, metric]}, PLAIN_TEXT: TEXT_SCHEMA},
        (
            "Whatever does not begin with a brace is read as lines. A batch that is too large gets 200 with an error if"
            " Telegraf sends it, which would repeat it for ever."
        ),
    )
    return {
        ("POST", "/telegraf"): DocumentedCall(
            name=telegraf.name,
            group=telegraf.group,
            text=telegraf.text,
            details=telegraf.details,
            body=telegraf.body,
            has_optional_body=True,
            answers={
                **telegraf.answers,
                200: DocumentedAnswer(text="What was taken.", content={JSON: {"anyOf": [points, error]}}),
            },
        ),
        ("POST", "/collectd"): describe(
            "sendCollectd",
            "Take collectd's write_http in JSON.",
            {JSON: {"anyOf": [make_list_schema({}), {"type": "object"}]}},
        ),
        ("POST", "/glances"): describe("sendGlances", "Take glances' restful export.", {JSON: glances}),
        ("POST", "/pcp"): describe("sendPcp", "Take a document of pcp2json.", {JSON: pcp}),
    }
