"""Bodies as agents send them, 100 series a server, and the decode-only floor of each form.

The names, labels and kinds are those of the captures in `tests/fixtures/agents`, made for a server of 8 cores (4 in
Telegraf's shape). Values change from scrape to scrape. `Form.decode_floor` is the least that a receiver can do: see
each of them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import cramjam
import msgspec
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from streamd.core.mapping.series import PointSink
from streamd.http.requests import TransportLimits
from streamd.protocols.block_codings import decode_block
from streamd.protocols.collectd import CollectdDecoder
from streamd.protocols.line_protocol import decode_line_protocol
from streamd.protocols.opentsdb import PutBody
from streamd.protocols.otlp.json import decode_otlp_json
from streamd.protocols.otlp.protobuf import decode_otlp_protobuf
from streamd.protocols.prometheus.remote_write import RemoteWriteMessage, decode_remote_write
from streamd.protocols.telegraf import decode_telegraf

SERIES = 100
"""Of one server."""

SCRAPE_SECONDS = 60
START = 1_700_000_100
"""The begin of a step of 300 s."""

REMOTE_WRITE_SERVERS = 20
"""In one body of remote write: 2,000 samples, as Prometheus 3.x sends at most by default."""

Labels = dict[str, str]
Series = tuple[str, Labels, bool]
"""Name, labels, and whether it is a counter."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A protocol, with the bodies that one of its agents sends."""

    name: str
    path: str
    headers: dict[str, str]
    servers_a_body: int = 1
    make_body: Callable[[range, int], bytes]
    """Makes the body of these servers' scrape of this number."""
    decode_floor: Callable[[bytes], int]
    """Decodes a body and reads every label and sample in it; returns the number of samples."""
    decode: Callable[[bytes, PointSink[Any]], Iterator[None]]
    """Streamd's decompression and decoder."""
    protocol: str
    """Its name in `/v1/status`."""


def name_server(server: int) -> str:
    """Return the name of a server; all have the same length."""
    return f"web-{server:05d}"


def compute_time(scrape: int) -> int:
    """Return the epoch second of a scrape."""
    return START + 7 + scrape * SCRAPE_SECONDS


def compute_value(place: int, server: int, scrape: int, is_counter: bool) -> float:
    """Return the value of a series; a counter rises."""
    base = 10.0 + (server * 7 + place * 3) % 80 + 0.37
    return 1e5 * base + scrape * (20 + place % 7) if is_counter else base + scrape % 5


def _list(name: str, is_counter: bool, label: str, values: Iterable[str], **others: str) -> list[Series]:
    return [(name, {label: value, **others}, is_counter) for value in values]


