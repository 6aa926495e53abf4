"""The audit log: one line for each action of an administrator, whether it was done or refused.

A line has the caller's name and address, never its token.
"""

import asyncio
import logging

import structlog
from aiohttp import web

from streamd.core.errors import StreamdError
from streamd.http.access.context import get_target, name_caller
from streamd.http.access.forwarded import get_remote
from streamd.http.errors import Handler

# Its own lowest level: the setting log_level does not silence an audit.
_audit_log = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET))

DONE = "done"
"""The outcome of an action without an error."""

_MAX_TARGET_CHARACTERS = 256


async def run_audited(request: web.Request, handler: Handler, action: str) -> web.StreamResponse:
    """Run a handler, and log its outcome, however it ends."""
    outcome = DONE
    try:
        answer = await handler(request)
        if answer.status >= 400:
            outcome = f"http_{answer.status}"
        return answer
    except BaseException as exc:
        outcome = _name_outcome(exc)
        raise
    finally:
        log_action(request, action, outcome)


def log_action(request: web.Request, action: str, outcome: str) -> None:
    """Write the line of one action."""
    _audit_log.info(
        "audit",
        action=action,
        caller=name_caller(request),
        remote=get_remote(request) or "unknown",
        target=get_target(request)[:_MAX_TARGET_CHARACTERS],
        outcome=outcome,
    )


def _name_outcome(exc: BaseException) -> str:
    if isinstance(exc, StreamdError):
        return exc.code
    if isinstance(exc, web.HTTPException):
        return f"http_{exc.status}"
    if isinstance(exc, asyncio.CancelledError | ConnectionError):
        return "caller_left"
    return "internal"
