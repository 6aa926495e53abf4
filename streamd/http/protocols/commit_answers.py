"""Answers in JSON, for foreign protocols whose senders do not expect answers of a certain form."""

from typing import Any

from aiohttp import web

from streamd.core.errors import StreamdError
from streamd.http.errors import make_error_message
from streamd.http.protocols.intake import choose_foreign_status, make_retry_headers
from streamd.runtime.aggregation.batch import CommitResult


def answer_commit(result: CommitResult) -> web.Response:
    """Return the answer to a body that was decoded, even if some or all of its points were rejected."""
    return web.json_response(make_commit_message(result))


def make_commit_message(result: CommitResult) -> dict[str, Any]:
    """Return the counts of points, and the first errors."""
    return {
        "taken": result.taken,
        "ignored": result.ignored,
        "skipped": result.skipped,
        "rejected": result.rejected,
        "errors": [{"code": error.code, "message": str(error)} for error in result.errors],
    }


def answer_refusal(error: StreamdError) -> web.Response:
    """Return the answer to a body that was not taken."""
    return web.json_response(
        make_error_message(error), status=choose_foreign_status(error), headers=make_retry_headers(error)
    )
