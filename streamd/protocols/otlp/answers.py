"""The answers to export requests, in the encoding of the request. Knows no HTTP status.

By "OTLP/HTTP Response" of the protocol's specification 1.9: the body of a good answer is an
`ExportMetricsServiceResponse`, and that of an error a `google.rpc.Status`.
"""

from enum import Enum

import msgspec
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)

from streamd.core.errors import ForbiddenError, StreamdError, UnauthorizedError

MAX_MESSAGE_CHARACTERS = 1_000
"""The largest length of the text of an answer; agents write it to their logs."""

_INVALID_ARGUMENT, _PERMISSION_DENIED, _UNAVAILABLE, _UNAUTHENTICATED = 3, 7, 14, 16
"""Values of `google.rpc.Code`."""


class OtlpEncoding(Enum):
    """The encoding of an export request and of its answer; the value is its Content-Type."""

    PROTOBUF = "application/x-protobuf"
    JSON = "application/json"


def encode_export_answer(encoding: OtlpEncoding, rejected: int = 0, message: str = "") -> bytes:
    """Encode the answer to a request of which this many points were rejected, for these reasons."""
    message = message[:MAX_MESSAGE_CHARACTERS]
    if encoding is OtlpEncoding.JSON:
        # Protobuf's JSON writes an integer of 64 bits as text.
        partial = {"rejectedDataPoints": str(rejected), "errorMessage": message}
        return msgspec.json.encode({"partialSuccess": partial} if rejected or message else {})
    answer = ExportMetricsServiceResponse()
    if rejected or message:
        answer.partial_success.rejected_data_points = rejected
        answer.partial_success.error_message = message
    return answer.SerializeToString()


def encode_export_error(encoding: OtlpEncoding, error: StreamdError) -> bytes:
    """Encode the answer to a request of which nothing was taken."""
    code = _choose_code(error)
    message = str(error)[:MAX_MESSAGE_CHARACTERS]
    if encoding is OtlpEncoding.JSON:
        return msgspec.json.encode({"code": code, "message": message})
    # `google.rpc.Status` is in a package that streamd does not need otherwise. Its fields `code` and `message` have the
    # numbers and wire types of these two fields; the details are left out.
    return ExportMetricsPartialSuccess(rejected_data_points=code, error_message=message).SerializeToString()


def _choose_code(error: StreamdError) -> int:
    if isinstance(error, UnauthorizedError):
        return _UNAUTHENTICATED
    if isinstance(error, ForbiddenError):
        return _PERMISSION_DENIED
    return _UNAVAILABLE if error.retry else _INVALID_ARGUMENT
