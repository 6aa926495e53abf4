"""Errors as HTTP answers: one table from error class to status, and one middleware that uses it.

The errors themselves are in `core/errors.py`. Nothing here knows what a route does.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import hdrs, web

from streamd.core import errors
from streamd.core.errors import StreamdError
from streamd.http.compression import CONTENT_CODINGS
from streamd.http.peers import PEER_LEFT_ERRORS, has_peer_left
from streamd.http.wire.codecs import Encoding, encode, parse_content_type

log = structlog.get_logger(__name__)

_STATUS: dict[type[StreamdError], int] = {
    errors.InvalidInputError: 400,
    errors.UnknownServerError: 404,
    errors.UnknownModelError: 404,
    errors.UnknownSilenceError: 404,
    errors.TooLargeError: 413,
    errors.UnsupportedMediaTypeError: 415,
    errors.InvalidTensorError: 422,
    errors.AllMissingError: 422,
    errors.TooBusyError: 429,
    errors.UnavailableError: 503,
    errors.NotFiniteError: 422,
    errors.LaneLostError: 503,
    errors.InferenceError: 500,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.WrongHostError: 421,
    errors.ReloadError: 409,
    errors.RepositoryError: 422,
    errors.BackendUnavailableError: 422,
    StreamdError: 500,
}

RETRY_AFTER_SECONDS = 1
"""Sent with each error that may not occur again if the call is repeated, unless the error knows the time."""

AUTHENTICATE_CHALLENGE = 'Bearer realm="streamd"'
"""The value of WWW-Authenticate. Not Basic: a browser would ask for a password, and then send it to every page."""


def choose_status(error: StreamdError) -> int:
    """Return the HTTP status of an error: that of its class, or of its nearest base class."""
    return next(_STATUS[each] for each in type(error).__mro__ if each in _STATUS)


def count_retry_seconds(error: StreamdError) -> int:
    """Return the value of Retry-After: whole seconds, after which the same call may succeed."""
    wait_seconds = error.wait_seconds if isinstance(error, errors.RateLimitedError) else None
    return RETRY_AFTER_SECONDS if wait_seconds is None else max(math.ceil(wait_seconds), RETRY_AFTER_SECONDS)


def add_error_headers(answer: web.StreamResponse, error: StreamdError) -> None:
    """Add the headers that belong to an error, whatever the form of its body is."""
    answer.headers.update(list_error_headers(error))


def list_error_headers(error: StreamdError) -> dict[str, str]:
    """Return the headers that belong to an error."""
    headers: dict[str, str] = {}
    if error.retry:
        headers["Retry-After"] = str(count_retry_seconds(error))
    if isinstance(error, errors.UnauthorizedError):
        headers["WWW-Authenticate"] = AUTHENTICATE_CHALLENGE
    return headers


def make_error_message(error: StreamdError) -> dict[str, Any]:
    """Return an error as a message: a frame, or the body of an answer."""
    return {"type": "error", "code": error.code, "message": str(error)}


def choose_encoding(request: web.Request) -> Encoding:
    """Return the encoding that a caller can read: that of its body, else the one that it accepts, else JSON."""
    try:
        return parse_content_type(request.headers.get("Content-Type", ""))
    except StreamdError:
        accepts = request.headers.get("Accept", "")
        return Encoding.MSGPACK if "msgpack" in accepts else Encoding.JSON


def reply(request: web.Request, message: Any, status: int = 200) -> web.Response:
    """Return a response in the encoding of the caller."""
    encoding = choose_encoding(request)
    return web.Response(body=encode(message, encoding), status=status, content_type=encoding.value)


OPEN_INFERENCE_PATH = "/v2"
"""The path of the Open Inference Protocol, whose clients fail to read an error of another form than its own."""


def choose_inference_status(status: int) -> int:
    """Return the status of an error below `OPEN_INFERENCE_PATH`: all that is wrong with a request has the same one."""
    return 400 if status == 422 else status


def answer_error(request: web.Request, status: int, code: str, message: str) -> web.Response:
    """Return an error in the form of the path: below `OPEN_INFERENCE_PATH` that of its protocol."""
    if not f"{request.path}/".startswith(f"{OPEN_INFERENCE_PATH}/"):
        return reply(request, {"type": "error", "code": code, "message": message}, status)
    if code in ("not_found", "method_not_allowed"):  # aiohttp's text names neither
        message = f"{message}: {request.method} {request.path}"
    body = encode({"error": message}, Encoding.JSON)
    return web.Response(body=body, status=choose_inference_status(status), content_type=Encoding.JSON.value)


KEPT_HEADERS = (hdrs.ALLOW, hdrs.UPGRADE, hdrs.CONNECTION)
"""The headers of an error of aiohttp that say what the caller may do instead."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def errors_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into an answer with its code; a defect of the daemon is logged and answered as `internal`."""
    try:
        return await handler(request)
    except StreamdError as error:
        answer = answer_error(request, choose_status(error), error.code, str(error))
        add_error_headers(answer, error)
        if isinstance(error, errors.UnsupportedEncodingError):
            answer.headers["Accept-Encoding"] = ", ".join(CONTENT_CODINGS)
        return answer
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = error.reason.lower().replace(" ", "_")
        answer = answer_error(request, error.status, code, error.text or code)
        for name in KEPT_HEADERS:
            if name in error.headers:
                answer.headers[name] = error.headers[name]
        return answer
    except Exception as exc:
        if isinstance(exc, PEER_LEFT_ERRORS) and has_peer_left(request):
            raise  # `Connection` counts it
        log.exception("handler_failed", method=request.method, path=request.path)
        return answer_error(request, 500, "internal", "a defect of the daemon; its log has the details")
