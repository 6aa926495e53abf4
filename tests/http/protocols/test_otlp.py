"""Tests `streamd/http/protocols/otlp.py`: `POST /v1/metrics` over real sockets, into the collector of a service."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from streamd.core.errors import DrainingError, StorageError, StreamdError, TooBusyError
from streamd.core.mapping.rules import parse_rule_set
from streamd.http.app import make_connection_parts
from streamd.http.errors import errors_middleware
from streamd.http.protocols.intake import Intake
from streamd.http.protocols.otlp import OtlpRoutes
from streamd.http.requests import BodyReader, TransportLimits
from streamd.http.runner import HttpRunner
from tests.http.conftest import Start
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, open_listener
from tests.support.naive_otlp import make_attributes, make_request, to_otlp_json
from tests.support.open_access import admit_anybody

PROTOBUF, JSON = "application/x-protobuf", "application/json"
RULES = parse_rule_set(
    "opentelemetry",
    {
        "server": ["host.name"],
        "cpu_user": {"metric": "system.cpu.utilization", "where": {"state": "user"}, "by": ["cpu"], "factor": 100.0},
        "load_average": {"metric": "load"},
    },
)


@dataclass
class Answer:
    """An answer that was read whole."""

    status: int
    headers: Any
    data: bytes

    @property
    def partial(self) -> ExportMetricsPartialSuccess:
        """The partial success of a good answer, in the encoding that its type names."""
        assert self.status == 200
        if self.headers["Content-Type"] == JSON:
            return json_format.Parse(self.data, ExportMetricsServiceResponse()).partial_success
        assert self.headers["Content-Type"] == PROTOBUF
        return ExportMetricsServiceResponse.FromString(self.data).partial_success

    @property
    def message(self) -> str:
        """The message of an error, a `google.rpc.Status`; the fields of this other message have the same numbers."""
        if self.headers["Content-Type"] == JSON:
            return str(json.loads(self.data)["message"])
        return ExportMetricsPartialSuccess.FromString(self.data).error_message


@dataclass
class Receiver:
    """The route over the service of a daemon, on a port of its own."""

    daemon: HttpDaemon
    url: str

    async def post(self, body: bytes, content_type: str | None = PROTOBUF, **headers: str) -> Answer:
        if content_type is not None:
            headers["Content-Type"] = content_type
        skipped = ("Content-Type",) if content_type is None else ()
        async with self.daemon.session.post(
            self.url, data=body, headers=headers, skip_auto_headers=skipped
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    @property
    def counts(self) -> Any:
        return self.daemon.service.collector.counts["otlp"]


@asynccontextmanager
async def run_receiver(daemon: HttpDaemon, limits: TransportLimits) -> AsyncIterator[Receiver]:
    app = web.Application(middlewares=[errors_middleware, admit_anybody], client_max_size=limits.max_body_bytes)
    parts = make_connection_parts(limits, daemon.service.pauses)
    intake = Intake(daemon.service.collector, BodyReader(limits, daemon.service.pauses, parts.budget))
    OtlpRoutes(daemon.service, intake).add_to(app)
    runner = HttpRunner(app, parts, shutdown_timeout_seconds=0.05)
    await runner.setup()
    await web.SockSite(runner, open_listener()).start()
    try:
        yield Receiver(daemon, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/metrics")
    finally:
        await runner.cleanup()


Open = Callable[[TransportLimits], Awaitable[Receiver]]


@pytest.fixture
async def open_receiver(start: Start) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_one(limits: TransportLimits) -> Receiver:
            daemon = await start(HttpDaemonSettings(rule_sets=[RULES]))
            return await stack.enter_async_context(run_receiver(daemon, limits))

        yield open_one


@pytest.fixture
async def receiver(open_receiver: Open) -> Receiver:
    return await open_receiver(TransportLimits())


def point(value: float, seconds: float = 0.0, **attributes: str) -> NumberDataPoint:
    at = time.time_ns() + int(seconds * 1e9)
    return NumberDataPoint(time_unix_nano=at, as_double=value, attributes=make_attributes(**attributes))


def load(*points: NumberDataPoint, host: str = "web-01", name: str = "load") -> ExportMetricsServiceRequest:
    attributes = make_attributes(host_name=host) if host else make_attributes(service_name="unknown_service")
    return make_request(Metric(name=name, gauge=Gauge(data_points=points)), resource=Resource(attributes=attributes))


def encode(request: ExportMetricsServiceRequest, content_type: str) -> bytes:
    is_json = content_type == JSON
    return json.dumps(to_otlp_json(request)).encode() if is_json else request.SerializeToString()


# ---------------------------------------------------------------- 200
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_points_are_taken_and_answered_in_the_encoding_of_the_request(
    receiver: Receiver, content_type: str
) -> None:
    body = encode(load(point(1.0), point(2.0, 1.0)), content_type)
    for data, headers in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
        answer = await receiver.post(data, content_type, **headers)
        assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
        assert answer.partial == ExportMetricsPartialSuccess()
    assert (receiver.counts.bodies, receiver.counts.taken) == (2, 4)
    assert "web-01" in receiver.daemon.service.state.directory.slots


@pytest.mark.parametrize("content_type", [f"{PROTOBUF}; charset=utf-8", "Application/X-Protobuf"])
async def test_a_type_may_have_parameters_and_capitals(receiver: Receiver, content_type: str) -> None:
    answer = await receiver.post(load(point(1.0)).SerializeToString(), content_type)
    assert answer.partial == ExportMetricsPartialSuccess()


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_an_empty_request_is_a_success(receiver: Receiver, content_type: str) -> None:
    answer = await receiver.post(b"{}" if content_type == JSON else b"", content_type)
    assert answer.partial == ExportMetricsPartialSuccess()


async def test_a_series_that_no_rule_wants_is_no_rejection(receiver: Receiver) -> None:
    answer = await receiver.post(load(point(1.0), name="process.thread.count", host="").SerializeToString())
    assert answer.partial == ExportMetricsPartialSuccess()
    assert receiver.counts.ignored == {"no_rule": 1}


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_points_without_a_server_are_rejected_with_the_reason(receiver: Receiver, content_type: str) -> None:
    request = load(point(1.0), point(2.0), host="")
    request.MergeFrom(load(point(1.0)))
    partial = (await receiver.post(encode(request, content_type), content_type)).partial
    assert partial.rejected_data_points == 2
    assert partial.error_message.startswith("2 data points name no server: the resource attribute host.name is missing")
    assert receiver.counts.taken == 1


async def test_a_bad_point_is_rejected_beside_good_ones(receiver: Receiver) -> None:
    request = load(point(1.0), point(float("inf")), point(3.0, 1e6), point(4.0, 1.0))
    partial = (await receiver.post(request.SerializeToString())).partial
    assert partial.rejected_data_points == 2
    assert "2 data points were rejected: " in partial.error_message
    assert "dataPoints[1] (load): the value is inf" in partial.error_message
    assert receiver.counts.taken == 2


def read_capture(name: str) -> ExportMetricsServiceRequest:
    """Return a captured request as if it were sent now."""
    body = Path(f"tests/fixtures/agents/opentelemetry/{name}.body").read_bytes()
    request = ExportMetricsServiceRequest.FromString(body)
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        for each in (metric.gauge if metric.HasField("gauge") else metric.sum).data_points:
            each.time_unix_nano = time.time_ns()
    return request


@pytest.mark.parametrize(
    ("name", "taken", "skipped", "rejected"),
    [("first-zero-utilization", 0, 8, 0), ("second", 2, 0, 0), ("no-host-name", 0, 0, 2)],
)
async def test_a_captured_body(receiver: Receiver, name: str, taken: int, skipped: int, rejected: int) -> None:
    # The rules want the utilization of two cores in state user.
    partial = (await receiver.post(read_capture(name).SerializeToString())).partial
    assert partial.rejected_data_points == rejected
    assert receiver.counts.taken == taken
    assert sum(receiver.counts.skipped.values()) == skipped


# ---------------------------------------------------------------- 4xx: senders do not repeat the request
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_a_body_that_cannot_be_read_is_400_with_a_status(receiver: Receiver, content_type: str) -> None:
    answer = await receiver.post(b"\x0b\xff{", content_type)
    assert (answer.status, answer.headers["Content-Type"]) == (400, content_type)
    assert answer.message
    assert "Retry-After" not in answer.headers
    assert receiver.counts.refused == {"malformed": 1}


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "application/grpc", "", None])
async def test_another_type_is_415(receiver: Receiver, content_type: str | None) -> None:
    answer = await receiver.post(load(point(1.0)).SerializeToString(), content_type)
    assert answer.status == 415
    assert answer.message.endswith("expected application/x-protobuf or application/json")


async def test_another_coding_is_415(receiver: Receiver) -> None:
    answer = await receiver.post(b"x", **{"Content-Encoding": "br"})
    assert (answer.status, answer.headers["Content-Type"]) == (415, PROTOBUF)
    assert "gzip" in answer.headers["Accept-Encoding"]


async def test_a_body_that_is_not_in_its_coding_is_400(receiver: Receiver) -> None:
    answer = await receiver.post(b"not gzip", **{"Content-Encoding": "gzip"})
    assert answer.status == 400
    assert "gzip" in answer.message


async def test_a_body_that_is_too_large_is_413(open_receiver: Open) -> None:
    receiver = await open_receiver(TransportLimits(max_body_bytes=1_000))
    body = load(*(point(1.0) for _ in range(100))).SerializeToString()
    for data, headers in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
        answer = await receiver.post(data, **headers)
        assert answer.status == 413
        assert "1000" in answer.message


# ---------------------------------------------------------------- 503: senders repeat the request
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize("error", [TooBusyError("full"), DrainingError("stopping")])
async def test_an_overload_is_503_before_the_body_is_read(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, error: StreamdError, content_type: str
) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(receiver.daemon.service.collector, "check_open", refuse)
    answer = await receiver.post(b"\x0b\xff", content_type)
    assert (answer.status, answer.headers["Content-Type"]) == (503, content_type)
    assert answer.headers["Retry-After"] == "1"
    assert answer.message == str(error)
    monkeypatch.undo()
    assert (await receiver.post(load(point(1.0)).SerializeToString())).status == 200


async def test_points_that_cannot_be_stored_are_503(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(batch: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(receiver.daemon.service.collector, "commit", fail)
    answer = await receiver.post(load(point(1.0)).SerializeToString())
    assert (answer.status, answer.message) == (503, "the disk is full")


async def test_other_senders_are_answered_while_a_large_body_is_decoded(receiver: Receiver) -> None:
    large = load(*(point(1.0, index=str(index)) for index in range(20_000)), name="other").SerializeToString()
    slow = asyncio.ensure_future(receiver.post(large))
    quick = [await receiver.post(load(point(1.0)).SerializeToString()) for _ in range(3)]
    assert [answer.status for answer in quick] == [200] * 3
    assert (await slow).status == 200
