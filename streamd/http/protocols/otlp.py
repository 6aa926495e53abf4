"""OTLP over HTTP: `POST /v1/metrics`, in protobuf and in JSON. `protocols/otlp/` decodes and encodes.

The answers are those of the protocol's specification 1.9, in the encoding of the request:

- 200 if the points are taken or no rule wants them. Points that are rejected, or whose series names no server,
  are counted in `partial_success` with the reasons. The Collector's exporter logs it, Python's (1.45.2) does not.
- 400, 413 or 415 with a `google.rpc.Status` if nothing of the body can be read: senders do not repeat it.
- 503 with Retry-After if nothing was taken but sending it again may help. Retry-After is small, because Python's
  exporter (1.45.2) waits in the thread that collects, so it measures nothing while it waits.
"""

import time
from collections.abc import Callable, Iterator

from aiohttp import web

from streamd.core.errors import StreamdError, UnsupportedEncodingError, UnsupportedMediaTypeError
from streamd.http.compression import CONTENT_CODINGS
from streamd.http.protocols.intake import Intake, choose_foreign_status, make_retry_headers
from streamd.protocols.otlp.answers import OtlpEncoding, encode_export_answer, encode_export_error
from streamd.protocols.otlp.json import decode_otlp_json
from streamd.protocols.otlp.protobuf import decode_otlp_protobuf
from streamd.runtime.aggregation.batch import CommitResult, PointBatch
from streamd.runtime.service import Service

_PROTOCOL = "otlp"

_MAX_LISTED_REASONS = 3
"""The largest number of reasons in one answer."""

_NO_SERVER = (
    "data points name no server: the resource attribute host.name is missing; set "
    "OTEL_RESOURCE_ATTRIBUTES=host.name=... at the sender, or add the attribute that names it to the list `server` of "
    "the rule set"
)


class OtlpRoutes:
    """The handler for exporters of OpenTelemetry; `wall` returns epoch seconds."""

    def __init__(self, service: Service, intake: Intake, wall: Callable[[], float] = time.time) -> None:
        self._intake = intake
        self._wall = wall

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_post("/v1/metrics", self.post_metrics)

    async def post_metrics(self, request: web.Request) -> web.Response:
        """Take one export request; the docstring of the module lists the answers."""
        encoding = _find_encoding(request)
        try:
            if encoding is None:
                given = request.headers.get("Content-Type", "")[:64]
                expected = " or ".join(each.value for each in OtlpEncoding)
                raise UnsupportedMediaTypeError(f"Content-Type is {given!r}, expected {expected}")
            decoder = decode_otlp_json if encoding is OtlpEncoding.JSON else decode_otlp_protobuf

            def decode(body: bytes, batch: PointBatch) -> Iterator[None]:
                return decoder(body, batch, self._wall())

            result = await self._intake.take_body(request, _PROTOCOL, decode)
        except StreamdError as error:
            return answer_otlp_refusal(request, error)
        rejected = result.rejected + result.without_server
        body = encode_export_answer(encoding, rejected, _list_reasons(result))
        return web.Response(body=body, content_type=encoding.value)


def _find_encoding(request: web.Request) -> OtlpEncoding | None:
    """Return the encoding that the Content-Type names; `None` if it is another type."""
    name = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return next((each for each in OtlpEncoding if each.value == name), None)


def _list_reasons(result: CommitResult) -> str:
    """Return the reasons why points were rejected, as text for a person."""
    reasons = [f"{result.without_server} {_NO_SERVER}"] if result.without_server else []
    if result.rejected:
        listed = "; ".join(str(error) for error in result.errors[:_MAX_LISTED_REASONS])
        reasons.append(f"{result.rejected} data points were rejected: {listed}")
    return "; ".join(reasons)


def answer_otlp_refusal(request: web.Request, error: StreamdError) -> web.Response:
    """Return the answer to a request of which nothing was taken."""
    encoding = _find_encoding(request) or OtlpEncoding.JSON
    headers = make_retry_headers(error)
    if isinstance(error, UnsupportedEncodingError):
        headers["Accept-Encoding"] = ", ".join(CONTENT_CODINGS)
    return web.Response(
        body=encode_export_error(encoding, error),
        status=choose_foreign_status(error),
        content_type=encoding.value,
        headers=headers,
    )
