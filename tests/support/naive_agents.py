"""Naive readers of what agents send, written from the protocols' own descriptions and not from streamd's decoders."""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

NaivePoint = tuple[str, dict[str, str], float, float]
"""The name of a series, its labels, epoch seconds, and the value."""


class NaivePoints:
    """The points of some captures, which are all in one step."""

    def __init__(self, points: Iterable[NaivePoint], step_seconds: int = 300) -> None:
        self.points = [point for point in points if not isnan(point[3])]
        assert len({time // step_seconds for _, _, time, _ in self.points}) <= 1, "the capture is in one step"

    def find(self, name: str, **labels: str) -> list[dict[float, float]]:
        """Return the series of this name and these labels, each as its values by time."""
        found: dict[str, dict[float, float]] = {}
        for other, given, time, value in self.points:
            if other == name and all(given.get(label) == wanted for label, wanted in labels.items()):
                found.setdefault(repr(sorted(given.items())), {})[time] = value
        return list(found.values())

    def mean(self, name: str, **labels: str) -> float | None:
        """Return the mean over time of the only series of this name and these labels, `None` if there is none."""
        found = self.find(name, **labels)
        assert len(found) <= 1, f"{name} {labels}: {len(found)} series"
        return sum(found[0].values()) / len(found[0]) if found else None

    def rates(self, name: str, **labels: str) -> list[float]:
        """Return the increase per second of each counter of this name and these labels that has two points."""
        result = []
        for values in self.find(name, **labels):
            first, last = min(values), max(values)
            if last > first:
                assert sorted(values.values()) == [values[time] for time in sorted(values)], "the counter never fell"
                result.append((values[last] - values[first]) / (last - first))
        return result


def scale(value: float | None, factor: float) -> float | None:
    """Return a value times a factor; what is missing stays so."""
    return None if value is None else value * factor


def divide(above: float | None, below: float | None, factor: float = 100.0) -> float | None:
    """Return the quotient of two values times a factor; `None` if one is missing or the divisor is 0."""
    return None if above is None or not below else factor * above / below


def add(*values: float | None) -> float | None:
    """Return the sum of values; `None` if one is missing."""
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None


def average(values: list[float]) -> float | None:
    """Return the mean of values, `None` if there are none."""
    return sum(values) / len(values) if values else None


def total(values: list[float]) -> float | None:
    """Return the sum of values, `None` if there are none."""
    return sum(values) if values else None


# ---------------------------------------------------------------- readers, one for each protocol
def read_collectd_naively(*files: Path) -> Iterator[NaivePoint]:
    """Yield the values of write_http's JSON, named plugin/type."""
    for file in files:
        for item in json.loads(file.read_bytes()):
            for value, ds in zip(item["values"], item["dsnames"], strict=True):
                if value is not None:
                    labels = {key: item[key] for key in ("host", "plugin_instance", "type_instance")}
                    yield f"{item['plugin']}/{item['type']}", labels | {"ds": ds}, item["time"], value


def read_netdata_naively(*files: Path) -> Iterator[NaivePoint]:
    """Yield the values of json:http, named by the chart's id."""
    for file in files:
        for item in json.loads(file.read_bytes()):
            yield item["chart_id"], {"id": item["id"], "host": item["hostname"]}, item["timestamp"], item["value"]


def _make_write_request() -> Any:
    """Build the message of remote write 1.0 by its specification's field numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="naive_remote_write.proto", package="naive", syntax="proto3")
    kinds = {"string": 9, "double": 1, "int64": 3}
    for name, fields in (
        ("Label", [("name", 1, "string", False), ("value", 2, "string", False)]),
        ("Sample", [("value", 1, "double", False), ("timestamp", 2, "int64", False)]),
        ("TimeSeries", [("labels", 1, ".naive.Label", True), ("samples", 2, ".naive.Sample", True)]),
        ("WriteRequest", [("timeseries", 1, ".naive.TimeSeries", True)]),
    ):
        message = file.message_type.add(name=name)
        for field, number, kind, is_repeated in fields:
            label = 3 if is_repeated else 1
            if kind in kinds:
                message.field.add(name=field, number=number, type=kinds[kind], label=label)
            else:
                message.field.add(name=field, number=number, type=11, type_name=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("naive.WriteRequest"))


_WriteRequest = _make_write_request()


def read_remote_write_naively(*files: Path) -> Iterator[NaivePoint]:
    """Yield the samples of remote write 1.0."""
    for file in files:
        request = _WriteRequest.FromString(bytes(cramjam.snappy.decompress_raw(file.read_bytes())))
        for series in request.timeseries:
            labels = {label.name: label.value for label in series.labels}
            name = labels.pop("__name__")
            for sample in series.samples:
                yield name, labels, sample.timestamp / 1000, sample.value


def read_scrape_naively(*files: Path) -> Iterator[NaivePoint]:
    """Yield the samples of Prometheus' text format without timestamps, at the time 0."""
    for file in files:
        for line in file.read_text().splitlines():
            if not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                name, _, text = series.partition("{")
                yield name, dict(re.findall(r'(\w+)="([^"]*)"', text)), 0.0, float(value)


def read_lines_naively(*files: Path, start: float = 0.0) -> Iterator[NaivePoint]:
    """Yield the numbers of line protocol, named measurement.field.

    Lines without a time have `start` in the first file, and one second more in each next file.
    """
    for number, file in enumerate(files):
        for line in file.read_text().splitlines():
            head, _, rest = line.partition(" ")
            measurement, *tags = head.split(",")
            stamp = re.search(r" (\d{19})$", rest)
            labels = dict(tag.split("=") for tag in tags)
            for field, value in re.findall(r"(?:^|,)(\w+)=(-?\d[\d.e+-]*)(?=,| |$)", rest):
                time = int(stamp[1]) / 1e9 if stamp else start + number
                yield f"{measurement}.{field}", labels, time, float(value)


def read_glances_naively(*files: Path) -> Iterator[NaivePoint]:
    """Yield the numbers of glances' restful export, named plugin.field; dots in a key separate item and field."""
    for file in files:
        plugins = json.loads(file.read_bytes())
        time = datetime.fromisoformat(plugins["now"]["iso"]).timestamp()
        for plugin, fields in plugins.items():
            for key, value in fields.items() if isinstance(fields, dict) else ():
                item, _, field = key.rpartition(".")
                label = {"network": "interface_name", "fs": "mnt_point"}.get(plugin, "item")
                if isinstance(value, float | int):
                    yield f"{plugin}.{field}", {label: item}, time, value


def read_pcp_naively(file: Path) -> Iterator[NaivePoint]:
    """Yield the values of the document of pcp2json, whose time zone is UTC."""
    text = file.read_text()
    document = json.loads(text[text.index('{\n  "@pcp"') if '{\n  "@pcp"' in text else 0 :])
    (host,) = document["@pcp"]["@hosts"]
    assert host["@timezone"].startswith("UTC")
    for sample in host["@metrics"]:
        time = datetime.fromisoformat(sample["@timestamp"]).replace(tzinfo=UTC).timestamp()
        for name, instance, value in _walk_naively(sample):
            yield name, {"host": host["@host"], "instance": instance}, time, value


def _walk_naively(node: dict[str, Any], name: str = "") -> Iterator[tuple[str, str, float]]:
    for key, child in node.items():
        if key.startswith("@") or not isinstance(child, dict):
            continue
        full = f"{name}.{key}".lstrip(".")
        if "@instances" in child:
            yield from ((full, each["name"], float(each["value"])) for each in child["@instances"])
        elif "value" in child:
            yield full, "", float(child["value"])
        else:
            yield from _walk_naively(child, full)


def read_otlp_naively(*files: Path) -> Iterator[NaivePoint]:
    """Yield the points of export requests of OTLP in protobuf, by the official messages."""
    for file in files:
        for resource in ExportMetricsServiceRequest.FromString(file.read_bytes()).resource_metrics:
            host = {each.key: each.value.string_value for each in resource.resource.attributes}.get("host.name", "")
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in (*metric.gauge.data_points, *metric.sum.data_points):
                    labels = {
                        each.key: str(getattr(each.value, str(each.value.WhichOneof("value"))))
                        for each in point.attributes
                    }
                    value = float(getattr(point, str(point.WhichOneof("value"))))
                    yield metric.name, labels | {"host": host}, point.time_unix_nano / 1e9, value
