"""What schemathesis needs to know beside the document: bodies that are not JSON, and what no JSON Schema can state.

It imports this module by the variable SCHEMATHESIS_HOOKS.
"""

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

from streamd.http.open_inference.routes import BINARY_TYPE, MODEL_PATHS
from tests.support.agent_bodies import LOAD, make_agent_request
from tests.support.http_harness import CONTRACT, JSON, MSGPACK, at, make_tensor

AnyCase = Case[Any]

PROTOBUF = "application/x-protobuf"

EXPORT = make_agent_request("/v1/metrics", "web-01", at(200))[0]
WRITE = make_agent_request("/api/v1/write", "web-01", at(200))[0]
UNKNOWN_HEADER = "x-schemathesis-unknown-property"
LINES = f"system,host=web-01 load1={LOAD}\n".encode()
"""Without a timestamp, so that they are valid with every `precision`."""

INFERENCE = msgspec.json.encode(
    {
        "inputs": [
            {"name": name, "datatype": "FP32", "shape": [1, *shape], "data": [1] * math.prod(shape)}
            for name, shape in CONTRACT.input_shapes.items()
            if name.endswith("_cont")
        ]
    }
)
"""A request in JSON; its type does not say whether bytes follow."""


# Before the serializers, because it registers some too.
schemathesis.openapi.media_type(PROTOBUF, st.just(EXPORT))
schemathesis.openapi.media_type("text/plain", st.just(LINES))
schemathesis.openapi.media_type(BINARY_TYPE, st.just(INFERENCE))


@schemathesis.serializer(MSGPACK)
def pack_body(context: Any, value: Any) -> bytes:
    """Encode a body as MessagePack, a valid one with tensors of as many bytes as numbers."""
    return msgspec.msgpack.encode(repair_body(context.case, value))


@schemathesis.serializer(PROTOBUF)
def send_protobuf(context: Any, value: Any) -> bytes:
    """Send bytes as they are, and the message of the path in place of a valid one."""
    if value == EXPORT and context.case.operation.path in ("/api/v1/write", "/receive"):
        return WRITE
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer(MSGPACK)
def unpack_answer(context: Any, response: Any) -> Any:
    """Decode an answer in MessagePack."""
    return msgspec.msgpack.decode(response.content)


@schemathesis.deserializer(PROTOBUF, BINARY_TYPE)
def read_bytes(context: Any, response: Any) -> Any:
    """Stand in for an answer whose bytes no schema describes."""
    return {"bytes": len(response.content)}


@schemathesis.hook
def filter_case(context: HookContext, case: AnyCase) -> bool:
    """Leave out requests of which no document can say whether they are valid, and those that cannot be sent."""
    return not any(is_left_out(case) for is_left_out in LEFT_OUT)


def _has_unknown_header(case: AnyCase) -> bool:
    """Whether a request has a header that nobody defines: HTTP ignores it (RFC 9110, section 5.1)."""
    return UNKNOWN_HEADER in {name.lower() for name in case.headers or {}}


def _has_unsent_value(case: AnyCase) -> bool:
    """Whether a parameter has a value that the query shows as nothing, so that the request is another one."""
    values = (case.query or {}).values()
    return any(value is None or (isinstance(value, list) and (not value or None in value)) for value in values)


def _is_valid_by_form_alone(case: AnyCase) -> bool:
    """Whether a valid request has a cursor of no page, or a time before 1970."""
    query = case.query or {}
    times = [query[name] for name in ("since", "until") if isinstance(query.get(name), str)]
    is_early = any(each[:4] < "1971" for each in times)
    return is_valid(case) and (is_early or (case.operation.path == "/v1/alerts" and bool(query.get("cursor"))))


def _is_lines(case: AnyCase) -> bool:
    """Whether Telegraf's body is no JSON object: then it is read as lines, whatever its type is."""
    return case.operation.path == "/telegraf" and case.media_type == JSON and not isinstance(case.body, dict)


def _cannot_be_packed(case: AnyCase) -> bool:
    """Whether a body has what MessagePack lacks: whole numbers of over 64 bits, surrogates."""
    if case.media_type != MSGPACK or not isinstance(case.body, dict | list | str | int):
        return False
    try:
        msgspec.msgpack.encode(case.body)
    except (OverflowError, UnicodeEncodeError):
        return True
    return False


LEFT_OUT = (_has_unknown_header, _has_unsent_value, _is_valid_by_form_alone, _is_lines, _cannot_be_packed)
"""Tests for requests that are left out."""


@schemathesis.hook
def map_case(context: HookContext, case: AnyCase) -> AnyCase:
    """Give the lists of a valid body in JSON one length."""
    if case.media_type == JSON and (body := repair_body(case, case.body)) is not case.body:
        case.body = body
    return case


def repair_body(case: AnyCase, body: Any) -> Any:
    """Make a valid body what no schema can demand; returns any other body as it is."""
    repair = REPAIRS.get(case.operation.path)
    return repair(body, case.media_type) if is_valid(case) and repair is not None else body


def is_valid(case: AnyCase) -> bool:
    """Whether a request is made to agree with the document."""
    return case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE


# ---------------------------------------------------------------- repairs
def _repair_samples(body: Any, media_type: str | None) -> Any:
    columns = body.get("columns") if isinstance(body, dict) else None
    if not isinstance(columns, dict):
        return body
    count, values = len(columns["servers"]), columns["values"]
    if isinstance(values, dict):
        values = make_tensor(np.zeros((count, len(columns["features"])), np.float32))
        if media_type != MSGPACK:
            values = [[0.0] * len(columns["features"])] * count
    else:
        values = (values + [[]] * count)[:count]
    time = columns["time"]
    if isinstance(time, list):
        time = (time + [0] * count)[:count]
    return {**body, "columns": {**columns, "values": values, "time": time}}


def _repair_predict(body: Any, media_type: str | None) -> Any:
    if not isinstance(body, dict):
        return body
    if "inputs" in body:
        return {**body, "inputs": _repair_predict(body["inputs"], media_type)}
    if media_type == MSGPACK:
        types = {"encoder_cat": np.int32, "decoder_cat": np.int32}
        shapes = CONTRACT.input_shapes
        return {name: make_tensor(np.zeros(shapes[name], types.get(name, np.float32))) for name in body}
    axes = {name: len(CONTRACT.input_shapes[name]) for name in body}
    batched = [name for name, value in body.items() if _count_axes(value) > axes[name]]
    if not batched:
        return body
    windows = min(len(body[name]) for name in batched)
    return {name: value[:windows] if name in batched else [value] * windows for name, value in body.items()}


def _count_axes(value: Any) -> int:
    return 1 + _count_axes(value[0]) if isinstance(value, list) and value else 0


def _repair_inference(body: Any, media_type: str | None) -> Any:
    if not isinstance(body, dict):
        return body
    shapes = CONTRACT.input_shapes
    inputs = [
        {**each, "shape": [1, *shapes[each["name"]]], "data": [0] * math.prod(shapes[each["name"]])}
        for each in {each["name"]: each for each in body["inputs"]}.values()
    ]
    return {**body, "inputs": inputs}


REPAIRS: dict[str, Callable[[Any, str | None], Any]] = {
    "/v1/samples": _repair_samples,
    "/v1/predict": _repair_predict,
    "/predict": _repair_predict,
    **{f"{path}/infer": _repair_inference for path in MODEL_PATHS},
}
"""The repair of the bodies of each path."""
