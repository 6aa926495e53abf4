"""Decodes what Telegraf sends, JSON or line protocol, into points. Knows no HTTP and no clock.

As Telegraf 1.40.0 writes it (`plugins/serializers/json`): `{"metrics": [...]}` for a batch, or one metric alone; each
has `name`, `tags`, `fields` and `timestamp`.
"""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from streamd.core.errors import InvalidInputError, InvalidSampleError, InvalidTimeError, MalformedError
from streamd.core.mapping.series import PointSink, SeriesEntry
from streamd.protocols.json_items import (
    MAX_LENIENT_BYTES,
    MAX_PART_BYTES,
    MISSING,
    SLICE_ITEMS,
    check_item_count,
    check_part_size,
    check_value_count,
    read_number,
    read_value,
)
from streamd.protocols.line_protocol import (
    MAX_LINE_FIELDS,
    TEXT_VALUE,
    LineCounts,
    check_tags,
    check_text,
    decode_line_protocol,
    make_field_series,
    make_series_key,
)

NESTED_VALUE = "nested value"
"""The reason for skipping a value that is an object or an array."""

TIMESTAMP_UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (math.inf, 1_000_000_000))
"""The limits below which a timestamp is in seconds, milliseconds, microseconds or nanoseconds, with units per second.

The unit is Telegraf's setting `json_timestamp_units`, which is not in the body. Times from March 1973 to November 5138
can be distinguished. Telegraf also has units such as 10 ms; with them the times are far from the
present, so they are rejected.
"""


class _Metric(msgspec.Struct, gc=False):
    name: str
    fields: dict[str, Any]
    tags: dict[str, str] = {}
    timestamp: float | str | None = None


class _Batch(msgspec.Struct):
    """A body. Its metrics are decoded one after the other, because all at once would block the event loop."""

    metrics: list[msgspec.Raw] | None = None


_batch_decoder = msgspec.json.Decoder(_Batch)
_metric_decoder = msgspec.json.Decoder(_Metric)
_FAULTS = (msgspec.DecodeError, ValueError, RecursionError)
"""Errors that msgspec may raise on hostile bytes or text."""


def decode_telegraf(
    body: bytes, sink: PointSink[SeriesEntry], now: float, counts: LineCounts | None = None
) -> Iterator[None]:
    """Write the points of a body in JSON or in line protocol to a sink; a body that begins with a brace is JSON.

    Raises `MalformedError` if it is neither.
    """
    if body[:64].lstrip().startswith(b"{"):
        return decode_telegraf_json(body, sink, now)
    return decode_line_protocol(body, sink, now, counts=counts)


def decode_telegraf_json(body: bytes, sink: PointSink[SeriesEntry], now: float) -> Iterator[None]:
    """Write the points of a batch of metrics, or of one metric, to a sink; a bad metric is rejected alone.

    A metric without a timestamp has the time `now`. Raises `MalformedError` if the body has another form.
    """
    check_value_count(body)
    points = 0
    for index, given in enumerate(_read_metrics(body)):
        place = f"metrics[{index}]"
        try:
            metric = _decode_metric(given)
        except (InvalidSampleError, MalformedError) as error:
            sink.reject(InvalidSampleError(f"{place}: {error}"))
            points += 1
        else:
            points += _add_metric(metric, sink, now, place)
        if points >= SLICE_ITEMS:
            points = 0
            yield
    yield


def _read_metrics(body: bytes) -> list[Any]:
    """Return the metrics of a body, as bytes if msgspec can read it, else as plain objects.

    The lenient reader takes what msgspec refuses: NaN, and surrogates without their other half.
    """
    try:
        metrics = _batch_decoder.decode(body).metrics
    except _FAULTS as exc:
        if len(body) > MAX_LENIENT_BYTES:
            raise MalformedError(f"the body of {len(body)} bytes is not strict JSON with an array: {exc}") from exc
        given = read_value(body)
        if not isinstance(given, dict):
            raise MalformedError('the body is not an object, expected {"metrics": [...]} or one metric') from None
        if "metrics" not in given:
            return [given]
        if not isinstance(given["metrics"], list):
            raise MalformedError("'metrics' is not an array, expected an array of metrics") from None
        metrics = given["metrics"]
    if metrics is not None:
        check_item_count(len(metrics))
        return metrics
    if len(body) > MAX_PART_BYTES:
        raise MalformedError(f"the metric has {len(body)} bytes, at most {MAX_PART_BYTES} are taken")
    try:
        return [_metric_decoder.decode(body)]
    except _FAULTS as exc:
        forms = "an object with 'metrics', or with 'name', 'tags', 'fields' and 'timestamp'"
        raise MalformedError(f"expected {forms}: {exc}") from exc