# ---------------------------------------------------------------- Prometheus
@cache
def list_node_exporter_series() -> tuple[Series, ...]:
    """Return 100 of the series of node_exporter 1.5.0 with `--collector.tcpstat`."""
    series: list[Series] = []
    for core in range(8):
        modes = ("idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user")
        series += _list("node_cpu_seconds_total", True, "mode", modes, cpu=str(core))
    series += [(f"node_memory_{name}_bytes", {}, False) for name in ("MemAvailable", "MemTotal", "MemFree", "Cached")]
    series += [(f"node_memory_Swap{name}_bytes", {}, False) for name in ("Free", "Total", "Cached")]
    for part in ("size", "free", "avail"):
        place = {"device": "/dev/vda1", "fstype": "ext4", "mountpoint": "/"}
        series += [(f"node_filesystem_{part}_bytes", place, False)]
    for way in ("receive_bytes", "transmit_bytes", "receive_packets", "transmit_packets"):
        series += _list(f"node_network_{way}_total", True, "device", ("eth0",))
    states = ("established", "listen", "time_wait", "close_wait", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2")
    series += _list("node_tcp_connection_states", False, "state", states)
    gauges = ("load1", "load5", "load15", "time_seconds", "boot_time_seconds", "procs_running", "procs_blocked")
    series += [(f"node_{name}", {}, False) for name in gauges]
    counters = ("context_switches", "intr", "forks")
    series += [(f"node_{name}_total", {}, True) for name in counters]
    disk = ("read_bytes", "written_bytes", "reads_completed", "writes_completed")
    series += [(f"node_disk_{name}_total", {"device": "vda"}, True) for name in disk]
    assert len(series) == SERIES, len(series)
    return tuple(series)


def _list_prometheus_labels(series: Series, server: int) -> list[tuple[str, str]]:
    name, labels, _ = series
    return sorted({**labels, "__name__": name, "instance": f"{name_server(server)}:9100", "job": "node"}.items())


def _add_message(file: FileDescriptorProto, name: str, fields: dict[str, tuple[int, Any, bool]]) -> DescriptorProto:
    message = file.message_type.add(name=name)
    for field_name, (number, kind, is_repeated) in fields.items():
        added = message.field.add(name=field_name, number=number)
        added.label = FieldDescriptorProto.LABEL_REPEATED if is_repeated else FieldDescriptorProto.LABEL_OPTIONAL
        if isinstance(kind, str):
            added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, kind
        else:
            added.type = kind
    return message


def _make_classes() -> tuple[Any, Any]:
    """Return the messages of remote write 1.0 and 2.0 whole, as generated code has them (prompb of Prometheus 3.14).

    Histograms and exemplars are left out: no body here has any.
    """
    string, double = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_DOUBLE
    int64, uint32, enum = (
        FieldDescriptorProto.TYPE_INT64,
        FieldDescriptorProto.TYPE_UINT32,
        FieldDescriptorProto.TYPE_INT32,
    )
    one = FileDescriptorProto(name="prompb.proto", package="prometheus", syntax="proto3")
    _add_message(one, "Label", {"name": (1, string, False), "value": (2, string, False)})
    _add_message(one, "Sample", {"value": (1, double, False), "timestamp": (2, int64, False)})
    series = {"labels": (1, ".prometheus.Label", True), "samples": (2, ".prometheus.Sample", True)}
    _add_message(one, "TimeSeries", series)
    _add_message(one, "WriteRequest", {"timeseries": (1, ".prometheus.TimeSeries", True)})
    two = FileDescriptorProto(name="v2.proto", package="v2", syntax="proto3")
    _add_message(two, "Sample", {"value": (1, double, False), "timestamp": (2, int64, False)})
    _add_message(two, "Metadata", {"type": (1, enum, False), "help_ref": (3, uint32, False)})
    parts = {
        "labels_refs": (1, uint32, True),
        "samples": (2, ".v2.Sample", True),
        "metadata": (5, ".v2.Metadata", False),
    }
    _add_message(two, "TimeSeries", parts)
    _add_message(two, "Request", {"symbols": (4, string, True), "timeseries": (5, ".v2.TimeSeries", True)})
    pool = DescriptorPool()
    for file in (one, two):
        pool.AddSerializedFile(file.SerializeToString())
    find = pool.FindMessageTypeByName
    return GetMessageClass(find("prometheus.WriteRequest")), GetMessageClass(find("v2.Request"))


WriteRequest1, WriteRequest2 = _make_classes()


def make_remote_write_1(servers: range, scrape: int) -> bytes:
    """Make a body of remote write 1.0 with snappy: each sample is a series of its own, as Prometheus writes it."""
    request, time = WriteRequest1(), compute_time(scrape) * 1000
    for server in servers:
        for place, series in enumerate(list_node_exporter_series()):
            added = request.timeseries.add()
            for label, text in _list_prometheus_labels(series, server):
                added.labels.add(name=label, value=text)
            added.samples.add(value=compute_value(place, server, scrape, series[2]), timestamp=time)
    return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


def make_remote_write_2(servers: range, scrape: int) -> bytes:
    """Make a body of remote write 2.0 with snappy: texts are numbers of symbols."""
    request, time = WriteRequest2(), compute_time(scrape) * 1000
    symbols: dict[str, int] = {"": 0}
    for server in servers:
        for place, series in enumerate(list_node_exporter_series()):
            added = request.timeseries.add()
            for label in _list_prometheus_labels(series, server):
                added.labels_refs.extend(symbols.setdefault(text, len(symbols)) for text in label)
            added.metadata.type = 1 if series[2] else 2
            added.metadata.help_ref = symbols.setdefault(f"What {series[0]} means.", len(symbols))
            added.samples.add(value=compute_value(place, server, scrape, series[2]), timestamp=time)
    request.symbols.extend(symbols)
    return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


def decode_remote_write_1_floor(body: bytes) -> int:
    """Decompress, parse with protobuf's own messages, and read the text of every label and every sample."""
    samples = 0
    for series in WriteRequest1.FromString(bytes(cramjam.snappy.decompress_raw(body))).timeseries:
        for label in series.labels:
            _ = label.name, label.value
        for sample in series.samples:
            _ = sample.timestamp, sample.value
            samples += 1
    return samples


def decode_remote_write_2_floor(body: bytes) -> int:
    """Decompress, parse with protobuf's own messages, and look up the text of every label; read every sample."""
    request, samples = WriteRequest2.FromString(bytes(cramjam.snappy.decompress_raw(body))), 0
    symbols = list(request.symbols)
    for series in request.timeseries:
        for reference in series.labels_refs:
            _ = symbols[reference]
        for sample in series.samples:
            _ = sample.timestamp, sample.value
            samples += 1
    return samples


def _decode_remote_write(message: RemoteWriteMessage) -> Callable[[bytes, PointSink[Any]], Iterator[None]]:
    def decode(body: bytes, sink: PointSink[Any]) -> Iterator[None]:
        return decode_remote_write(decode_block("snappy", body, TransportLimits().max_body_bytes), sink, message)

    return decode


# ---------------------------------------------------------------- OpenTelemetry
@dataclass(frozen=True)
class _Metric:
    name: str
    unit: str
    is_counter: bool
    points: Sequence[Mapping[str, str | int]] = field(default_factory=list)


@cache
def _list_otlp_metrics() -> tuple[_Metric, ...]:
    """Return metrics of opentelemetry-instrumentation-system-metrics 0.66b2 with 100 points."""
    cores = [{"state": s, "cpu": core} for core in range(1, 9) for s in ("idle", "user", "system", "irq")]
    memory, swap = ([{"state": s} for s in states] for states in (("used", "free", "cached"), ("used", "free")))
    disks = [{"device": d, "direction": way} for d in ("vda", "vdb") for way in ("read", "write")]
    devices = [{"device": d, "direction": way} for d in ("lo", "eth0") for way in ("transmit", "receive")]
    states = ("ESTABLISHED", "LISTEN", "TIME_WAIT")
    connections: list[dict[str, str | int]] = [
        {"protocol": "tcp", "state": state, "family": 2, "type": 1} for state in states
    ]
    metrics = (
        _Metric("system.cpu.time", "s", True, cores),
        _Metric("system.cpu.utilization", "1", False, cores),
        _Metric("system.memory.usage", "By", False, memory),
        _Metric("system.memory.utilization", "1", False, memory),
        _Metric("system.swap.usage", "pages", False, swap),
        _Metric("system.swap.utilization", "1", False, swap),
        _Metric("system.disk.io", "By", True, disks),
        _Metric("system.disk.operations", "operations", True, disks),
        _Metric("system.disk.time", "s", True, disks),
        _Metric("system.network.io", "By", True, devices),
        _Metric("system.network.packets", "packets", True, devices),
        _Metric("system.network.connections", "connections", False, connections),
        _Metric("system.thread_count", "", False, [{}]),
        _Metric("process.cpu.time", "s", True, [{"type": "user"}, {"type": "system"}]),
    )
    assert sum(len(metric.points) for metric in metrics) == SERIES
    return metrics


def _list_resource(server: int) -> dict[str, str]:
    return {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": "1.45.2",
        "service.instance.id": f"010c9fc1-8e93-4e4d-9a26-f7c01e{server:06d}",
        "host.name": name_server(server),
        "service.name": "web",
    }


def _iterate_otlp(server: int, scrape: int) -> Iterator[tuple[_Metric, list[tuple[Mapping[str, str | int], float]]]]:
    place = 0
    for metric in _list_otlp_metrics():
        points = []
        for attributes in metric.points:
            value = compute_value(place, server, scrape, metric.is_counter)
            points.append((attributes, value / 1000 if metric.unit == "1" else value))
            place += 1
        yield metric, points


def make_otlp(servers: range, scrape: int) -> bytes:
    """Make an export request in protobuf, not compressed, as Python's exporter sends it."""
    request, time = ExportMetricsServiceRequest(), compute_time(scrape) * 10**9
    for server in servers:
        found = request.resource_metrics.add()
        for key, text in _list_resource(server).items():
            found.resource.attributes.add(key=key).value.string_value = text
        scope = found.scope_metrics.add()
        scope.scope.name = "opentelemetry.instrumentation.system_metrics"
        for metric, points in _iterate_otlp(server, scrape):
            added = scope.metrics.add(name=metric.name, unit=metric.unit)
            data = added.sum if metric.is_counter else added.gauge
            if metric.is_counter:
                added.sum.is_monotonic = True
                added.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
            for attributes, value in points:
                point = data.data_points.add(time_unix_nano=time, as_double=value)
                if metric.is_counter:
                    point.start_time_unix_nano = START * 10**9
                for key, given in attributes.items():
                    kind = "int_value" if isinstance(given, int) else "string_value"
                    setattr(point.attributes.add(key=key).value, kind, given)
    return request.SerializeToString()


def make_otlp_json(servers: range, scrape: int) -> bytes:
    """Make an export request in JSON: what is an integer of 64 bits in protobuf is a text."""
    time = str(compute_time(scrape) * 10**9)
    resources = []
    for server in servers:
        metrics = []
        for metric, points in _iterate_otlp(server, scrape):
            shown = []
            for attributes, value in points:
                start = {"startTimeUnixNano": str(START * 10**9)} if metric.is_counter else {}
                shown.append({"attributes": _show(attributes), **start, "timeUnixNano": time, "asDouble": value})
            kind = {"aggregationTemporality": 2, "isMonotonic": True} if metric.is_counter else {}
            data = {"sum" if metric.is_counter else "gauge": {"dataPoints": shown, **kind}}
            metrics.append({"name": metric.name, "unit": metric.unit, **data})
        scope = {"scope": {"name": "opentelemetry.instrumentation.system_metrics"}, "metrics": metrics}
        resources.append({"resource": {"attributes": _show(_list_resource(server))}, "scopeMetrics": [scope]})
    return msgspec.json.encode({"resourceMetrics": resources})


def _show(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(given)} if isinstance(given, int) else {"stringValue": given}}
        for key, given in attributes.items()
    ]


