"""Tests `streamd/http/documents/asyncapi.py`: every WebSocket and event stream is described, in a valid document."""

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from streamd.http.access.rules import ROUTE_RULES
from streamd.http.documents.asyncapi import describe_channels, make_asyncapi
from streamd.http.documents.openapi import describe_calls
from streamd.http.documents.operations import EVENT_STREAM
from streamd.http.documents.schemas import SchemaBook
from streamd.http.subscriptions import LIST_PARAMETERS, SINGLE_PARAMETERS
from tests.support.http_harness import CONTRACT

SCHEMA = Path(__file__).parents[2] / "fixtures" / "asyncapi" / "asyncapi-3.0.0.json.gz"
"""The official schema."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(make_asyncapi(CONTRACT, ROUTE_RULES)))
    return made


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validator = jsonschema.Draft7Validator(json.loads(gzip.decompress(SCHEMA.read_bytes())))
    assert [error.message for error in validator.iter_errors(document)] == []
    broken = {**document, "channels": {"samples": {"adress": "/v1/ingest"}}}
    assert list(validator.iter_errors(broken))


def test_each_socket_and_each_event_stream_is_a_channel() -> None:
    book = SchemaBook(CONTRACT)
    sockets = {
        path
        for (method, path), rule in ROUTE_RULES.items()
        if method == "GET" and (rule.serves_socket or rule.upgrade_scope is not None)
    }
    calls = describe_calls(book)
    streams = {
        path for (_, path), call in calls.items() for each in call.answers.values() if EVENT_STREAM in each.content
    }
    channels = describe_channels(book)
    assert {channel.path for channel in channels if not channel.is_event_stream} == sockets
    assert {channel.path for channel in channels if channel.is_event_stream} == streams


def test_each_reference_leads_to_something(document: dict[str, Any]) -> None:
    references = [part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/')[1:]]
    assert references
    for reference in references:
        place: Any = document
        for part in reference.split("/"):
            assert part in place, reference
            place = place[part]


def test_each_message_is_sent_or_received(document: dict[str, Any]) -> None:
    used = {name for channel in document["channels"].values() for name in channel["messages"]}
    assert used == set(document["components"]["messages"])


def test_a_socket_has_every_parameter_of_a_subscription(document: dict[str, Any]) -> None:
    query = document["channels"]["forecasts"]["bindings"]["ws"]["query"]["properties"]
    assert set(query) == {"server", *LIST_PARAMETERS, *SINGLE_PARAMETERS}


def test_an_operation_names_its_scope(document: dict[str, Any]) -> None:
    assert document["operations"]["receive.samples"]["description"] == "Needs the scope `ingest`."
    assert document["operations"]["send.forecasts"]["description"] == "Needs the scope `subscribe`."
