"""The calls of operators as the document describes them: versions, probes, and the documents themselves."""

from collections.abc import Mapping

from streamd.core import errors
from streamd.http.access.rules import RouteKey
from streamd.http.documents.answers import (
    CandidateAnswer,
    CandidateEndAnswer,
    ChangeAnswer,
    HealthAnswer,
    NotReadyAnswer,
    ReadyAnswer,
)
from streamd.http.documents.operations import (
    BODY_ERRORS,
    JSON,
    PLAIN_TEXT,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
    make_content,
)
from streamd.http.documents.schemas import TEXT_SCHEMA, SchemaBook
from streamd.http.documents.status_answer import StatusAnswer
from streamd.http.documents.version_answers import VersionsAnswer
from streamd.http.routes.versions import CandidateRequest, Promotion, Rollback


def describe_version_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of versions by route."""
    change_errors = (
        *BODY_ERRORS,
        errors.ReloadError,
        errors.RepositoryError,
        errors.BackendUnavailableError,
    )
    changed = {
        200: DocumentedAnswer(text="The version serves.", content=make_content(book.refer(ChangeAnswer))),
        **describe_failures(book, change_errors),
    }
    return {
        ("GET", "/v1/engines"): DocumentedCall(
            name="listVersions",
            group="versions",
            text="List the versions, what serves, and the promotions.",
            answers={
                200: DocumentedAnswer(text="The versions.", content=make_content(book.refer(VersionsAnswer))),
                **describe_failures(book, (errors.RepositoryError,)),
            },
        ),
        ("POST", "/v1/engines/promote"): DocumentedCall(
            name="promoteVersion",
            group="versions",
            text="Let another version serve, without a restart.",
            body=make_content(book.refer(Promotion)),
            answers=changed,
        ),
        ("POST", "/v1/engines/rollback"): DocumentedCall(
            name="rollBackVersion",
            group="versions",
            text="Undo the last promotion.",
            body=make_content(book.refer(Rollback)),
            has_optional_body=True,
            answers=changed,
        ),
        ("POST", "/v1/engines/candidate"): DocumentedCall(
            name="startCandidate",
            group="versions",
            text="Load a candidate as a canary or as a shadow.",
            body=make_content(book.refer(CandidateRequest)),
            answers={
                200: DocumentedAnswer(text="The candidate is warm.", content=make_content(book.refer(CandidateAnswer))),
                **describe_failures(book, change_errors),
            },
        ),
        ("DELETE", "/v1/engines/candidate"): DocumentedCall(
            name="endCandidate",
            group="versions",
            text="End the candidate, if there is one.",
            answers={
                200: DocumentedAnswer(
                    text="There is no candidate.", content=make_content(book.refer(CandidateEndAnswer))
                ),
                **describe_failures(book, (errors.ReloadError, errors.DrainingError)),
            },
        ),
    }


def describe_probes(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of probes, metrics and documents by route."""
    public = describe_failures(book, (), is_public=True)
    return {
        ("GET", "/healthz"): DocumentedCall(
            name="getHealth",
            group="probes",
            text="Answer as long as the event loop runs.",
            answers={200: DocumentedAnswer(text="Alive.", content=make_content(book.refer(HealthAnswer))), **public},
        ),
        ("GET", "/readyz"): DocumentedCall(
            name="getReadiness",
            group="probes",
            text="Answer whether the daemon can forecast now.",
            answers={
                200: DocumentedAnswer(text="A lane is warm.", content=make_content(book.refer(ReadyAnswer))),
                503: DocumentedAnswer(text="Not now.", content=make_content(book.refer(NotReadyAnswer))),
                **public,
            },
        ),
        ("GET", "/metrics"): DocumentedCall(
            name="getMetrics",
            group="probes",
            text="Return the metrics of the daemon in the Prometheus text format.",
            answers={
                200: DocumentedAnswer(text="The metrics.", content={PLAIN_TEXT: TEXT_SCHEMA}),
                **describe_failures(book, ()),
            },
        ),
        ("GET", "/v1/status"): DocumentedCall(
            name="getStatus",
            group="probes",
            text="Return what is loaded and how it does.",
            answers={
                200: DocumentedAnswer(text="The status.", content=make_content(book.refer(StatusAnswer))),
                **describe_failures(book, ()),
            },
        ),
        **_describe_documents(public),
    }


def _describe_documents(failures: Mapping[int, DocumentedAnswer]) -> dict[RouteKey, DocumentedCall]:
    tag = DocumentedParameter(
        name="If-None-Match",
        schema=TEXT_SCHEMA,
        text="The `ETag` of the document that the caller has.",
        place="header",
    )
    answers = {
        200: DocumentedAnswer(
            text="The document.", content={JSON: {"type": "object"}}, headers={"ETag": {"schema": TEXT_SCHEMA}}
        ),
        304: DocumentedAnswer(text="The caller has the document already."),
        **failures,
    }
    return {
        ("GET", path): DocumentedCall(name=name, group="documents", text=text, parameters=(tag,), answers=answers)
        for path, name, text in (
            ("/openapi.json", "getOpenApi", "Return this document: the HTTP calls, as OpenAPI 3.1."),
            ("/asyncapi.json", "getAsyncApi", "Return the WebSockets and event streams, as AsyncAPI 3.0."),
        )
    }
