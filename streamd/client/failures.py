"""The errors that failed calls become, and the decoding of answers. Pure."""

import ssl
from collections.abc import Mapping
from typing import TypeVar

import aiohttp
import msgspec
import yarl

from streamd.client.errors import DaemonUnreachableError, RefusedError

T = TypeVar("T")

MSGPACK_TYPE = "application/msgpack"


def decode_answer(content: bytes, content_type: str, answer: type[T]) -> T:
    """Decode the body of an answer. Raises `msgspec.MsgspecError` or `UnicodeDecodeError`."""
    if not content and answer is type(None):
        return msgspec.convert(None, answer)
    if content_type == MSGPACK_TYPE:
        return msgspec.msgpack.decode(content, type=answer)
    return msgspec.json.decode(content, type=answer)


def make_unreachable_error(url: yarl.URL, error: Exception) -> DaemonUnreachableError:
    """Return the error of a call that got no answer."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return DaemonUnreachableError(f"{url}: the certificate is not accepted: {error}", is_temporary=False)
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        return DaemonUnreachableError(f"{url}: the connection is refused; is the daemon running?")
    if isinstance(error, TimeoutError):
        return DaemonUnreachableError(f"{url}: no answer in time")
    return DaemonUnreachableError(f"{url}: {str(error) or type(error).__name__}")


def make_upgrade_refusal(url: yarl.URL, error: aiohttp.WSServerHandshakeError) -> RefusedError:
    """Return the error of an upgrade to a WebSocket that was refused."""
    return RefusedError(
        f"{url}: HTTP {error.status} in place of a WebSocket",
        code=_UPGRADE_CODES.get(error.status, f"http_{error.status}"),
        status=error.status,
        retry_after_seconds=read_retry_after(error.headers or {}),
    )


class _ErrorBody(msgspec.Struct):
    code: str
    message: str = ""


_UPGRADE_CODES = {401: "unauthorized", 403: "forbidden", 421: "wrong_host", 429: "too_busy", 503: "unavailable"}
"""The code of a refused upgrade by its status: the body of that answer is not read."""


def read_refusal(call: str, response: aiohttp.ClientResponse, content: bytes) -> RefusedError:
    """Return the error of a call that was answered, but refused."""
    try:
        body = decode_answer(content, response.content_type, _ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        body = _ErrorBody(f"http_{response.status}", content[:200].decode(errors="replace"))
    return RefusedError(
        f"{call}: HTTP {response.status}: {body.code}: {body.message}",
        code=body.code,
        status=response.status,
        retry_after_seconds=read_retry_after(response.headers),
    )


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of `Retry-After`, if the headers have it."""
    given = headers.get("Retry-After")
    try:
        return None if given is None else max(float(given), 0.0)
    except ValueError:
        return 1.0  # a date: a second is as good, since the attempts are bounded
