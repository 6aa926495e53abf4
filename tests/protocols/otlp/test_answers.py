"""Tests `streamd/protocols/otlp/answers.py`: answers to export requests, read as exporters read them."""

import json

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from streamd.core.errors import MalformedError, TooBusyError
from streamd.protocols.otlp.answers import OtlpEncoding, encode_export_answer, encode_export_error


def read(encoding: OtlpEncoding, body: bytes) -> ExportMetricsServiceResponse:
    if encoding is OtlpEncoding.JSON:
        return json_format.Parse(body, ExportMetricsServiceResponse())
    return ExportMetricsServiceResponse.FromString(body)


def test_a_full_success_has_no_partial_success() -> None:
    for encoding in OtlpEncoding:
        assert not read(encoding, encode_export_answer(encoding)).HasField("partial_success")
    assert encode_export_answer(OtlpEncoding.PROTOBUF) == b""


def test_a_partial_success_has_the_count_and_the_reason() -> None:
    for encoding in OtlpEncoding:
        partial = read(encoding, encode_export_answer(encoding, 3, "ä" * 2_000)).partial_success
        assert (partial.rejected_data_points, partial.error_message) == (3, "ä" * 1_000)


def test_an_error_is_a_status() -> None:
    body = encode_export_error(OtlpEncoding.PROTOBUF, MalformedError("wrong"))
    assert body == b"\x08\x03\x12\x05wrong"  # google.rpc.Status: int32 code = 1, string message = 2
    long = encode_export_error(OtlpEncoding.PROTOBUF, TooBusyError("x" * 300))
    assert long == b"\x08\x0e\x12\xac\x02" + b"x" * 300
    shown = json.loads(encode_export_error(OtlpEncoding.JSON, TooBusyError("full")))
    assert shown == {"code": 14, "message": "full"}
