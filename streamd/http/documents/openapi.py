"""The document of the HTTP calls: OpenAPI 3.1, from the calls and the rules of access."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamd
from streamd.core.contract import ModelContract
from streamd.http.access.rules import RouteKey, RouteRule
from streamd.http.documents.accuracy_calls import describe_accuracy_calls
from streamd.http.documents.agent_calls import describe_agent_calls
from streamd.http.documents.alert_calls import describe_alert_calls
from streamd.http.documents.data_calls import describe_predict_calls, describe_sample_calls
from streamd.http.documents.fleet_calls import describe_fleet_calls
from streamd.http.documents.forecast_calls import describe_forecast_calls, describe_forecast_metrics
from streamd.http.documents.open_inference_calls import describe_open_inference_calls
from streamd.http.documents.operations import DocumentedCall
from streamd.http.documents.operator_calls import describe_probes, describe_version_calls
from streamd.http.documents.page_calls import describe_page_calls
from streamd.http.documents.schemas import SchemaBook
from streamd.http.documents.server_calls import describe_server_calls
from streamd.http.documents.silence_calls import describe_silence_calls

GROUPS = {
    "samples": "Samples in.",
    "forecasts": "Forecasts out.",
    "alerts": "Alerts on forecasts.",
    "servers": "The servers that report.",
    "predictions": "Forecasts of the caller's own windows.",
    "inference": "The same, by the Open Inference Protocol.",
    "versions": "The versions, and which of them serves.",
    "probes": "For service managers, monitoring and operators.",
    "agents": "Other agents push unchanged: their paths, bodies and answers are those of their protocols.",
    "documents": "The interface as documents.",
    "page": "The page for operators, which uses only the calls of this document.",
}
"""The groups of calls."""

SECURITY_SCHEMES: Mapping[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token. The scheme `Token` is accepted in place of `Bearer`.",
    },
    "basic": {"type": "http", "scheme": "basic", "description": "The token as the password; the user is ignored."},
    "certificate": {"type": "mutualTLS", "description": "A client certificate that stands for a token."},
}
"""How a caller shows who it is. The role of a requirement is the scope that the token needs."""

ABOUT = (
    "Forecasts of servers. Without tokens the daemon serves everything but what needs the scope `admin`; with tokens,"
    " every call needs one that has the scope, for the servers that it names. Bodies are JSON or MessagePack, by"
    " Content-Type; the answer has the encoding of the body, and without a body the one that `Accept` names. `HEAD`"
    " works where `GET` does, except for event streams. A path that does not exist gets 404, another method 405."
)


DESCRIBERS: Sequence[Callable[[SchemaBook], dict[RouteKey, DocumentedCall]]] = (
    describe_sample_calls,
    describe_forecast_calls,
    describe_forecast_metrics,
    describe_alert_calls,
    describe_silence_calls,
    describe_fleet_calls,
    describe_accuracy_calls,
    describe_server_calls,
    describe_predict_calls,
    describe_open_inference_calls,
    describe_version_calls,
    describe_probes,
    describe_page_calls,
    describe_agent_calls,
)


def describe_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return every call that a document can describe, by route."""
    calls: dict[RouteKey, DocumentedCall] = {}
    for describe in DESCRIBERS:
        calls |= describe(book)
    return calls


def make_openapi(contract: ModelContract, rules: Mapping[RouteKey, RouteRule]) -> dict[str, Any]:
    """Return the document of an application with these rules, for a model with this contract."""
    book = SchemaBook(contract)
    calls = describe_calls(book)
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), rule in rules.items():
        if (method, path) in calls:  # a test checks that each route is described
            paths.setdefault(path, {})[method.lower()] = _describe_call(calls[method, path], rule)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "streamd",
            "version": streamd.__version__,
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in GROUPS.items()],
        "paths": paths,
        "components": {"schemas": book.render(), "securitySchemes": dict(SECURITY_SCHEMES)},
    }


def _describe_call(call: DocumentedCall, rule: RouteRule) -> dict[str, Any]:
    """Return the Operation Object of a call."""
    described: dict[str, Any] = {
        "operationId": call.name,
        "tags": [call.group],
        "summary": call.text,
        "responses": {str(status): answer.describe() for status, answer in sorted(call.answers.items())},
    }
    if details := " ".join(filter(None, (call.details, _describe_rule(rule)))):
        described["description"] = details
    if call.parameters:
        described["parameters"] = [parameter.describe() for parameter in call.parameters]
    if call.body:
        content = {name: {"schema": schema} for name, schema in call.body.items()}
        described["requestBody"] = {"content": content, "required": not call.has_optional_body}
    described["security"] = [] if rule.scope is None else [{name: [str(rule.scope)]} for name in SECURITY_SCHEMES]
    return described


def _describe_rule(rule: RouteRule) -> str:
    if rule.scope is None:
        return "Needs no token."
    for_all = ", for all servers" if rule.for_all_servers else ""
    return f"Needs the scope `{rule.scope}`{for_all}."
