"""The messages of Prometheus remote write 1.0 and 2.0. They need no generated code, so any protobuf from 5.26 on works.

Sources: the remote write 1.0 and 2.0-rc.4 specifications (prometheus.io/docs/specs/prw), and `prompb/remote.proto`,
`prompb/types.proto` and `prompb/io/prometheus/write/v2/types.proto` of Prometheus 3.14.0.

Some messages within messages are declared as bytes, which is the same on the wire. Parsing then divides a body into its
series, and a series into its labels, without decoding them. So a damaged series is rejected alone, a known series is
found by its encoded labels, and the parts that streamd does not use stay bytes. The metadata of a series,
`created_timestamp` (until Prometheus 3.7) and `Sample.start_timestamp` (from 3.8 on) are left out.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_BYTES, _DOUBLE = FieldDescriptorProto.TYPE_BYTES, FieldDescriptorProto.TYPE_DOUBLE
_INT64, _UINT32 = FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_UINT32

_POOL = DescriptorPool()
"""A separate pool: in the default one a program may have generated messages of the same names."""


def _add_field(message: DescriptorProto, number: int, name: str, kind: Any, is_repeated: bool) -> None:
    field = message.field.add(name=name, number=number)
    field.label = FieldDescriptorProto.LABEL_REPEATED if is_repeated else FieldDescriptorProto.LABEL_OPTIONAL
    if isinstance(kind, str):
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, kind
    else:
        field.type = kind


def _add_message(file: FileDescriptorProto, name: str, repeated: dict[int, Any], single: dict[int, Any]) -> None:
    """Add a message. Each field is its number with its name and type; a type that is a message is its full name."""
    message = file.message_type.add(name=name)
    for fields, is_repeated in ((repeated, True), (single, False)):
        for number, (field, kind) in fields.items():
            _add_field(message, number, field, kind, is_repeated)


def _describe_remote_write_1() -> FileDescriptorProto:
    file = FileDescriptorProto(name="streamd/remote_write_1.proto", package="prometheus", syntax="proto3")
    _add_message(file, "WriteRequest", {1: ("timeseries", _BYTES), 3: ("metadata", _BYTES)}, {})
    exemplars, histograms = {3: ("exemplars", _BYTES)}, {4: ("histograms", _BYTES)}
    labels, samples = {1: ("labels", _BYTES)}, {2: ("samples", ".prometheus.Sample")}
    _add_message(file, "TimeSeries", labels | samples, exemplars | histograms)
    _add_message(file, "UnusedParts", exemplars | histograms, {})
    _add_message(file, "Label", {}, {1: ("name", _BYTES), 2: ("value", _BYTES)})
    _add_message(file, "Sample", {}, {1: ("value", _DOUBLE), 2: ("timestamp", _INT64)})
    return file


def _describe_remote_write_2() -> FileDescriptorProto:
    package = "io.prometheus.write.v2"
    file = FileDescriptorProto(name="streamd/remote_write_2.proto", package=package, syntax="proto3")
    _add_message(file, "Request", {4: ("symbols", _BYTES), 5: ("timeseries", _BYTES)}, {})
    histograms, exemplars = {3: ("histograms", _BYTES)}, {4: ("exemplars", _BYTES)}
    references, samples = {1: ("labels_refs", _UINT32)}, {2: ("samples", f".{package}.Sample")}
    _add_message(file, "TimeSeries", references | samples, histograms | exemplars)
    _add_message(file, "UnusedParts", histograms | exemplars, {})
    _add_message(file, "Sample", {}, {1: ("value", _DOUBLE), 2: ("timestamp", _INT64)})
    return file


for _file in (_describe_remote_write_1(), _describe_remote_write_2()):
    _POOL.AddSerializedFile(_file.SerializeToString())


def _find_class(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(name))


WriteRequest = _find_class("prometheus.WriteRequest")
"""The message of 1.0; `timeseries` are encoded `TimeSeries`."""

TimeSeries = _find_class("prometheus.TimeSeries")
"""A series of 1.0; `labels` are encoded `TimeSeriesLabel`s.

Its `exemplars` and `histograms` only show whether there are any, because reading a list takes longer.
`TimeSeriesUnusedParts` has all of them.
"""

TimeSeriesUnusedParts = _find_class("prometheus.UnusedParts")
"""The exemplars and histograms of a series of 1.0."""

TimeSeriesLabel = _find_class("prometheus.Label")
"""A label of 1.0; its name and value are bytes, because a text that is not UTF-8 would damage the whole series."""

TimeSeriesSample = _find_class("prometheus.Sample")
"""A sample of 1.0, in milliseconds."""

SymbolRequest = _find_class("io.prometheus.write.v2.Request")
"""The message of 2.0; `timeseries` are encoded `SymbolSeries`."""

SymbolSeries = _find_class("io.prometheus.write.v2.TimeSeries")
"""A series of 2.0, whose labels are indices of symbols; with exemplars and histograms as in `TimeSeries`."""

SymbolSeriesUnusedParts = _find_class("io.prometheus.write.v2.UnusedParts")
"""The exemplars and histograms of a series of 2.0."""
