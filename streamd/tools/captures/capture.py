"""Captured bodies: a file with the bytes of one request, and perhaps a description of the request beside it.

The description of `NAME.body` is `NAME.json`: an object with `path`, `query` and `headers`, a list of pairs.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from streamd.core.errors import StreamdError
from streamd.protocols.block_codings import BLOCK_CODINGS, decode_block
from streamd.tools.captures.errors import CaptureError

MAX_CAPTURE_BYTES = 512 * 2**20
"""Of a file, and of what it decodes to."""

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""The first bytes of a body that is compressed in a way that can be seen."""


@dataclass(frozen=True, kw_only=True)
class Capture:
    """The body of one request, decompressed, and what is known of the request; headers in lower case."""

    file: Path
    body: bytes
    sent: bytes = b""
    """The body as it is in the file, compressed or not."""
    coding: str = "identity"
    """The way in which the file is compressed."""
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def read_capture(file: Path) -> Capture:
    """Read a file and the description beside it, and decompress the body; raises `CaptureError`."""
    try:
        if file.stat().st_size > MAX_CAPTURE_BYTES:
            raise CaptureError(f"{file}: is over {MAX_CAPTURE_BYTES} bytes")
        data = file.read_bytes()
    except OSError as exc:
        raise CaptureError(f"{file}: cannot be read: {exc.strerror or exc}") from exc
    request = _read_description(file)
    headers = request.get("headers", {})
    coding = headers.get("content-encoding", "").strip().lower() or _guess_coding(data)
    return Capture(
        file=file,
        body=decompress_capture(file, coding, data),
        sent=data,
        coding=coding,
        path=request.get("path", ""),
        query=request.get("query", {}),
        headers=headers,
    )


def decompress_capture(file: Path, coding: str, data: bytes) -> bytes:
    """Return the decompressed body; raises `CaptureError` if it is not in this coding, or too large."""
    try:
        if coding in BLOCK_CODINGS:
            return decode_block(coding, data, MAX_CAPTURE_BYTES)
        if coding in ("gzip", "x-gzip", "deflate"):
            return _inflate(data)
    except (StreamdError, zlib.error) as exc:
        raise CaptureError(f"{file}: is not in its Content-Encoding, {coding}: {exc}") from exc
    if coding != "identity":
        raise CaptureError(f"{file}: Content-Encoding is {coding[:64]!r}, expected gzip, deflate, snappy or zstd")
    return data


def _guess_coding(data: bytes) -> str:
    return next((coding for magic, coding in _MAGIC.items() if data.startswith(magic)), "identity")


def _inflate(data: bytes) -> bytes:
    """Decode gzip, of several members if need be, or zlib's format."""
    pieces, left = list[bytes](), MAX_CAPTURE_BYTES
    while data:
        stream = zlib.decompressobj(47)  # either header
        pieces.append(stream.decompress(data, left + 1))
        left -= len(pieces[-1])
        if left < 0:
            raise zlib.error(f"it decodes to over {MAX_CAPTURE_BYTES} bytes")
        if not stream.eof:
            raise zlib.error("it is cut off")
        data = stream.unused_data
    return b"".join(pieces)


def _read_description(file: Path) -> dict[str, Any]:
    """Return `path`, `query` and `headers` of a request, as far as a description says them."""
    description = file.with_suffix(".json")
    if description == file or not description.is_file():
        return {}
    try:
        given = json.loads(description.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise CaptureError(f"{description}: cannot be read: {exc}") from exc
    if not isinstance(given, dict) or not isinstance(given.get("headers"), list):
        return {}  # another file that has the same name by chance
    try:
        headers = {str(name).lower(): str(value) for name, value in given["headers"]}
    except (TypeError, ValueError) as exc:
        raise CaptureError(f"{description}: headers are no list of pairs") from exc
    query = {name: values[-1] for name, values in parse_qs(str(given.get("query") or "")).items()}
    return {"path": str(given.get("path") or ""), "query": query, "headers": headers}
