"""Decodes the JSON that netdata's exporting engine sends (`json:http`) into points. Touches no state.

As netdata 1.37.1 sends it (seen on the wire): one object for each dimension of a chart. `average` is written with seven
decimals and is in `units`. `as collected` is a whole number in the unit of its collector, and then `units` is wrong. So
the label `source` states which of the two a series is, and the rules scale it. The dimension `sent` is negative.
"""

from collections.abc import Iterator

import msgspec

from streamd.core.errors import InvalidInputError, InvalidSampleError
from streamd.core.mapping.series import PointSink, SeriesEntry, SourceSeries
from streamd.protocols.json_items import MISSING, SLICE_ITEMS, ItemDecoder, bind_series, check_time, read_number

AVERAGE, AS_COLLECTED = "average", "as collected"
"""The values of the label `source`."""


class NetdataItem(msgspec.Struct, gc=False, kw_only=True):
    """One dimension of a chart at one time."""

    hostname: str
    chart_id: str
    chart_family: str = ""
    chart_context: str = ""
    id: str
    name: str = ""
    value: int | float | None
    timestamp: float


_dimensions = ItemDecoder(NetdataItem)


def decode_netdata(body: bytes, sink: PointSink[SeriesEntry]) -> Iterator[None]:
    """Write the points of a body to the sink, and yield after each slice.

    Raises `MalformedError` if the body is neither a JSON array nor an object, its only item.
    """
    for index, item in enumerate(_dimensions.decode(body)):
        try:
            if isinstance(item, InvalidSampleError):
                raise item
            add_dimension(item, sink)
        except InvalidInputError as error:
            sink.reject(type(error)(f"[{index}]: {error}"))
        if index % SLICE_ITEMS == SLICE_ITEMS - 1:
            yield


def add_dimension(item: NetdataItem, sink: PointSink[SeriesEntry]) -> None:
    """Add the point of one item; raises `InvalidInputError`."""
    time, number = check_time(item.timestamp), read_number(item.value)
    if number is None:
        sink.skip(MISSING)
        return
    source = AS_COLLECTED if isinstance(item.value, int) else AVERAGE
    key = (item.hostname, item.chart_context, item.chart_id, item.chart_family, item.id, item.name, source)
    entry = sink.find(key)
    if entry is None:
        if not (item.chart_context or item.chart_id):
            raise InvalidSampleError("chart_context and chart_id are empty, expected the name of the chart")
        labels = {
            "hostname": item.hostname,
            "chart": item.chart_id,
            "family": item.chart_family,
            "id": item.id,
            "name": item.name,
            "source": source,
        }
        entry = bind_series(sink, key, SourceSeries(item.chart_context or item.chart_id, labels))
    sink.add(entry, time, number)
