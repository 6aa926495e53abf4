"""Posts the requests of captures one after the other, and reads what the daemon says to each of them."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)
from yarl import URL

from streamd.tools.captures.requests import CapturedRequest
from streamd.tools.loadtest.errors import LinkLostError

BUSY_STATUSES = (429, 502, 503, 504)
BUSY_TRIES = 20
"""So often is a request sent in all while the daemon is too busy for it."""
MAX_BUSY_SECONDS = 5.0
"""The longest wait for the next try, whatever the daemon requests."""
CONNECT_POLL_SECONDS = 0.25

MAX_ANSWER_CHARACTERS = 400
_MAX_ANSWER_BYTES = 2**16
_PARTIAL_TEXTS = ("partial write", "One or more data points had errors")
"""Texts of answers with an error to requests whose good points were taken."""
_STAMPED_HEADER = "X-Streamd-Stamped"
_WRITTEN_HEADER = "X-Prometheus-Remote-Write-Samples-Written"
_PROTOBUF = "application/x-protobuf"


class AnswerKind(StrEnum):
    """The fate of a request."""

    TAKEN = "taken"
    PARTLY = "taken in part"
    """Some of its points were rejected."""
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class CaptureAnswer:
    """The daemon's answer to a request."""

    kind: AnswerKind
    status: int
    text: str = ""
    """The reason, if not all was taken."""
    stamped: int = 0
    """Lines without a timestamp, which count as of now."""


class CapturePoster:
    """A sender of captured requests to one daemon.

    While no connection is to be had it tries for `reconnect_seconds`; an answer may take `answer_seconds`.
    """

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, *, answer_seconds: float, reconnect_seconds: float
    ) -> None:
        self._session = session
        self._base = URL(base_url)
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds)
        self._reconnect_seconds = reconnect_seconds

    async def post(self, request: CapturedRequest) -> CaptureAnswer:
        """Send one request until it is answered, and not only put off; raises `LinkLostError`."""
        for _ in range(BUSY_TRIES - 1):
            answer, retry_seconds = await self._post_connected(request)
            if answer.status not in BUSY_STATUSES:
                return answer
            await asyncio.sleep(min(retry_seconds, MAX_BUSY_SECONDS))
        return (await self._post_connected(request))[0]

    async def _post_connected(self, request: CapturedRequest) -> tuple[CaptureAnswer, float]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._reconnect_seconds
        while True:
            try:
                return await self._post_once(request)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if loop.time() >= end:
                    raise LinkLostError(f"{request.name}: {str(error) or 'no answer'}") from error
            except ValueError as error:  # a recorded header that HTTP has not
                return CaptureAnswer(kind=AnswerKind.REFUSED, status=0, text=f"cannot be sent: {error}"), 0.0
            await asyncio.sleep(CONNECT_POLL_SECONDS)

    async def _post_once(self, request: CapturedRequest) -> tuple[CaptureAnswer, float]:
        # A path is sent as it was recorded, and headers that were not recorded are not added.
        url = self._base.with_path(self._base.path.rstrip("/") + request.path).with_query(dict(request.query))
        async with self._session.post(
            url,
            data=request.body,
            headers=dict(request.headers),
            skip_auto_headers=("Content-Type", "User-Agent", "Accept"),
            timeout=self._timeout,
            allow_redirects=False,
        ) as response:
            body = await response.content.read(_MAX_ANSWER_BYTES)
            answer = judge_answer(response.status, response.headers, body)
            return answer, _read_seconds(response.headers.get("Retry-After", ""))


def judge_answer(status: int, headers: Mapping[str, str], body: bytes) -> CaptureAnswer:
    """Judge an answer by its status, its headers and its body, which each protocol has in a form of its own."""
    stamped = int(_read_seconds(headers.get(_STAMPED_HEADER, ""), 0.0))
    content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if 200 <= status < 300:
        text = _find_rejections(content_type, body)
        kind = AnswerKind.PARTLY if text else AnswerKind.TAKEN
        return CaptureAnswer(kind=kind, status=status, text=text, stamped=stamped)
    text = _find_message(content_type, body) or "no reason given"
    is_partial = status == 400 and (_WRITTEN_HEADER in headers or text.startswith(_PARTIAL_TEXTS))
    kind = AnswerKind.PARTLY if is_partial else AnswerKind.REFUSED
    return CaptureAnswer(kind=kind, status=status, text=text, stamped=stamped)


def _find_rejections(content_type: str, body: bytes) -> str:
    """Return what a good answer says of points that were rejected."""
    if content_type == _PROTOBUF:
        try:
            return _clean_text(ExportMetricsServiceResponse.FromString(body).partial_success.error_message)
        except DecodeError:
            return ""
    answer = _read_object(body)
    if answer.get("rejected"):
        errors = answer.get("errors")
        first = errors[0] if isinstance(errors, list) and errors else {}
        reason = first.get("message", "") if isinstance(first, dict) else ""
        return _clean_text(f"{answer['rejected']} points were rejected: {reason}")
    partial = answer.get("partialSuccess")
    return _clean_text(str(partial.get("errorMessage", ""))) if isinstance(partial, dict) else ""


def _find_message(content_type: str, body: bytes) -> str:
    """Return the reason in an answer with an error."""
    if content_type == _PROTOBUF:
        try:
            # `google.rpc.Status` has its message where this message has its own.
            return _clean_text(ExportMetricsPartialSuccess.FromString(body).error_message)
        except DecodeError:
            return ""
    answer = _read_object(body)
    inner = answer.get("error")
    if isinstance(inner, dict):
        answer = inner
    if isinstance(answer.get("message"), str):
        details = answer.get("details")
        return _clean_text(answer["message"] + (f": {details}" if isinstance(details, str) and details else ""))
    return _clean_text(body.decode("utf-8", "replace"))


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _clean_text(text: str) -> str:
    """Return a text as one line of what a terminal shows as it is."""
    line = " ".join(text.split())[:MAX_ANSWER_CHARACTERS]
    return "".join(character if character.isprintable() else "?" for character in line)


def _read_seconds(text: str, missing: float = 1.0) -> float:
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else missing
