"""The routes of InfluxDB 1 and 2 that writers of line protocol use. `streamd/protocols/line_protocol.py` decodes.

The reaction of writers to an answer, from their source code or as seen:

- 204 is success for all. So is 200, but not for Telegraf's `outputs.influxdb`, which then repeats the batch.
- 400: the batch is dropped and the message logged (influxdb-client 1.50.0, glances 4.5.8, pcp2influxdb 6.0.3, and
  Telegraf 1.40.0 with `outputs.influxdb` and `outputs.influxdb_v2`). streamd takes the good lines beside bad ones;
  InfluxDB 2 itself does not.
- 413: `outputs.influxdb_v2` halves the batch; others drop it.
- 503: every writer that repeats at all repeats it; the Python client and `outputs.influxdb_v2` obey `Retry-After`.
- Telegraf's `outputs.http` repeats a batch after every answer but 2xx, for ever, and sends nothing else meanwhile.

Version 2 reads `message` in the body of an error, version 1 `error`.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs

import structlog
from aiohttp import web

from streamd.core.errors import StreamdError, TooLargeError
from streamd.http.protocols.intake import Intake, choose_foreign_status, make_retry_headers
from streamd.protocols.line_protocol import LineCounts, decode_line_protocol
from streamd.runtime.aggregation.batch import CommitResult, PointBatch
from streamd.runtime.service import Service

log = structlog.get_logger(__name__)

_PROTOCOL = "influx"

STAMPED_HEADER = "X-Streamd-Stamped"
"""The header of an answer with the number of lines without a timestamp, which got the time of their arrival."""

_MAX_SHOWN_ERRORS = 3
"""The largest number of errors in the message of an answer."""

_VERSION_HEADERS = {"X-Influxdb-Version": "streamd", "X-Influxdb-Build": "streamd"}
_CREATE_DATABASE = re.compile(r"\s*CREATE\s+DATABASE\s", re.IGNORECASE)
_MAX_QUERY_BYTES = 4_096
_MAX_QUERY_FIELDS = 16
_QUERY_SECONDS = 10.0
"""The time in which the body of a query must arrive."""


class InfluxRoutes:
    """Handlers for writers of line protocol.

    A token may come in each of the ways in which InfluxDB 1 and 2 take one, except as a parameter.
    """

    def __init__(self, service: Service, intake: Intake, wall: Callable[[], float] = time.time) -> None:
        self._intake = intake
        self._wall = wall
        self.stamped_lines = 0
        """The lines without a timestamp since start. After an outage a sender sends all such lines at once, and their
        past values count as present ones."""
        service.metrics.add_counter(
            "lines_without_timestamp",
            "Lines of line protocol without a timestamp, which have the time of their arrival",
            lambda: self.stamped_lines,
        )

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/api/v2/write", self.write_lines)
        app.router.add_post("/write", self.write_lines)
        app.router.add_post("/query", self.run_query)
        app.router.add_get("/ping", self.get_ping)
        app.router.add_get("/health", self.get_influx_health)

    async def write_lines(self, request: web.Request) -> web.Response:
        """Take one body of lines; an empty body is accepted."""
        now, counts = self._wall(), LineCounts()
        precision = request.query.get("precision") or "ns"

        def decode(body: bytes, batch: PointBatch) -> Iterator[None]:
            return decode_line_protocol(body, batch, now, precision, counts)

        try:
            result = await self._intake.take_body(request, _PROTOCOL, decode)
        except StreamdError as error:
            return answer_influx_refusal(request, error)
        self._count_stamped(request, counts)
        headers = {STAMPED_HEADER: str(counts.stamped)} if counts.stamped else {}
        if not result.rejected:
            return web.Response(status=204, headers=headers)
        message = _describe_rejections(result)
        return _answer_error(200 if _repeats_after_any_error(request) else 400, "invalid", message, headers)

    def _count_stamped(self, request: web.Request, counts: LineCounts) -> None:
        if counts.stamped and not self.stamped_lines:
            log.warning(
                "lines_without_timestamp",
                agent=request.headers.get("User-Agent", "")[:64],
                lines=counts.stamped,
                consequence="they have the time of their arrival; a backlog is taken for present values",
            )
        self.stamped_lines += counts.stamped

    async def run_query(self, request: web.Request) -> web.Response:
        """Answer `CREATE DATABASE` as done: Telegraf's `outputs.influxdb` sends it at start, and expects no more."""
        query = request.query.get("q") or await _read_query(request)
        if _CREATE_DATABASE.match(query):
            return web.json_response({"results": [{"statement_id": 0}]}, headers=_VERSION_HEADERS)
        return _answer_error(400, "invalid", "streamd takes lines and answers no queries, only CREATE DATABASE", {})

    async def get_ping(self, request: web.Request) -> web.Response:
        """Answer with 204 and a header with a version, which clients of InfluxDB 1 expect."""
        return web.Response(status=204, headers=_VERSION_HEADERS)

    async def get_influx_health(self, request: web.Request) -> web.Response:
        """Answer as InfluxDB 2 does; clients read `status` and `message`."""
        message = {"name": "streamd", "message": "ready for writes", "status": "pass", "checks": []}
        return web.json_response(message)