def decode_otlp_floor(body: bytes) -> int:
    """Parse with opentelemetry-proto, and read every attribute, time and value."""
    points = 0
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for attribute in resource.resource.attributes:
            _ = attribute.key, attribute.value.string_value
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = metric.sum if metric.HasField("sum") else metric.gauge
                for point in data.data_points:
                    for attribute in point.attributes:
                        value = attribute.value
                        kind = value.WhichOneof("value")
                        _ = attribute.key, value.string_value if kind == "string_value" else value.int_value
                    number = point.as_double if point.WhichOneof("value") == "as_double" else point.as_int
                    _ = point.time_unix_nano, number
                    points += 1
    return points


def decode_otlp_json_floor(body: bytes) -> int:
    """Decode into plain objects with msgspec, and read every attribute, time and value."""
    points = 0
    for resource in msgspec.json.decode(body)["resourceMetrics"]:
        for attribute in resource["resource"]["attributes"]:
            _ = attribute["key"], next(iter(attribute["value"].values()))
        for scope in resource["scopeMetrics"]:
            for metric in scope["metrics"]:
                data = metric.get("sum") or metric["gauge"]
                for point in data["dataPoints"]:
                    for attribute in point["attributes"]:
                        _ = attribute["key"], next(iter(attribute["value"].values()))
                    _ = int(point["timeUnixNano"]), point["asDouble"]
                    points += 1
    return points


