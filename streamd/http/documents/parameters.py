"""Parameters and parts that several calls have in common, as the documents describe them."""

from streamd.core import errors
from streamd.core.contract import ModelContract
from streamd.http.documents.answers import ErrorAnswer
from streamd.http.documents.operations import (
    DESCRIPTIONS,
    JSON,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
    make_content,
)
from streamd.http.documents.schemas import (
    TEXT_SCHEMA,
    Schema,
    SchemaBook,
    make_choice_schema,
    make_enum_schema,
    make_list_schema,
)

SERVER_SCHEMA: Schema = {"type": "string", "minLength": 1, "maxLength": 256, "examples": ["web-01"]}


def make_server_parameter(*, is_required: bool = False) -> DocumentedParameter:
    """Return the parameter `server`: one name, which may have any characters."""
    text = "The name of one server, as it is: neither a list nor a glob."
    return DocumentedParameter(name="server", schema=SERVER_SCHEMA, text=text, is_required=is_required)


def list_filter_parameters() -> tuple[DocumentedParameter, ...]:
    """Return the parameters that choose the servers of a subscription or of a page."""
    return (
        DocumentedParameter(
            name="servers",
            schema=make_list_schema(TEXT_SCHEMA),
            text="Names or globs (`*`, `?`, `[...]`); default: all servers. May also be separated by commas.",
        ),
        DocumentedParameter(name="server", schema=TEXT_SCHEMA, text="The name of one server, as it is."),
    )


def make_path_parameter() -> DocumentedParameter:
    """Return the name of a server in a path."""
    text = "The name of the server, percent-encoded; names that no path can hold go into the parameter `server`."
    return DocumentedParameter(name="server", schema=SERVER_SCHEMA, text=text, place="path")


def list_slice_parameters(contract: ModelContract) -> tuple[DocumentedParameter, ...]:
    """Return the parameters that select a part of each forecast."""
    return (
        DocumentedParameter(
            name="targets",
            schema=make_choice_schema(contract.targets),
            text="Some of the targets; default: all. May also be separated by commas.",
        ),
        DocumentedParameter(
            name="quantiles",
            schema=make_choice_schema(contract.quantiles),
            text="Some of the quantiles; default: all. May also be separated by commas.",
        ),
        DocumentedParameter(
            name="every",
            schema={"type": "integer", "minimum": 1, "maximum": contract.horizon, "default": 1},
            text="Only every such step, so that the last one is the end of the horizon.",
        ),
    )


def make_limit_parameter(default: int, most: int) -> DocumentedParameter:
    """Return the parameter `limit` of a page."""
    schema: Schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return DocumentedParameter(name="limit", schema=schema, text="Entries in the answer, at most.")


def make_event_schema(*names: str) -> Schema:
    """Return the schema of each event of a stream, by the types of messages that its events may have."""
    text = "One of the messages, in JSON; `/asyncapi.json` has their schemas."
    data: Schema = {"type": "string", "contentMediaType": JSON, "description": text}
    fields = {"id": {"type": "string"}, "event": make_enum_schema(names), "data": data}
    return {"type": "object", "description": "Each event.", "properties": fields, "required": ["event", "data"]}


def make_socket_call(book: SchemaBook, name: str, group: str, text: str) -> DocumentedCall:
    """Return a call that opens a WebSocket and does nothing else."""
    return DocumentedCall(
        name=name,
        group=group,
        text=text,
        details="A WebSocket: see `/asyncapi.json`.",
        answers={
            101: DocumentedAnswer(text="The WebSocket is open."),
            426: DocumentedAnswer(
                text=DESCRIPTIONS[426],
                content=make_content(book.refer(ErrorAnswer)),
                headers={"Upgrade": {"schema": {"const": "websocket"}}},
            ),
            **describe_failures(book, (errors.InvalidInputError, errors.TooBusyError, errors.DrainingError)),
        },
    )
