"""Captured bodies made requests again: path, query, headers and body as the agent sent them, to be sent to a daemon.

Opens no connection.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import cramjam

from streamd.core.errors import StreamdError
from streamd.protocols.pcp import split_documents
from streamd.protocols.prometheus.remote_write import RemoteWriteMessage
from streamd.tools.captures.capture import Capture
from streamd.tools.captures.errors import CaptureError
from streamd.tools.captures.formats import FORMAT_BY_PATH, choose_captured_message, unpack_snappy
from streamd.tools.ingest.pcp2json import MAX_PUSH_BYTES, cut_document

REMOTE_WRITE_HEADERS = {
    RemoteWriteMessage.VERSION_1: {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    },
    RemoteWriteMessage.VERSION_2: {
        "Content-Type": f"application/x-protobuf;proto={RemoteWriteMessage.VERSION_2.value}",
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "2.0.0",
    },
}
"""The headers of a body in snappy, by its message."""

_PATHS = {name: path for path, name in reversed(FORMAT_BY_PATH.items())} | {"opentsdb": "/api/put"}
"""The daemon's usual path for each format."""

_CONNECTION_HEADERS = (
    *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade"),
    *("proxy-connection", "proxy-authorization", "expect", "accept-encoding"),
)
"""Headers of the connection on which a body came; the new one has its own."""


@dataclass(frozen=True, kw_only=True)
class CapturedRequest:
    """One request to send."""

    name: str
    """The file, or the part of a dump, for messages."""
    path: str
    body: bytes
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def make_requests(capture: Capture, format_name: str) -> Iterator[CapturedRequest]:
    """Yield the requests of a capture: one, or several of an output that no agent sends as it is.

    A body whose headers are not known gets the usual ones, and is sent without compression, but remote write as snappy.
    Raises `CaptureError` if it is nothing that a daemon takes.
    """
    if format_name not in _PATHS or format_name == "scrape":
        raise CaptureError(
            f"{capture.file}: is {format_name}, which no agent pushes; let Prometheus or vmagent scrape and send it"
        )
    try:
        if not capture.headers:
            yield from _make_undescribed(capture, format_name)
            return
    except StreamdError as exc:
        raise CaptureError(f"{capture.file}: {exc} (read as {format_name})") from exc
    has_coding = capture.coding == "identity" or "content-encoding" in capture.headers
    is_ours = FORMAT_BY_PATH.get(capture.path) == format_name or capture.path == _PATHS[format_name]
    yield CapturedRequest(
        name=str(capture.file),
        path=capture.path if is_ours else _PATHS[format_name],
        body=capture.sent if has_coding else capture.body,
        query=capture.query,
        headers={name: value for name, value in capture.headers.items() if name not in _CONNECTION_HEADERS},
    )


def _make_undescribed(capture: Capture, format_name: str) -> Iterator[CapturedRequest]:
    """Yield the requests of a body of which only the bytes are known; raises `StreamdError`."""
    name, path = str(capture.file), capture.path if capture.path in FORMAT_BY_PATH else _PATHS[format_name]
    if format_name == "remote_write":
        body = (unpack_snappy(capture.body) if capture.coding == "identity" else None) or capture.body
        headers = REMOTE_WRITE_HEADERS[choose_captured_message(capture, body)]
        yield CapturedRequest(name=name, path=path, body=bytes(cramjam.snappy.compress_raw(body)), headers=headers)
        return
    headers = {"Content-Type": _choose_content_type(capture, format_name)}
    for body in _cut_output(capture.body) if format_name == "pcp" else (capture.body,):
        yield CapturedRequest(name=name, path=path, body=body, query=capture.query, headers=headers)


def _choose_content_type(capture: Capture, format_name: str) -> str:
    if format_name == "otlp" and not capture.body.lstrip().startswith(b"{"):
        return "application/x-protobuf"
    is_text = format_name == "line_protocol" or capture.body.lstrip()[:1] not in (b"{", b"[")
    return "text/plain" if is_text else "application/json"


def _cut_output(output: bytes) -> Iterator[bytes]:
    """Yield bodies of whole samples of an output of pcp2json, as `streamd ingest` pushes them."""
    for document in split_documents(output.splitlines(keepends=True)):
        yield from cut_document(document, MAX_PUSH_BYTES)
