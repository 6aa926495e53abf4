"""Prometheus remote write 1.0 and 2.0: `POST /api/v1/write`, and `POST /receive`, the default of netdata.

`streamd/protocols/prometheus/` decodes. With these answers senders neither lose data nor repeat it for ever:

- 204 without a body if the points are taken or no rule wants them; in 1.0 also if some of them are rejected.
- 400 in 2.0 if some points are rejected, as its specification requires ("Partial Write"). The good points are taken.
  Senders do not repeat the request, and count as lost only the samples that the `Written` headers do not count.
- 400 for a body that cannot be decoded or is too large. After 413 vmagent would repeat a block for ever: 1.79.5 drops
  one on 400 and 409, later versions also on 415 (`app/vmagent/remotewrite/client.go`).
- 415 for another type or coding, as 2.0 requires.
- 503 if nothing was taken but sending it again may help. After 429 Prometheus would drop its data, unless it is
  configured otherwise.
"""

from collections.abc import Iterator

from aiohttp import web

from streamd.core.errors import StreamdError, TooLargeError, UnsupportedEncodingError
from streamd.http.protocols.intake import Intake, choose_foreign_status, make_retry_headers
from streamd.protocols.prometheus.remote_write import (
    RemoteWriteCounts,
    RemoteWriteMessage,
    choose_remote_write_message,
    decode_remote_write,
)
from streamd.runtime.aggregation.batch import CommitResult, PointBatch
from streamd.runtime.service import Service

REMOTE_WRITE_CODINGS = ("snappy", "zstd")
"""The codings that are accepted. A request without Content-Encoding is read as snappy, as Prometheus reads it. vmagent
sends zstd if it is accepted."""

_MAX_MESSAGE_CHARACTERS = 1_000
"""Prometheus 2.42.0 logs the first line of an answer, up to 1,024 bytes."""


class RemoteWriteRoutes:
    """Handlers for the senders of remote write."""

    PROTOCOL = "remote_write"
    """The name of the protocol in counts and metrics."""

    def __init__(self, service: Service, intake: Intake) -> None:
        self._intake = intake

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/api/v1/write", self.post_write)
        app.router.add_post("/receive", self.post_write)

    async def post_write(self, request: web.Request) -> web.Response:
        """Take one body; the docstring of the module lists the answers."""
        counts = RemoteWriteCounts()
        try:
            message = choose_remote_write_message(request.headers.get("Content-Type", ""))

            def decode(body: bytes, batch: PointBatch) -> Iterator[None]:
                return decode_remote_write(body, batch, message, counts)

            result = await self._intake.take_body(request, self.PROTOCOL, decode, REMOTE_WRITE_CODINGS)
        except StreamdError as error:
            return answer_remote_write_refusal(request, error)
        return _answer(message, counts, result)


def _answer(message: RemoteWriteMessage, counts: RemoteWriteCounts, result: CommitResult) -> web.Response:
    if message is RemoteWriteMessage.VERSION_1:
        return web.Response(status=204)
    # "Written" means accepted, "whether or not it has ingested this data" (2.0-rc.4, Glossary). So samples that streamd
    # does not use count too: Prometheus 3.x logs an error for each request of which less was written than sent.
    headers = {
        "X-Prometheus-Remote-Write-Samples-Written": str(counts.samples - result.rejected),
        "X-Prometheus-Remote-Write-Histograms-Written": str(counts.histograms),
        "X-Prometheus-Remote-Write-Exemplars-Written": str(counts.exemplars),
    }
    if not result.rejected:
        return web.Response(status=204, headers=headers)
    reasons = "; ".join(str(error) for error in result.errors)
    text = f"partial write: {result.rejected} of {counts.samples} samples were rejected: {reasons}"
    return _make_text_response(400, text, headers)


def answer_remote_write_refusal(request: web.Request, error: StreamdError) -> web.Response:
    """Return the answer to a body that was not taken."""
    status = 400 if isinstance(error, TooLargeError) else choose_foreign_status(error)
    headers = make_retry_headers(error)
    if isinstance(error, UnsupportedEncodingError):
        headers["Accept-Encoding"] = ", ".join(REMOTE_WRITE_CODINGS)
    return _make_text_response(status, f"{error.code}: {error}", headers)


def _make_text_response(status: int, text: str, headers: dict[str, str]) -> web.Response:
    line = " ".join(text.split())[:_MAX_MESSAGE_CHARACTERS]
    return web.Response(status=status, text=line + "\n", headers=headers)
