"""The route `POST /api/put`: for netdata's JSON, and for OpenTSDB's, which is sent to the same path.

netdata 1.37.1 accepts any 2xx and sends nothing again after an error. OpenTSDB's senders expect 204, or a JSON object
with `?summary` or `?details`. If some datapoints are bad, they expect 400, although the good ones are stored
(`PutDataPointRpc.processDataPoint` of OpenTSDB 2.4).
"""

from typing import Any

import msgspec
from aiohttp import web

from streamd.core.errors import StreamdError
from streamd.http.protocols.intake import Intake, choose_foreign_status, make_retry_headers
from streamd.protocols.opentsdb import PutBody
from streamd.runtime.aggregation.batch import CommitResult
from streamd.runtime.service import Service

MAX_SHOWN_DATAPOINT_BYTES = 2_048
"""A larger datapoint is not repeated beside its error."""


class NetdataRoutes:
    """The handler for netdata and for senders of OpenTSDB's JSON."""

    def __init__(self, service: Service, intake: Intake) -> None:
        self._intake = intake

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_post("/api/put", self.put_points)

    async def put_points(self, request: web.Request) -> web.Response:
        """Take one body; the answer has the form that the sender of its items expects."""
        body = PutBody()
        try:
            result = await self._intake.take_body(request, "put", body.decode)
        except StreamdError as error:
            return answer_put_refusal(error)
        if not body.has_datapoints:
            return web.Response(status=204)
        return _answer_datapoints(request, result, body)


def answer_put_refusal(error: StreamdError) -> web.Response:
    """Return the answer to a body that was not taken."""
    return _answer_error(choose_foreign_status(error), str(error), headers=make_retry_headers(error))


def _answer_datapoints(request: web.Request, result: CommitResult, body: PutBody) -> web.Response:
    has_details = "details" in request.query
    if not has_details and "summary" not in request.query:
        if not result.rejected:
            return web.Response(status=204)
        first = str(result.errors[0])
        return _answer_error(400, "One or more data points had errors", f'{first}; append "details" to the request')
    message: dict[str, Any] = {
        "success": result.taken + result.ignored + result.skipped,
        "failed": result.rejected,
    }
    if has_details:
        message["errors"] = _list_errors(result, body)
    return _answer_json(400 if result.rejected else 200, message)


def _list_errors(result: CommitResult, body: PutBody) -> list[dict[str, Any]]:
    """Return the first errors; those of the decoder have their datapoint."""
    decoded = {id(error) for error, _ in body.bad_datapoints}
    errors = [{"error": str(error), **_show_datapoint(datapoint)} for error, datapoint in body.bad_datapoints]
    return errors + [{"error": str(error)} for error in result.errors if id(error) not in decoded]


def _show_datapoint(datapoint: Any) -> dict[str, Any]:
    try:
        shown = msgspec.json.encode(datapoint)
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError):
        return {}  # it is not Unicode, or has numbers that JSON does not have
    return {"datapoint": msgspec.Raw(shown)} if len(shown) <= MAX_SHOWN_DATAPOINT_BYTES else {}


def _answer_error(status: int, text: str, details: str = "", headers: dict[str, str] | None = None) -> web.Response:
    error = {"code": status, "message": text, **({"details": details} if details else {})}
    return _answer_json(status, {"error": error}, headers)


def _answer_json(status: int, message: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(message), status=status, content_type="application/json", headers=headers
    )
