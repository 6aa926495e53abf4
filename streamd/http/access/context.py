"""The caller of a request, and the thing that an action changes, as the handlers and the audit log read them.

The gate sets the caller before the handler runs.
"""

import time
from collections.abc import Callable

from aiohttp import web

from streamd.core.access.caller import Caller

_CALLER = web.RequestKey("caller", Caller)
_TARGET = web.RequestKey("target", str)
_HAS_ROWS = web.RequestKey("has_rows", bool)


def set_caller(request: web.BaseRequest, caller: Caller) -> None:
    """Set the caller of a request; the gate does it once."""
    request[_CALLER] = caller


def get_caller(request: web.BaseRequest) -> Caller:
    """Return the caller of a request that has passed the gate.

    Raises `KeyError` if it has not: a route must not serve a caller that was not checked.
    """
    return request[_CALLER]


def limit_rows(request: web.BaseRequest) -> None:
    """Note that the body of a request has rows, which the token of its caller may limit."""
    request[_HAS_ROWS] = True


def recheck_caller(request: web.BaseRequest, clock: Callable[[], float] = time.monotonic) -> None:
    """Check again that a caller may go on, before its body is handled: the body may have come long after the head.

    Raises `UnauthorizedError` if the token was revoked meanwhile, and `RateLimitedError` if other bodies of it have
    taken its rows.
    """
    caller = get_caller(request)
    caller.require_valid()
    if request.get(_HAS_ROWS, False):
        caller.usage.require_rows(clock())


def set_target(request: web.BaseRequest, target: str) -> None:
    """Set the thing that an action changes, such as a version, for the audit log."""
    request[_TARGET] = target


def get_target(request: web.BaseRequest) -> str:
    """Return the thing that an action changes; empty if it is not known, as when the body was not read."""
    target: str = request.get(_TARGET, "")
    return target


def name_caller(request: web.BaseRequest) -> str:
    """Return the caller's name for the audit log; `unknown` if it was not identified."""
    return request[_CALLER].name if _CALLER in request else "unknown"
