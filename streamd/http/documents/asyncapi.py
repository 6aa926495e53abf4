"""The document of the WebSockets and the event streams: AsyncAPI 3.0, from the types of the frames."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import streamd
from streamd.core.contract import ModelContract
from streamd.core.selection import FRAME_DTYPES
from streamd.core.state.samples import Sample
from streamd.http.access.rules import RouteKey, RouteRule
from streamd.http.alert_frames import SubscribeAlertsMessage
from streamd.http.documents.agent_answers import PointsAnswer
from streamd.http.documents.alert_calls import AlertsFrame, SubscribedAlertsFrame
from streamd.http.documents.answers import ErrorAnswer
from streamd.http.documents.fleet_calls import FleetFrame, SubscribedFleetFrame
from streamd.http.documents.frames import (
    AckFrame,
    ForecastsFrame,
    LaggedFrame,
    PushedForecast,
    SubscribedFrame,
    UnsubscribedFrame,
)
from streamd.http.documents.openapi import describe_calls
from streamd.http.documents.schemas import (
    ANY_SCHEMA,
    TEXT_SCHEMA,
    Schema,
    SchemaBook,
    add_sample_schemas,
    add_tensor_schema,
    make_enum_schema,
    make_list_schema,
)
from streamd.http.fleet_frames import SubscribeFleetMessage
from streamd.http.subscriptions import MAX_INTERVAL_SECONDS, SubscribeMessage
from streamd.http.unsubscribing import UnsubscribeMessage

ABOUT_SOCKETS = (
    "The WebSockets and event streams of streamd. Text frames are JSON, binary frames MessagePack, in which nested"
    " lists of numbers are tensors, `{shape, dtype, data}`. An answer has the encoding of the frame that it answers."
)


@dataclass(frozen=True, kw_only=True)
class DocumentedChannel:
    """A WebSocket or an event stream: the messages that the daemon receives there, and those that it sends."""

    name: str
    path: str
    text: str
    received: Mapping[str, Schema] = field(default_factory=dict)
    sent: Mapping[str, Schema]
    is_event_stream: bool = False
    query: Mapping[str, Schema] = field(default_factory=dict)


def make_asyncapi(contract: ModelContract, rules: Mapping[RouteKey, RouteRule]) -> dict[str, Any]:
    """Return the document of an application with these rules, for a model with this contract."""
    book = SchemaBook(contract)
    channels = describe_channels(book)
    scopes = {channel.name: _describe_scope(rules["GET", channel.path]) for channel in channels}
    messages: dict[str, Schema] = {}
    for channel in channels:
        messages |= {**channel.received, **channel.sent}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "streamd",
            "version": streamd.__version__,
            "description": ABOUT_SOCKETS,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "webSockets": _describe_server("ws", "The WebSockets."),
            "eventStreams": _describe_server("http", "The event streams."),
        },
        "channels": {channel.name: _describe_channel(channel) for channel in channels},
        "operations": {
            name: operation
            for channel in channels
            for name, operation in _describe_operations(channel, scopes[channel.name]).items()
        },
        "components": {
            "messages": {name: {"name": name, "payload": schema} for name, schema in sorted(messages.items())},
            "schemas": book.render(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The token."},
                "basic": {"type": "http", "scheme": "basic", "description": "The token as the password."},
                "protocol": {
                    "type": "httpApiKey",
                    "in": "header",
                    "name": "Sec-WebSocket-Protocol",
                    "description": "`streamd, streamd.token.TOKEN`, for pages: a browser sets no other header.",
                },
            },
        },
    }


# ---------------------------------------------------------------- channels
def describe_channels(book: SchemaBook) -> list[DocumentedChannel]:
    """Return every WebSocket and event stream."""
    error = book.refer(ErrorAnswer)
    forecast, lagged = book.refer(PushedForecast), book.refer(LaggedFrame)
    alerts = {"subscribed-alerts": book.refer(SubscribedAlertsFrame), "alerts": book.refer(AlertsFrame)}
    samples = add_sample_schemas(book, book.refer(Sample), add_tensor_schema(book))
    return [
        DocumentedChannel(
            name="samples",
            path="/v1/ingest",
            text="Samples in, with an ack for each frame. A frame that cannot be read gets an `error` frame.",
            received={"samples": samples},
            sent={"ack": book.refer(AckFrame), "error": error},
            query={
                "ack": make_enum_schema(["all", "none"], description="`none`: no acks, for agents that never read.")
            },
        ),
        DocumentedChannel(
            name="forecasts",
            path="/v1/forecasts",
            text="Forecasts out, for a subscription in a `subscribe` frame or in the query. The newest one counts.",
            received={
                "subscribe": book.refer(SubscribeMessage),
                "subscribe-alerts": book.refer(SubscribeAlertsMessage),
                "subscribe-fleet": book.refer(SubscribeFleetMessage),
                "unsubscribe": book.refer(UnsubscribeMessage),
            },
            sent={
                "subscribed": book.refer(SubscribedFrame),
                "forecast": forecast,
                "forecasts": book.refer(ForecastsFrame),
                "lagged": lagged,
                **alerts,
                "subscribed-fleet": book.refer(SubscribedFleetFrame),
                "fleet": book.refer(FleetFrame),
                "unsubscribed": book.refer(UnsubscribedFrame),
                "error": error,
            },
            query=_list_query(book),
        ),
        DocumentedChannel(
            name="forecastStream",
            path="/v1/forecasts/stream",
            text="Forecasts as server-sent events; the name of the event is the type of its data.",
            sent={"forecast": forecast, "lagged": lagged},
            is_event_stream=True,
        ),
        DocumentedChannel(
            name="alertStream",
            path="/v1/alerts/stream",
            text="Alerts as server-sent events: first those that are active, then each change.",
            sent=alerts,
            is_event_stream=True,
        ),
        DocumentedChannel(
            name="telegraf",
            path="/telegraf",
            text="Telegraf's JSON or line protocol. Only frames with errors are answered.",
            received={"metrics": ANY_SCHEMA},
            sent={"points": book.refer(PointsAnswer), "error": error},
        ),
    ]


def _list_query(book: SchemaBook) -> dict[str, Schema]:
    """Return the parameters of a subscription by name: those of the event stream, and those of a WebSocket alone."""
    stream = describe_calls(SchemaBook(book.contract))["GET", "/v1/forecasts/stream"]
    shared = {each.name: each.schema for each in stream.parameters if each.place == "query"}
    return {
        **shared,
        "server": make_list_schema(TEXT_SCHEMA),
        "batch": {"type": "boolean", "default": False},
        "interval_seconds": {"type": "number", "minimum": 0, "maximum": MAX_INTERVAL_SECONDS, "default": 0},
        "dtype": make_enum_schema(FRAME_DTYPES, default="float32"),
        "format": make_enum_schema(["json", "msgpack"], default="json"),
        "ids": {"type": "boolean", "default": False},
    }


def _describe_channel(channel: DocumentedChannel) -> dict[str, Any]:
    """Return the Channel Object of a channel."""
    names = {**channel.received, **channel.sent}
    if channel.is_event_stream:
        server, bindings = "eventStreams", {}
    else:
        query = {"query": {"type": "object", "properties": dict(channel.query)}} if channel.query else {}
        server, bindings = "webSockets", {"ws": {"method": "GET", **query, "bindingVersion": "0.1.0"}}
    described: dict[str, Any] = {
        "address": channel.path,
        "description": channel.text,
        "servers": [{"$ref": f"#/servers/{server}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }
    return {**described, "bindings": bindings} if bindings else described


def _describe_operations(channel: DocumentedChannel, scope: str) -> dict[str, Any]:
    """Return the operations of a channel, as the daemon sees them: what it receives there, and what it sends."""
    operations: dict[str, Any] = {}
    schemes = ("bearer", "basic") if channel.is_event_stream else ("bearer", "basic", "protocol")
    for action, messages in (("receive", channel.received), ("send", channel.sent)):
        if not messages:
            continue
        operation: dict[str, Any] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel.name}"},
            "description": scope,
            "messages": [{"$ref": f"#/channels/{channel.name}/messages/{name}"} for name in messages],
            "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in schemes],
        }
        if channel.is_event_stream:
            operation["bindings"] = {"http": {"method": "GET", "bindingVersion": "0.3.0"}}
        operations[f"{action}.{channel.name}"] = operation
    return operations


def _describe_server(protocol: str, text: str) -> dict[str, Any]:
    address = {"default": "127.0.0.1:8002", "description": "The host and the port of the daemon."}
    return {"host": "{address}", "protocol": protocol, "description": text, "variables": {"address": address}}


def _describe_scope(rule: RouteRule) -> str:
    return f"Needs the scope `{rule.upgrade_scope or rule.scope}`."
