"""The smallest body of each foreign protocol: the load of one server at one time."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import cramjam
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tests.support.remote_write_bodies import encode_request_1

JSON_TYPE = {"Content-Type": "application/json"}

LOAD = 1.5


def make_load_lines(server: str, at: int) -> bytes:
    """Return line protocol as Telegraf writes it."""
    return f"system,host={server} load1={LOAD} {at}000000000\n".encode()


def _remote_write(server: str, at: int) -> bytes:
    labels = [("__name__", "node_load1"), ("server", server)]
    return bytes(cramjam.snappy.compress_raw(encode_request_1([(labels, [(at * 1000, LOAD)])])))


def _otlp(server: str, at: int) -> bytes:
    gauge = Gauge(data_points=[NumberDataPoint(time_unix_nano=at * 10**9, as_double=LOAD)])
    scope = ScopeMetrics(metrics=[Metric(name="system.cpu.load_average.1m", gauge=gauge)])
    resource = Resource(attributes=[KeyValue(key="host.name", value=AnyValue(string_value=server))])
    request = ExportMetricsServiceRequest(resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scope])])
    return request.SerializeToString()


def _collectd(server: str, at: int) -> Any:
    item = {"values": [LOAD] * 3, "dstypes": ["gauge"] * 3, "dsnames": ["shortterm", "midterm", "longterm"]}
    names = {"host": server, "plugin": "load", "plugin_instance": "", "type": "load", "type_instance": ""}
    return [{**item, **names, "time": at, "interval": 10.0}]


def _netdata(server: str, at: int) -> Any:
    chart = {"chart_id": "system.load", "chart_name": "system.load", "chart_family": "load", "units": "load"}
    more = {"chart_context": "system.load", "chart_type": "system", "id": "load1", "name": "load1"}
    return [{"prefix": "netdata", "hostname": server, **chart, **more, "value": LOAD, "timestamp": at}]


def _glances(server: str, at: int) -> Any:
    iso = datetime.fromtimestamp(at, UTC).isoformat()
    return {"now": {"iso": iso}, "system": {"hostname": server}, "load": {"min1": LOAD, "min5": 1.0, "min15": 1.0}}


def _pcp(server: str, at: int) -> Any:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
    load = {"@instances": [{"name": "1 minute", "value": LOAD}]}
    metrics = [{"@interval": "10", "@timestamp": stamp, "kernel": {"all": {"load": load}}}]
    return {"@pcp": {"@hosts": [{"@host": server, "@source": server, "@timezone": "UTC", "@metrics": metrics}]}}


def make_agent_request(path: str, server: str, at: int) -> tuple[bytes, Mapping[str, str]]:
    """Return the body and the headers of a request to a route of a foreign protocol; `at` is in epoch seconds."""
    if path in ("/api/v1/write", "/receive"):
        kind = {"Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "0.1.0"}
        return _remote_write(server, at), {**kind, "Content-Encoding": "snappy"}
    if path == "/v1/metrics":
        return _otlp(server, at), {"Content-Type": "application/x-protobuf"}
    makers = {"/collectd": _collectd, "/api/put": _netdata, "/glances": _glances, "/pcp": _pcp}
    if path in makers:
        return json.dumps(makers[path](server, at)).encode(), JSON_TYPE
    return make_load_lines(server, at), {"Content-Type": "text/plain"}
