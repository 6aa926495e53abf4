"""Tests `streamd/http/direct/answers.py`: the bytes that aiohttp would send, read by its own parser."""

import pytest

from streamd.core.errors import LaneLostError, NotFiniteError, StreamdError, TooBusyError, UnauthorizedError
from streamd.http.direct.answers import format_answer, format_error
from streamd.http.wire.codecs import Encoding, encode


def read_head(answer: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def test_an_answer_has_the_usual_headers() -> None:
    first, headers, body = read_head(format_answer(b"\x80", Encoding.MSGPACK, (("X-A", "b"),)))
    assert first == "HTTP/1.1 200 OK"
    assert list(headers) == ["Content-Type", "X-A", "Content-Length", "Date", "Server"]
    assert (headers["Content-Type"], headers["X-A"], headers["Content-Length"]) == ("application/msgpack", "b", "1")
    assert body == b"\x80"


@pytest.mark.parametrize(
    ("error", "first", "retry"),
    [
        (TooBusyError("full"), "HTTP/1.1 429 Too Many Requests", "1"),
        (LaneLostError("gone"), "HTTP/1.1 503 Service Unavailable", "1"),
        (NotFiniteError("NaN"), "HTTP/1.1 422 Unprocessable Entity", None),
        (UnauthorizedError("who"), "HTTP/1.1 401 Unauthorized", None),
    ],
)
def test_an_error_has_its_status_and_its_headers(error: StreamdError, first: str, retry: str | None) -> None:
    found, headers, body = read_head(format_error(error, Encoding.JSON))
    assert found == first
    assert headers.get("Retry-After") == retry
    assert ("WWW-Authenticate" in headers) == isinstance(error, UnauthorizedError)
    assert body == encode({"type": "error", "code": error.code, "message": str(error)}, Encoding.JSON)
