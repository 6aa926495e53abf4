"""The HTTP client for all that the daemon sends out by itself: a bearer token, a CA file, time limits, no redirects.

Knows nothing of what it sends.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from aiohttp import hdrs
from yarl import URL

from streamd.core.errors import ConfigError
from streamd.runtime.background import run_in_background
from streamd.runtime.outbound import PostAnswer
from streamd.server.access.guarded_files import read_guarded

RECEIVER_CONNECT_SECONDS = 5.0
"""The time in which a receiver must accept a connection, its TLS handshake included."""

POST_SECONDS = 15.0
"""The time in which a POST must be answered."""

MAX_SHOWN_BYTES = 512
"""Of an answer's body, what is read for the log."""

TOKEN_SECONDS = 10.0
"""A token that was read is used for this long; then its file is read again, since tokens are renewed in place."""


class OutboundClient:
    """Sends POSTs with the token of a file, if one is given; make it on the running loop, and close it.

    Raises `ConfigError` if the CA file cannot be used.
    """

    def __init__(self, *, token_file: str = "", ca_file: str = "", answer_seconds: float = POST_SECONDS) -> None:
        self._token_file = token_file
        self._token = ""
        self._token_until = float("-inf")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=_make_ssl_context(ca_file), limit_per_host=2),
            timeout=aiohttp.ClientTimeout(total=answer_seconds, sock_connect=RECEIVER_CONNECT_SECONDS),
            headers={hdrs.USER_AGENT: "streamd"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # a proxy of the environment would see what is sent
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> PostAnswer:
        """Send a body and return the answer; its status is 0 if no answer came.

        A redirect is not followed: it would give the token to another host.
        """
        try:
            sent = {**headers, **await self._make_authorization()}
            async with self._session.post(URL(url), data=body, headers=sent, allow_redirects=False) as answer:
                shown = await answer.content.read(MAX_SHOWN_BYTES)
                return PostAnswer(
                    answer.status, _describe_body(shown), _parse_retry_after(answer.headers.get(hdrs.RETRY_AFTER, ""))
                )
        except TimeoutError:
            return PostAnswer(0, "no answer in time")
        except ConfigError as exc:
            return PostAnswer(0, str(exc))
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return PostAnswer(0, _describe_failure(exc))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _make_authorization(self) -> dict[str, str]:
        if not self._token_file:
            return {}
        if time.monotonic() >= self._token_until:
            # In a thread: the file may lie on a file system that does not answer.
            async with asyncio.timeout(RECEIVER_CONNECT_SECONDS):
                self._token = await run_in_background(lambda: read_receiver_token(self._token_file))
            self._token_until = time.monotonic() + TOKEN_SECONDS
        return {hdrs.AUTHORIZATION: f"Bearer {self._token}"}


def check_ca_file(path: str) -> None:
    """Raise `ConfigError` if a CA file cannot be used; without a path, do nothing."""
    _make_ssl_context(path)


def read_receiver_token(path: str) -> str:
    """Return the token in a file, for what the daemon sends; raises `ConfigError` if it cannot be used as a header."""
    content = read_guarded(Path(path), "the token of a receiver")
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:  # its message would repeat a part of the token
        raise ConfigError(f"{path}: is not ASCII, expected the token of a receiver") from None
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"{path}: has no single word of printable characters, expected the token of a receiver")
    return token


def _make_ssl_context(ca_file: str) -> ssl.SSLContext | bool:
    """Return the context of a CA file; without one, true for the one that the library has made already."""
    if not ca_file:
        return True
    content = read_guarded(Path(ca_file), "the CAs of receivers", is_secret=False)
    try:
        return ssl.create_default_context(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(f"{ca_file}: cannot be used: {exc}, expected certificates of CAs in PEM") from exc


def _parse_retry_after(value: str) -> float | None:
    """Return the seconds of Retry-After; `None` for a date, which few receivers send."""
    return float(value) if value.isascii() and value.isdigit() and len(value) < 7 else None


def _describe_body(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())


def _describe_failure(exc: Exception) -> str:
    # A message of aiohttp may repeat the URL, and that may hold a secret: the words of the system say enough.
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(exc).__name__