async def _read_query(request: web.Request) -> str:
    """Return the query in a form that is sent as a body, or nothing."""
    if not 0 < (request.content_length or 0) <= _MAX_QUERY_BYTES:
        return ""
    try:
        async with asyncio.timeout(_QUERY_SECONDS):
            form = parse_qs((await request.read()).decode("utf-8", "replace"), max_num_fields=_MAX_QUERY_FIELDS)
    except (TimeoutError, ValueError):
        return ""
    return form.get("q", [""])[0]


def _repeats_after_any_error(request: web.Request) -> bool:
    """Whether a sender may be Telegraf's `outputs.http`, which would repeat a batch with a bad line for ever.

    `outputs.influxdb_v2` always sends a token. `outputs.influxdb` cannot be distinguished from `outputs.http`, but it
    drops a batch after any answer with the words "partial write", and logs the answer.
    """
    is_telegraf = request.headers.get("User-Agent", "").startswith("Telegraf/")
    return is_telegraf and not request.headers.get("Authorization", "").startswith("Token ")


def _describe_rejections(result: CommitResult) -> str:
    """Return the first reasons; clients search the message for "partial write" and "unable to parse"."""
    reasons = "; ".join(str(error) for error in result.errors[:_MAX_SHOWN_ERRORS])
    more = "" if result.rejected <= _MAX_SHOWN_ERRORS else "; ..."
    kept = result.taken + result.ignored + result.skipped
    return f"partial write: unable to parse {result.rejected} points, {kept} others are taken: {reasons}{more}"


def answer_influx_refusal(request: web.Request, error: StreamdError) -> web.Response:
    """Return the answer to a body that was not taken, or to a query that was refused."""
    message, status = str(error), choose_foreign_status(error)
    if isinstance(error, TooLargeError) and _repeats_after_any_error(request):
        status, message = 200, f"partial write: {message}"
    return _answer_error(status, _CODES.get(status, "internal error"), message, make_retry_headers(error))


_CODES = {
    200: "request too large",
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    413: "request too large",
    415: "unsupported media type",
    503: "unavailable",
}
"""The codes of InfluxDB 2."""


_MAX_HEADER_CHARACTERS = 512
_UNSHOWN = re.compile(r"[^ -~]")
"""Characters that a header must not have, such as those in the name of a server."""


def _answer_error(status: int, code: str, message: str, headers: dict[str, str]) -> web.Response:
    body = {"code": code, "message": message, "error": message}
    # InfluxDB 1 repeats its error in this header.
    shown = _UNSHOWN.sub("?", message[:_MAX_HEADER_CHARACTERS])
    return web.json_response(body, status=status, headers={**headers, **_VERSION_HEADERS, "X-Influxdb-Error": shown})
