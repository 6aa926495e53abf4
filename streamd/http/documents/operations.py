"""Descriptions of calls: their parameters, bodies and answers. Knows no route."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamd.core import errors
from streamd.core.errors import StreamdError
from streamd.http.documents.answers import ErrorAnswer
from streamd.http.documents.schemas import Schema, SchemaBook
from streamd.http.errors import choose_status
from streamd.http.protocols.intake import choose_foreign_status
from streamd.http.wire.codecs import Encoding

JSON, MSGPACK = Encoding.JSON.value, Encoding.MSGPACK.value
PROTOBUF = "application/x-protobuf"
PLAIN_TEXT = "text/plain"
EVENT_STREAM = "text/event-stream"

BodyContent = Mapping[str, Schema]
"""The schema of a body by its Content-Type; empty without a body."""

ErrorTypes = tuple[type[StreamdError], ...]

SITE_ERRORS: ErrorTypes = (errors.ForeignOriginError, errors.WrongHostError)
"""Errors of every call."""

CALLER_ERRORS: ErrorTypes = (errors.UnauthorizedError, errors.ForbiddenError)
"""Errors of every call that needs a scope."""

BODY_ERRORS: ErrorTypes = (
    errors.MalformedError,
    errors.UnsupportedMediaTypeError,
    errors.TooLargeError,
    errors.TooBusyError,
    errors.DrainingError,
)
"""Errors of every call with a body."""

DESCRIPTIONS = {
    400: "The call cannot be understood; the message says where.",
    401: "The token is missing or not valid.",
    403: "The token lacks the scope, or has it for other servers; or a page of another site sent the request.",
    404: "No server of this name reports, or nothing has this id.",
    409: "The version cannot serve now; nothing was changed.",
    413: "The body is too large.",
    415: "Another type or coding than those that are accepted.",
    421: "The request was sent to a name that is not known to be of this daemon.",
    422: "The content does not fit the model, or the version cannot serve.",
    426: "The call opens a WebSocket, and the request does not.",
    429: "Too busy, or a limit of the token is reached. `Retry-After` says when to call again.",
    500: "The forecast failed.",
    503: "Not possible now. `Retry-After` says when to call again.",
}
"""What each status of an error means."""

_RETRY_STATUSES = frozenset({429, 503})
_RETRY_AFTER: Mapping[str, Any] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
_CHALLENGE: Mapping[str, Any] = {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}}


@dataclass(frozen=True, kw_only=True)
class DocumentedParameter:
    """A parameter of a call."""

    name: str
    schema: Schema
    text: str
    place: str = "query"
    is_required: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the Parameter Object."""
        described: dict[str, Any] = {
            "name": self.name,
            "in": self.place,
            "description": self.text,
            "schema": self.schema,
        }
        if self.is_required or self.place == "path":
            described["required"] = True
        return described


@dataclass(frozen=True, kw_only=True)
class DocumentedAnswer:
    """An answer with one status."""

    text: str
    content: BodyContent = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The parameters of calls that may follow, by the name of the call."""

    def describe(self) -> dict[str, Any]:
        """Return the Response Object."""
        described: dict[str, Any] = {"description": self.text}
        if self.headers:
            described["headers"] = dict(self.headers)
        if self.content:
            described["content"] = {name: {"schema": schema} for name, schema in self.content.items()}
        if self.links:
            described["links"] = {
                name: {"operationId": name, "parameters": dict(parameters)} for name, parameters in self.links.items()
            }
        return described


@dataclass(frozen=True, kw_only=True)
class DocumentedCall:
    """The description of a call."""

    name: str
    group: str
    text: str
    answers: Mapping[int, DocumentedAnswer]
    parameters: tuple[DocumentedParameter, ...] = ()
    body: BodyContent = field(default_factory=dict)
    has_optional_body: bool = False
    details: str = ""


# ---------------------------------------------------------------- answers
def make_content(schema: Schema) -> BodyContent:
    """Return the content of an answer that is in the encoding of the caller."""
    return {JSON: schema, MSGPACK: schema}


def describe_failures(
    book: SchemaBook, types: Iterable[type[StreamdError]], *, is_public: bool = False
) -> dict[int, DocumentedAnswer]:
    """Return the answers to a call that fails with one of these errors, or with one that every call may have."""
    schema = book.refer(ErrorAnswer)
    every = (*types, *SITE_ERRORS, *(() if is_public else CALLER_ERRORS))
    statuses = sorted({choose_status(each.__new__(each)) for each in every})
    return make_error_answers(statuses, make_content(schema))


def describe_foreign_failures(
    content: BodyContent,
    types: Iterable[type[StreamdError]] = BODY_ERRORS,
    others: Mapping[int, BodyContent] | None = None,
) -> dict[int, DocumentedAnswer]:
    """Return the answers to a call of another agent that fails with one of these errors, or with one of every call.

    Their statuses are those that its protocol expects; `others` have another content.
    """
    every = (*types, *SITE_ERRORS, *CALLER_ERRORS)
    statuses = sorted({choose_foreign_status(each.__new__(each)) for each in every})
    return make_error_answers(statuses, content, others)


def make_error_answers(
    statuses: Iterable[int], content: BodyContent, others: Mapping[int, BodyContent] | None = None
) -> dict[int, DocumentedAnswer]:
    """Return the answers with these statuses; `others` have another content."""
    return {
        status: DocumentedAnswer(
            text=DESCRIPTIONS[status],
            content=(others or {}).get(status, content),
            headers={
                **(_RETRY_AFTER if status in _RETRY_STATUSES else {}),
                **(_CHALLENGE if status == 401 else {}),
            },
        )
        for status in statuses
    }
