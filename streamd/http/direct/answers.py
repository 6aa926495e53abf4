"""Answers as the bytes that are sent, with the headers that aiohttp would send."""

from functools import lru_cache
from http import HTTPStatus

from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from streamd.core.errors import StreamdError
from streamd.http.errors import choose_status, list_error_headers, make_error_message
from streamd.http.wire.codecs import Encoding, encode


def format_answer(
    body: bytes, encoding: Encoding, headers: tuple[tuple[str, str], ...] = (), status: int = 200
) -> bytes:
    """Return an answer with this body; `headers` are added to the usual ones."""
    return format_head(status, encoding, headers, len(body), rfc822_formatted_time()) + body


def format_error(error: StreamdError, encoding: Encoding) -> bytes:
    """Return the answer to a call that failed."""
    body = encode(make_error_message(error), encoding)
    return format_answer(body, encoding, tuple(list_error_headers(error).items()), choose_status(error))


@lru_cache(maxsize=64)
def format_head(
    status: int, encoding: Encoding, headers: tuple[tuple[str, str], ...], body_bytes: int, date: str
) -> bytes:
    """Return the head of an answer whose body has so many bytes; `date` is the value of its header."""
    fields = {
        "Content-Type": encoding.value,
        **dict(headers),
        "Content-Length": str(body_bytes),
        "Date": date,
        "Server": SERVER_SOFTWARE,
    }
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii")
