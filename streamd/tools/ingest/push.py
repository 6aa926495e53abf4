"""Posts a body to a daemon and reads the counts in its answer. Never prints the parts of a URL that may be secret."""

import http.client
from urllib.parse import SplitResult, urlsplit

import msgspec

from streamd.core.errors import ConfigError
from streamd.tools.connection_failures import describe_failure
from streamd.tools.daemon_token import make_token_headers
from streamd.tools.ingest.errors import PushError

TIMEOUT_SECONDS = 60.0
"""The time in which a daemon must take a body and answer."""

MAX_ANSWER_BYTES = 2**20
"""The largest part of an answer that is read."""


class PushFault(msgspec.Struct):
    """The reason for which the daemon rejected a point or a body."""

    message: str


class PushedPoints(msgspec.Struct, kw_only=True):
    """The counts of points by result: the answer to one body, or the sum of several answers."""

    taken: int = 0
    ignored: int = 0
    skipped: int = 0
    rejected: int
    errors: list[PushFault] = []

    def add(self, answer: "PushedPoints") -> None:
        """Add the answer to one body."""
        self.taken += answer.taken
        self.ignored += answer.ignored
        self.skipped += answer.skipped
        self.rejected += answer.rejected
        self.errors += answer.errors


class DaemonPusher:
    """The route of a daemon that takes bodies of one kind."""

    def __init__(self, url: str, path: str, token: str = "", timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Raises `ConfigError` if `url` is not the base of an HTTP URL."""
        parts = _split_url(url)
        self._is_secure = parts.scheme == "https"
        self._host, self._port = str(parts.hostname), parts.port
        self._path = parts.path.rstrip("/") + path
        self._timeout_seconds = timeout_seconds
        self._headers = {"Content-Type": "application/json", **make_token_headers(token)}
        self.shown = f"{parts.scheme}://{parts.netloc}{self._path}"
        """The URL for messages."""

    def push(self, body: bytes) -> PushedPoints:
        """Send one body and return the answer; raises `PushError`."""
        open_connection = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = open_connection(self._host, self._port, timeout=self._timeout_seconds)
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            return self._read_answer(response.status, response.read(MAX_ANSWER_BYTES))
        except (OSError, http.client.HTTPException) as exc:
            raise PushError(f"no answer from {self.shown}: {describe_failure(exc)}") from exc
        finally:
            connection.close()

    def _read_answer(self, status: int, data: bytes) -> PushedPoints:
        if status == 200:
            try:
                return _answers.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                raise PushError(f"{self.shown} answered 200, but not as streamd does; is it a daemon?") from exc
        try:
            reason = _refusals.decode(data).message
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            reason = http.client.responses.get(status, "no reason given")
        raise PushError(f"{self.shown} answered {status}: {reason}")


_answers = msgspec.json.Decoder(PushedPoints)
_refusals = msgspec.json.Decoder(PushFault)


def _split_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ConfigError("--url is no URL, expected one like http://127.0.0.1:8002") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError("--url has no host or another scheme, expected http://HOST:PORT or https://HOST:PORT")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("--url has a user, a query or a fragment, expected http://HOST:PORT")
    return parts
