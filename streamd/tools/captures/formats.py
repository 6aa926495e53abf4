"""The formats of captured bodies: how each is recognised and decoded."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from streamd.core.errors import MalformedError, StreamdError
from streamd.core.mapping.series import PointSink
from streamd.protocols.block_codings import BLOCK_CODINGS, decode_block
from streamd.protocols.collectd import CollectdDecoder
from streamd.protocols.glances import decode_glances
from streamd.protocols.json_items import read_value
from streamd.protocols.line_protocol import decode_line_protocol
from streamd.protocols.opentsdb import PutBody
from streamd.protocols.otlp.json import decode_otlp_json
from streamd.protocols.otlp.protobuf import decode_otlp_protobuf
from streamd.protocols.pcp import decode_pcp
from streamd.protocols.prometheus.remote_write import (
    RemoteWriteMessage,
    choose_remote_write_message,
    decode_remote_write,
)
from streamd.protocols.prometheus.tsdb_dump import read_tsdb_dump
from streamd.protocols.telegraf import decode_telegraf
from streamd.tools.captures.capture import MAX_CAPTURE_BYTES, Capture
from streamd.tools.captures.errors import CaptureError
from streamd.tools.captures.exposition import decode_exposition, is_exposition

LOOKED_AT_BYTES = 65_536
"""The bytes of a body by which its format is recognised."""

FORMAT_BY_PATH = {
    "/api/v1/write": "remote_write",
    "/receive": "remote_write",
    "/api/v2/write": "line_protocol",
    "/write": "line_protocol",
    "/v1/metrics": "otlp",
    "/metrics": "scrape",
    "/collectd": "collectd",
    "/api/put": "netdata",
    "/glances": "glances",
    "/pcp": "pcp",
    "/telegraf": "telegraf",
}
"""The format that a path says. Each but `/metrics` is a path of the daemon; the first of a format is the usual one."""

_BY_KEY = {
    "dstypes": "collectd",
    "chart_id": "netdata",
    "@pcp": "pcp",
    "//": "pcp",
    "resourceMetrics": "otlp",
    "resource_metrics": "otlp",
    "fields": "telegraf",
    "metrics": "telegraf",
    "metric": "opentsdb",
    "system": "glances",
    "cpu": "glances",
}
"""Keys of a JSON object, or of the first one in an array, that only one format has."""

_DUMP_LINE = re.compile(rb'\{(?:[^"={}, ]+|"(?:[^"\\]|\\.)*")="')
"""The begin of a line of a dump: a label and its value. In JSON, no name is followed by an equals sign."""


def is_dump(start: bytes) -> bool:
    """Whether a text that begins so is one of `promtool tsdb dump`."""
    return _DUMP_LINE.match(start.lstrip()) is not None


def guess_format(capture: Capture) -> str:
    """Return the name of the format of a body; raises `CaptureError` if there is no sign of one."""
    if "x-prometheus-remote-write-version" in capture.headers:
        return "remote_write"
    start = capture.body[:LOOKED_AT_BYTES].lstrip()
    guess = FORMAT_BY_PATH.get(capture.path)
    if guess is None:
        guess = _guess_json(capture.body, start) if start[:1] in (b"{", b"[") else _guess_other(capture, start)
    if guess is None:
        names = ", ".join(CAPTURE_FORMATS)
        raise CaptureError(f"{capture.file}: its format cannot be recognised; give --protocol, one of {names}")
    return guess


def _guess_json(body: bytes, start: bytes) -> str | None:
    if is_dump(start):
        return "tsdb_dump"
    try:
        value = read_value(body)
    except MalformedError:  # cut off, or the comments of pcp2json before its document
        return next((name for key, name in _BY_KEY.items() if f'"{key}"'.encode() in start), None)
    first = next(iter(value), None) if isinstance(value, list) else value
    keys = first if isinstance(first, dict) else {}
    return next((name for key, name in _BY_KEY.items() if key in keys), None)


def _guess_other(capture: Capture, start: bytes) -> str | None:
    if not start:
        return None
    try:
        text = start.decode()
    except UnicodeDecodeError as exc:
        # The end of what is looked at may go through a character.
        text = start[: exc.start].decode() if exc.start > len(start) - 4 else ""
    if text and "\0" not in text:
        return "scrape" if is_exposition(text) else "line_protocol"
    # Remote write is always compressed, an export of OTLP is not compressed as snappy.
    is_remote_write = capture.coding in BLOCK_CODINGS or unpack_snappy(capture.body) is not None
    return "remote_write" if is_remote_write else "otlp"


def unpack_snappy(data: bytes) -> bytes | None:
    """Return the bytes of a snappy block, or `None` if it is none."""
    try:
        return decode_block("snappy", data, MAX_CAPTURE_BYTES)
    except StreamdError:
        return None


class FormatReader:
    """A reader of captured bodies, in the order in which they were sent: collectd's decoder learns from each.

    `now` is the time of points that have none, one second later in each further body.
    """

    def __init__(self, sink: PointSink[Any], now: float) -> None:
        self._sink = sink
        self._now = now
        self._collectd = CollectdDecoder()

    def read(self, capture: Capture, format_name: str) -> None:
        """Write the points of a body to the sink; raises `CaptureError` if nothing of it can be read."""
        try:
            for _ in CAPTURE_FORMATS[format_name](self, capture):
                pass
        except StreamdError as exc:
            raise CaptureError(f"{capture.file}: {exc} (read as {format_name})") from exc
        self._now += 1.0

    def _read_collectd(self, capture: Capture) -> Iterator[None]:
        return self._collectd.decode(capture.body, self._sink)

    def _read_glances(self, capture: Capture) -> Iterator[None]:
        return decode_glances(capture.body, self._sink, self._now)

    def _read_line_protocol(self, capture: Capture) -> Iterator[None]:
        return decode_line_protocol(capture.body, self._sink, self._now, capture.query.get("precision", "ns"))

    def _read_put(self, capture: Capture) -> Iterator[None]:
        return PutBody().decode(capture.body, self._sink)

    def _read_otlp(self, capture: Capture) -> Iterator[None]:
        is_json = capture.body.lstrip()[:1] == b"{"
        decode = decode_otlp_json if is_json else decode_otlp_protobuf
        return decode(capture.body, self._sink, self._now)

    def _read_pcp(self, capture: Capture) -> Iterator[None]:
        return decode_pcp(capture.body, self._sink)

    def _read_remote_write(self, capture: Capture) -> Iterator[None]:
        body = capture.body
        if capture.coding == "identity":
            unpacked = unpack_snappy(body)
            body = body if unpacked is None else unpacked
        message = choose_captured_message(capture, body)
        return decode_remote_write(body, self._sink, message)

    def _read_scrape(self, capture: Capture) -> Iterator[None]:
        instance = capture.headers.get("host") or capture.file.stem
        return decode_exposition(capture.body, self._sink, instance, self._now)

    def _read_telegraf(self, capture: Capture) -> Iterator[None]:
        return decode_telegraf(capture.body, self._sink, self._now)

    def _read_tsdb_dump(self, capture: Capture) -> Iterator[None]:
        return read_tsdb_dump(capture.body.split(b"\n"), self._sink)


CAPTURE_FORMATS: dict[str, Callable[[FormatReader, Capture], Iterator[None]]] = {
    "remote_write": FormatReader._read_remote_write,
    "line_protocol": FormatReader._read_line_protocol,
    "otlp": FormatReader._read_otlp,
    "collectd": FormatReader._read_collectd,
    "netdata": FormatReader._read_put,
    "opentsdb": FormatReader._read_put,
    "glances": FormatReader._read_glances,
    "telegraf": FormatReader._read_telegraf,
    "pcp": FormatReader._read_pcp,
    "scrape": FormatReader._read_scrape,
    "tsdb_dump": FormatReader._read_tsdb_dump,
}
"""The formats by name."""


def choose_captured_message(capture: Capture, body: bytes) -> RemoteWriteMessage:
    """Return the message that the Content-Type names, or that the first field of the decompressed body belongs to.

    Raises `UnsupportedMediaTypeError` if the Content-Type is another one.
    """
    if "content-type" in capture.headers:
        return choose_remote_write_message(capture.headers["content-type"])
    # A message of 2.0 has the fields 4 and 5, one of 1.0 has 1 and 3.
    is_version_2 = bool(body) and body[0] >> 3 in (4, 5)
    return RemoteWriteMessage.VERSION_2 if is_version_2 else RemoteWriteMessage.VERSION_1
