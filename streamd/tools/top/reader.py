"""Reads `/metrics` and `/v1/status` of a daemon. The token is sent as a header and shown nowhere."""

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from streamd.core.errors import ConfigError
from streamd.tools.connection_failures import describe_failure
from streamd.tools.daemon_token import make_token_headers
from streamd.tools.top.errors import NoStatusError

ANSWER_TIMEOUT_SECONDS = 5.0

MAX_PAGE_BYTES = 64 * 2**20
"""The largest document that is read; the status of a large fleet has a few kilobytes."""

SeriesKey = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a series and its labels, sorted."""


@dataclass(frozen=True, kw_only=True)
class DaemonSample:
    """The metrics and the status of a daemon at one moment (`taken_at`, monotonic seconds)."""

    taken_at: float
    values: dict[SeriesKey, float]
    status: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, **labels: str) -> float | None:
        """Return the value of one series; `None` if the daemon does not have it."""
        return self.values.get((name, tuple(sorted(labels.items()))))

    def sum(self, name: str) -> float:
        """Return the sum over all series of a name; 0 without any."""
        return sum(value for (other, _), value in self.values.items() if other == name)

    def list_by_label(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a name by one label."""
        return {
            dict(labels)[label]: value
            for (other, labels), value in self.values.items()
            if other == name and label in dict(labels)
        }


class DaemonReader:
    """The two documents of the daemon at a URL."""

    def __init__(self, url: str, token: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ConfigError` if `url` is not the base of an HTTP URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ConfigError(f"{url!r} is not a URL: {exc}") from exc
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigError("expected the URL of a daemon, such as http://127.0.0.1:8002, without user or query")
        self.shown = f"{parts.scheme}://{parts.netloc}"
        """The URL for messages."""
        self._is_secure = parts.scheme == "https"
        self._address = (parts.hostname, port)
        self._base = parts.path.rstrip("/")
        self._headers = make_token_headers(token)
        self._clock = clock

    def read(self) -> DaemonSample:
        """Read both documents. Raises `NoStatusError` with the reason, which never names the token."""
        metrics = self._fetch("/metrics")
        taken_at = self._clock()
        try:
            values = parse_metrics(metrics.decode())
            status = msgspec.json.decode(self._fetch("/v1/status"), type=dict[str, Any])
        except (ValueError, msgspec.DecodeError) as exc:
            raise NoStatusError(f"{self.shown} does not answer as a streamd does: {exc}") from exc
        return DaemonSample(taken_at=taken_at, values=values, status=status)

    def _fetch(self, path: str) -> bytes:
        make = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = make(*self._address, timeout=ANSWER_TIMEOUT_SECONDS)
        try:
            connection.request("GET", self._base + path, headers=self._headers)
            response = connection.getresponse()
            body = response.read(MAX_PAGE_BYTES + 1)
        except (OSError, http.client.HTTPException) as exc:
            raise NoStatusError(f"no answer from {self.shown}: {describe_failure(exc)}") from exc
        finally:
            connection.close()
        if response.status in (401, 403):
            raise NoStatusError(
                f"{self.shown}{path}: HTTP {response.status}: a token with the scope read is needed, "
                "in STREAMD_TOKEN or --token-file"
            )
        if response.status != 200 or len(body) > MAX_PAGE_BYTES:
            raise NoStatusError(f"{self.shown}{path}: HTTP {response.status} with {len(body)} bytes, expected 200")
        return body


def parse_metrics(text: str) -> dict[SeriesKey, float]:
    """Return the value of each series. Raises `ValueError` if the text is not in the Prometheus format."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
