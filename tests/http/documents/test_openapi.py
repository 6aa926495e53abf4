"""Tests `streamd/http/documents/openapi.py`: every route is described, truthfully, and in a valid document."""

import json
from typing import Any

import pytest
from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from streamd.http.access.rules import ROUTE_RULES, VERSION_RULES, RouteKey
from streamd.http.documents.openapi import GROUPS, describe_calls, make_openapi
from streamd.http.documents.schemas import SchemaBook
from tests.support.http_harness import CONTRACT

RULES = {**ROUTE_RULES, **VERSION_RULES}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(make_openapi(CONTRACT, RULES)))
    return made


def list_operations(document: dict[str, Any]) -> dict[RouteKey, dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


def find_differences(described: set[RouteKey], routes: set[RouteKey]) -> set[RouteKey]:
    return described ^ routes


def test_each_route_is_described_and_nothing_else() -> None:
    described = set(describe_calls(SchemaBook(CONTRACT)))
    assert find_differences(described, {*RULES, ("GET", "/v1/new")}) == {("GET", "/v1/new")}
    assert find_differences({*described, ("GET", "/v1/old")}, set(RULES)) == {("GET", "/v1/old")}
    assert find_differences(described, set(RULES)) == set()


def test_a_document_has_the_routes_of_its_application_only(document: dict[str, Any]) -> None:
    assert set(list_operations(document)) == set(RULES)
    without = make_openapi(CONTRACT, ROUTE_RULES)
    assert set(list_operations(without)) == set(ROUTE_RULES)


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)
    broken = json.loads(json.dumps(document))
    broken["paths"]["/healthz"]["get"]["responses"] = {"200": {}}
    with pytest.raises(OpenAPIValidationError):
        validate(broken)


def test_each_call_has_a_name_of_its_own_a_text_and_a_group(document: dict[str, Any]) -> None:
    operations = list_operations(document).values()
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(operation["summary"].endswith(".") for operation in operations)
    assert {group for operation in operations for group in operation["tags"]} == set(GROUPS)


def test_the_scopes_are_those_of_the_rules(document: dict[str, Any]) -> None:
    for key, operation in list_operations(document).items():
        scope = RULES[key].scope
        ways = operation["security"]
        assert [next(iter(way.values())) for way in ways] == ([] if scope is None else [[str(scope)]] * 3), key


def test_a_call_that_needs_a_scope_may_be_refused(document: dict[str, Any]) -> None:
    for key, operation in list_operations(document).items():
        assert ("401" in operation["responses"]) is (RULES[key].scope is not None), key
        assert {"403", "421"} <= set(operation["responses"]), key


def test_each_schema_is_used_and_each_reference_leads_to_one(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references == set(document["components"]["schemas"])


def test_the_shapes_are_those_of_the_model(document: dict[str, Any]) -> None:
    window = document["components"]["schemas"]["PredictInputs"]["anyOf"][0]["properties"]["encoder_cont"]
    assert window["minItems"] == window["maxItems"] == CONTRACT.context_length
    assert window["items"]["maxItems"] == len(CONTRACT.features)


def test_links_name_calls(document: dict[str, Any]) -> None:
    operations = list_operations(document)
    names = {operation["operationId"] for operation in operations.values()}
    links = [
        link["operationId"]
        for operation in operations.values()
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert links
    assert set(links) <= names