# ---------------------------------------------------------------- Telegraf
@cache
def _list_telegraf_metrics() -> tuple[tuple[str, Labels, tuple[str, ...]], ...]:
    """Return measurements of Telegraf with its default inputs, netstat and net; 100 fields."""
    names = ("user", "system", "idle", "active", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
    cpu = tuple(f"usage_{name}" for name in names)
    return (
        *(("cpu", {"cpu": name}, cpu) for name in ("cpu-total", "cpu0", "cpu1", "cpu2", "cpu3")),
        ("mem", {}, ("total", "available", "used", "free", "cached", "buffered", "used_percent", "available_percent")),
        ("swap", {}, ("total", "used", "free", "used_percent")),
        ("disk", {"path": "/", "device": "vda1", "fstype": "ext4"}, ("total", "free", "used", "used_percent")),
        *(
            ("net", {"interface": name}, ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv", "err_in"))
            for name in ("eth0", "eth1")
        ),
        ("netstat", {}, tuple(f"tcp_{s}" for s in ("established", "listen", "time_wait", "close_wait", "syn_sent"))),
        ("system", {}, ("load1", "load5", "load15", "n_cpus", "n_users", "uptime")),
        ("kernel", {}, ("boot_time", "context_switches", "interrupts", "processes_forked")),
        ("processes", {}, ("running", "sleeping", "blocked", "zombies")),
    )


def _iterate_telegraf(server: int, scrape: int) -> Iterator[tuple[str, Labels, dict[str, float]]]:
    place = 0
    for name, tags, fields in _list_telegraf_metrics():
        values = {}
        for each in fields:
            is_counter = each.startswith(("bytes", "packets"))
            values[each] = compute_value(place, server, scrape, is_counter)
            place += 1
        yield name, {**tags, "host": name_server(server)}, values
    assert place == SERIES, place


def make_lines(servers: range, scrape: int) -> bytes:
    """Make line protocol as Telegraf writes it: several fields a line, and a timestamp in nanoseconds."""
    lines, time = [], compute_time(scrape) * 10**9
    for server in servers:
        for name, tags, values in _iterate_telegraf(server, scrape):
            shown = "".join(f",{key}={value}" for key, value in sorted(tags.items()))
            lines.append(f"{name}{shown} {','.join(f'{key}={value}' for key, value in values.items())} {time}\n")
    return "".join(lines).encode()


def make_telegraf_json(servers: range, scrape: int) -> bytes:
    """Make a batch of Telegraf's JSON; timestamps are in seconds, its default."""
    metrics = [
        {"fields": values, "name": name, "tags": tags, "timestamp": compute_time(scrape)}
        for server in servers
        for name, tags, values in _iterate_telegraf(server, scrape)
    ]
    return msgspec.json.encode({"metrics": metrics})


def decode_lines_floor(body: bytes) -> int:
    """Split lines, tags and fields, as text without escapes allows, and convert every number and timestamp."""
    points = 0
    for line in body.split(b"\n"):
        if not line:
            continue
        prefix, fields, time = line.split(b" ")
        for tag in prefix.split(b",")[1:]:
            _ = tag.partition(b"=")
        _ = int(time)
        for each in fields.split(b","):
            name, _, value = each.partition(b"=")
            _ = name, float(value)
            points += 1
    return points


def decode_telegraf_floor(body: bytes) -> int:
    """Decode into plain objects with msgspec, and read every tag and field."""
    points = 0
    for metric in msgspec.json.decode(body)["metrics"]:
        for tag in metric["tags"].items():
            _ = tag
        for _ in metric["fields"].items():
            points += 1
    return points


# ---------------------------------------------------------------- collectd and netdata
@cache
def _list_collectd_items() -> tuple[dict[str, Any], ...]:
    """Return 97 value lists of collectd 5.12.0 with its defaults, which hold 100 values."""
    states = ("user", "system", "wait", "nice", "interrupt", "softirq", "steal", "idle")
    items = [_make_item("cpu", str(core), "cpu", state, is_counter=True) for core in range(8) for state in states]
    items += [_make_item("memory", "", "memory", s) for s in ("used", "buffered", "cached", "free")]
    items += [_make_item("memory", "", "memory", s) for s in ("slab_unrecl", "slab_recl")]
    items += [_make_item("load", "", "load", "", names=("shortterm", "midterm", "longterm"))]
    items += [_make_item("df", "root", "df_complex", s) for s in ("used", "free", "reserved")]
    items += [_make_item("interface", "eth0", "if_octets", "", is_counter=True, names=("rx", "tx"))]
    tcp = ("ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSED", "CLOSE_WAIT")
    items += [_make_item("tcpconns", "all", "tcp_connections", s) for s in (*tcp, "LAST_ACK", "LISTEN", "CLOSING")]
    items += [_make_item("swap", "", "swap", s) for s in ("used", "free", "cached")]
    items += [_make_item("uptime", "", "uptime", "")]
    items += [
        _make_item("processes", "", "ps_state", s) for s in ("running", "sleeping", "zombies", "stopped", "paging")
    ]
    items += [_make_item("processes", "", "ps_state", "blocked"), _make_item("users", "", "users", "")]
    assert sum(len(item["dsnames"]) for item in items) == SERIES
    return tuple(items)


def _make_item(
    plugin: str,
    instance: str,
    kind: str,
    kind_instance: str,
    is_counter: bool = False,
    names: Sequence[str] = ("value",),
) -> dict[str, Any]:
    return {
        "dstypes": ["derive" if is_counter else "gauge"] * len(names),
        "dsnames": list(names),
        "interval": 60.0,
        "plugin": plugin,
        "plugin_instance": instance,
        "type": kind,
        "type_instance": kind_instance,
    }


def make_collectd(servers: range, scrape: int) -> bytes:
    """Make the JSON of write_http, raw counters (its default); here a step is not divided into posts of 4 kB."""
    items = []
    for server in servers:
        place = 0
        for item in _list_collectd_items():
            values = []
            for dstype in item["dstypes"]:
                value = compute_value(place, server, scrape, dstype == "derive")
                values.append(int(value) if dstype == "derive" else value)
                place += 1
            items.append({"values": values, "time": compute_time(scrape) + 0.708, "host": name_server(server), **item})
    return msgspec.json.encode(items)


@cache
def _list_netdata_dimensions() -> tuple[tuple[str, str, str], ...]:
    """Return 100 dimensions of netdata 1.37.1 as chart, family and dimension."""
    cpu = ("guest_nice", "guest", "steal", "softirq", "irq", "user", "system", "nice", "iowait", "idle")
    charts = [("system.cpu", "cpu", each) for each in cpu]
    charts += [(f"cpu.cpu{core}", "utilization", each) for core in range(5) for each in cpu]
    charts += [("system.ram", "ram", each) for each in ("free", "used", "cached", "buffers")]
    charts += [("system.swap", "swap", each) for each in ("free", "used")]
    charts += [("disk_space._", "/", each) for each in ("avail", "used", "reserved_for_root")]
    charts += [("system.net", "network", each) for each in ("InOctets", "OutOctets")]
    charts += [(f"net.{device}", device, each) for device in ("eth0", "eth1") for each in ("received", "sent")]
    charts += [("system.load", "load", each) for each in ("load1", "load5", "load15")]
    charts += [("system.uptime", "uptime", "uptime")]
    charts += [(f"disk.{disk}", disk, each) for disk in ("vda", "vdb") for each in ("reads", "writes")]
    charts += [("ipv4.tcppackets", "tcp", each) for each in ("InSegs", "OutSegs")]
    charts += [("system.processes", "processes", each) for each in ("running", "blocked")]
    charts += [("system.io", "disk", each) for each in ("in", "out")]
    charts += [("system.pgpgio", "disk", each) for each in ("in", "out")]
    charts += [(name, "processes", name) for name in ("system.ctxt", "system.intr", "system.forks")]
    charts += [
        ("mem.kernel", "kernel", each) for each in ("Slab", "KernelStack", "PageTables", "VmallocUsed", "Percpu")
    ]
    charts += [("mem.available", "system", "MemAvailable")]
    assert len(charts) == SERIES, len(charts)
    return tuple(charts)


def make_netdata(servers: range, scrape: int) -> bytes:
    """Make the JSON of netdata's exporting engine, `average`: an object a dimension, values with seven decimals."""
    items, time = [], compute_time(scrape)
    for server in servers:
        for place, (chart, family, name) in enumerate(_list_netdata_dimensions()):
            context = {"disk_space._": "disk.space"}.get(chart, "net.net" if chart.startswith("net.") else chart)
            value = compute_value(place, server, scrape, False)
            items.append(
                f'{{"prefix":"netdata","hostname":"{name_server(server)}","labels":{{"_is_ephemeral":"false",'
                f'"_has_unstable_connection":"false"}},"chart_id":"{chart}","chart_name":"{chart}",'
                f'"chart_family":"{family}","chart_context": "{context}","chart_type":"{chart.split(".")[0]}",'
                f'"units": "percentage","id":"{name}","name":"{name}","value":{value:.7f},"timestamp": {time}}}'
            )
    return ("[\n" + ",\n".join(items) + "\n]\n").encode()


def decode_collectd_floor(body: bytes) -> int:
    """Decode into plain objects with msgspec, and read every text that names a series and every value."""
    points = 0
    for item in msgspec.json.decode(body):
        _ = item["host"], item["plugin"], item["plugin_instance"], item["type"], item["type_instance"], item["time"]
        for _ in zip(item["dsnames"], item["dstypes"], item["values"], strict=True):
            points += 1
    return points


def decode_netdata_floor(body: bytes) -> int:
    """Decode into plain objects with msgspec, and read every text that names a series and every value."""
    points = 0
    for item in msgspec.json.decode(body):
        _ = item["hostname"], item["chart_id"], item["chart_family"], item["chart_context"], item["id"], item["name"]
        _ = item["timestamp"], item["value"]
        points += 1
    return points


# ---------------------------------------------------------------- all forms
_NOW = 1_700_000_000.0
_PROTOBUF, _JSON = {"Content-Type": "application/x-protobuf"}, {"Content-Type": "application/json"}
_SNAPPY = {**_PROTOBUF, "Content-Encoding": "snappy"}
_VERSION_2 = {**_SNAPPY, "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}


def _decode_put(body: bytes, sink: PointSink[Any]) -> Iterator[None]:
    return PutBody().decode(body, sink)


FORMS = (
    Form(
        name="remote write 1.0, snappy",
        path="/api/v1/write",
        headers=_SNAPPY,
        servers_a_body=REMOTE_WRITE_SERVERS,
        make_body=make_remote_write_1,
        decode_floor=decode_remote_write_1_floor,
        decode=_decode_remote_write(RemoteWriteMessage.VERSION_1),
        protocol="remote_write",
    ),
    Form(
        name="remote write 2.0, snappy",
        path="/api/v1/write",
        headers=_VERSION_2,
        servers_a_body=REMOTE_WRITE_SERVERS,
        make_body=make_remote_write_2,
        decode_floor=decode_remote_write_2_floor,
        decode=_decode_remote_write(RemoteWriteMessage.VERSION_2),
        protocol="remote_write",
    ),
    Form(
        name="OTLP, protobuf",
        path="/v1/metrics",
        headers=_PROTOBUF,
        make_body=make_otlp,
        decode_floor=decode_otlp_floor,
        decode=lambda body, sink: decode_otlp_protobuf(body, sink, _NOW),
        protocol="otlp",
    ),
    Form(
        name="OTLP, protobuf, 20 servers",
        path="/v1/metrics",
        headers=_PROTOBUF,
        servers_a_body=20,
        make_body=make_otlp,
        decode_floor=decode_otlp_floor,
        decode=lambda body, sink: decode_otlp_protobuf(body, sink, _NOW),
        protocol="otlp",
    ),
    Form(
        name="OTLP, JSON",
        path="/v1/metrics",
        headers=_JSON,
        make_body=make_otlp_json,
        decode_floor=decode_otlp_json_floor,
        decode=lambda body, sink: decode_otlp_json(body, sink, _NOW),
        protocol="otlp",
    ),
    Form(
        name="line protocol, Telegraf",
        path="/api/v2/write?precision=ns",
        headers={"Content-Type": "text/plain; charset=utf-8"},
        make_body=make_lines,
        decode_floor=decode_lines_floor,
        decode=lambda body, sink: decode_line_protocol(body, sink, _NOW),
        protocol="influx",
    ),
    Form(
        name="Telegraf JSON",
        path="/telegraf",
        headers=_JSON,
        make_body=make_telegraf_json,
        decode_floor=decode_telegraf_floor,
        decode=lambda body, sink: decode_telegraf(body, sink, _NOW),
        protocol="telegraf",
    ),
    Form(
        name="collectd",
        path="/collectd",
        headers=_JSON,
        make_body=make_collectd,
        decode_floor=decode_collectd_floor,
        decode=CollectdDecoder().decode,
        protocol="collectd",
    ),
    Form(
        name="netdata JSON",
        path="/api/put",
        headers=_JSON,
        make_body=make_netdata,
        decode_floor=decode_netdata_floor,
        decode=_decode_put,
        protocol="put",
    ),
)
"""The paths that agents push by, and OTLP also as a Collector sends it, which batches servers. Left out are glances (a
body is one host's refresh) and PCP (a whole run)."""


def check_forms() -> None:
    """Check that each floor finds the samples of a body; raises `ValueError` if it does not."""
    for form in FORMS:
        found = form.decode_floor(form.make_body(range(form.servers_a_body), 0))
        if found != SERIES * form.servers_a_body:
            raise ValueError(f"{form.name}: {found} samples in a body, expected {SERIES * form.servers_a_body}")
    json.loads(make_netdata(range(1), 0))
