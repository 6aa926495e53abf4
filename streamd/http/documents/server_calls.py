"""The calls of servers as the document describes them: the list of them, their windows, and forgetting one."""

from collections.abc import Mapping

from streamd.core import errors
from streamd.http.access.rules import RouteKey
from streamd.http.documents.answers import (
    ServersAnswer,
    WindowAnswer,
)
from streamd.http.documents.operations import (
    JSON,
    MSGPACK,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
)
from streamd.http.documents.parameters import make_limit_parameter, make_path_parameter, make_server_parameter
from streamd.http.documents.schemas import ANY_SCHEMA, TEXT_SCHEMA, SchemaBook
from streamd.http.routes.servers import DEFAULT_LIMIT, MAX_LIMIT

CALLS_BY_SERVER = ("getForecast", "getWindow", "getAccuracy", "forgetServer")
FIRST_SERVER: Mapping[str, str] = {"server": "$response.body#/servers/0/server"}


def describe_server_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of servers by route."""
    window = book.refer(WindowAnswer)
    page_or_window = {"anyOf": [book.refer(ServersAnswer), window]}
    forgotten = {
        204: DocumentedAnswer(text="The server is forgotten."),
        **describe_failures(book, (errors.UnknownServerError, errors.UnavailableError)),
    }
    return {
        ("GET", "/v1/servers"): DocumentedCall(
            name="listServers",
            group="servers",
            text="Return the servers that the caller may read, page by page; with `server`, the window of that server.",
            parameters=(
                make_limit_parameter(DEFAULT_LIMIT, MAX_LIMIT),
                DocumentedParameter(name="cursor", schema=TEXT_SCHEMA, text="The `next` of the previous page."),
                make_server_parameter(),
            ),
            answers={
                200: DocumentedAnswer(
                    text="A page, or a window.",
                    content={JSON: page_or_window, MSGPACK: ANY_SCHEMA},
                    links=dict.fromkeys(CALLS_BY_SERVER, FIRST_SERVER),
                ),
                **describe_failures(book, (errors.InvalidInputError, errors.UnknownServerError)),
            },
        ),
        ("GET", "/v1/servers/{server}"): DocumentedCall(
            name="getWindow",
            group="servers",
            text="Return the rows in the window of a server, oldest first.",
            parameters=(make_path_parameter(),),
            answers={
                200: DocumentedAnswer(text="The window.", content={JSON: window, MSGPACK: ANY_SCHEMA}),
                **describe_failures(book, (errors.InvalidInputError, errors.UnknownServerError)),
            },
        ),
        ("DELETE", "/v1/servers"): DocumentedCall(
            name="forgetServerByName",
            group="servers",
            text="Forget the server that the parameter `server` names, its window and its forecast.",
            parameters=(make_server_parameter(is_required=True),),
            answers={
                **forgotten,
                **describe_failures(book, (errors.InvalidInputError, errors.UnknownServerError)),
            },
        ),
        ("DELETE", "/v1/servers/{server}"): DocumentedCall(
            name="forgetServer",
            group="servers",
            text="Forget a server, its window and its forecast.",
            parameters=(make_path_parameter(),),
            answers={
                **forgotten,
                **describe_failures(book, (errors.InvalidInputError, errors.UnknownServerError)),
            },
        ),
    }