def _decode_metric(given: Any) -> _Metric:
    """Return one of the metrics that `_read_metrics` returned; raises `InvalidSampleError` or `MalformedError`."""
    if isinstance(given, _Metric):
        return given
    if isinstance(given, msgspec.Raw):
        check_part_size(given)
        try:
            return _metric_decoder.decode(given)
        except _FAULTS as exc:
            if isinstance(exc, msgspec.ValidationError) and "out of range" not in str(exc):
                raise InvalidSampleError(str(exc)) from exc
            given = read_value(bytes(given))
    try:
        return msgspec.convert(given, _Metric)
    except _FAULTS as exc:
        raise InvalidSampleError(str(exc)) from exc


def _add_metric(metric: _Metric, sink: PointSink[SeriesEntry], now: float, place: str) -> int:
    """Add the fields of a metric and return their number; those that cannot be taken are rejected."""
    count = len(metric.fields)
    try:
        if count > MAX_LINE_FIELDS:
            raise InvalidSampleError(f"it has {count} fields, at most {MAX_LINE_FIELDS} are accepted")
        time = now if metric.timestamp is None else _read_time(metric.timestamp)
    except (InvalidSampleError, InvalidTimeError) as error:
        sink.reject(type(error)(f"{place}: {error}"), max(count, 1))
        return count
    tags = {name: value for name, value in metric.tags.items() if value}
    series_key, is_checked = make_series_key(metric.name, tags), False
    for name, given in metric.fields.items():
        try:
            value = _read_value(given, sink)
            if value is None:
                continue
            key = (series_key, name)
            entry = sink.find(key)
            if entry is None:
                is_checked = is_checked or _check_metric(metric.name, tags)
                check_text("the name of a field", name)
                entry = sink.bind(key, make_field_series(metric.name, tags, name))
        except InvalidInputError as error:
            sink.reject(type(error)(f"{place}.fields.{name[:64]!a}: {error}"))
        else:
            sink.add(entry, time, value)
    return count


def _check_metric(name: str, tags: dict[str, str]) -> bool:
    """Return True; raises `InvalidSampleError` if a metric's name or tags cannot be taken."""
    check_text("name", name)
    check_tags(tags)
    return True


def _read_value(given: Any, sink: PointSink[SeriesEntry]) -> float | None:
    """Return a field as a number (true is 1, false is 0), or `None` after it was skipped.

    Raises `InvalidValueError` if it is too large.
    """
    if given is None or isinstance(given, int | float):
        value = read_number(given)
        if value is None:
            sink.skip(MISSING)
        return value
    sink.skip(TEXT_VALUE if isinstance(given, str) else NESTED_VALUE)
    return None


def _read_time(timestamp: float | str) -> float:
    if isinstance(timestamp, str):
        return _parse_time(timestamp)
    if not math.isfinite(timestamp):
        raise InvalidTimeError("the timestamp is not finite")
    return timestamp / next(units for bound, units in TIMESTAMP_UNITS if abs(timestamp) < bound)


def _parse_time(timestamp: str) -> float:
    """Return the time of a text, which Telegraf writes in UTC if `json_timestamp_format` is set."""
    try:
        time = datetime.fromisoformat(timestamp[:64])
        if time.tzinfo is not None:
            return time.timestamp()
    except (ValueError, OverflowError):
        pass
    raise InvalidTimeError(f"the timestamp is {timestamp[:64]!a}, expected a number, or RFC 3339 with an offset")
