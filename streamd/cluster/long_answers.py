"""Requests between nodes whose answers may be larger than a message: a large answer is fetched part by part.

Knows no verb and no content. The answering node keeps the parts of few answers for a short time.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from streamd.cluster.log import Log, NoAnswerError, Unsubscribe

PART_BYTES = 512 * 2**10
"""A server of NATS takes a megabyte in a message, by default."""

KEPT_SECONDS = 15.0
MAX_KEPT = 64
"""Answers whose parts wait to be fetched, at most; the oldest is dropped."""


class _Request(msgspec.Struct, array_like=True):
    """A question, or the wish for a further part of the answer to an earlier one."""

    data: bytes = b""
    ticket: str = ""
    part: int = 0


class _Part(msgspec.Struct, array_like=True):
    data: bytes
    parts: int = 1
    ticket: str = ""


_request_decoder = msgspec.msgpack.Decoder(_Request)
_part_decoder = msgspec.msgpack.Decoder(_Part)


async def ask(cluster_log: Log, subject: str, data: bytes, *, timeout_seconds: float) -> bytes:
    """Return the whole answer to a request; the time is that of each part. Raises `LogAwayError`."""
    first = await _ask_part(cluster_log, subject, _Request(data), timeout_seconds)
    if first.parts == 1:
        return first.data
    requests = (_Request(b"", first.ticket, part) for part in range(1, first.parts))
    rest = [await _ask_part(cluster_log, subject, each, timeout_seconds) for each in requests]
    return b"".join(part.data for part in (first, *rest))


async def _ask_part(cluster_log: Log, subject: str, request: _Request, timeout_seconds: float) -> _Part:
    answer = await cluster_log.request(subject, msgspec.msgpack.encode(request), timeout_seconds=timeout_seconds)
    try:
        return _part_decoder.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise NoAnswerError(f"{subject}: the answer is not one of this release: {exc}") from exc


class LongAnswers:
    """Serves a subject, and keeps what is left of answers that are larger than a message."""

    def __init__(
        self,
        answer: Callable[[bytes], Awaitable[bytes]],
        *,
        part_bytes: int = PART_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answer = answer
        self._part_bytes = part_bytes
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def serve(self, cluster_log: Log, subject: str) -> Unsubscribe:
        """Answer the requests of a subject from now on."""
        return await cluster_log.serve(subject, self.answer)

    async def answer(self, data: bytes) -> bytes:
        """Answer one message of a request; raises `NoAnswerError` for a part that is not kept any more."""
        try:
            request = _request_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise NoAnswerError(f"the request is not one of this release: {exc}") from exc
        self._drop_old()
        if request.ticket:
            return self._cut(request.ticket, request.part)
        whole = await self._answer(request.data)
        if len(whole) <= self._part_bytes:
            return msgspec.msgpack.encode(_Part(whole))
        ticket = secrets.token_hex(8)
        self._kept[ticket] = self._clock() + KEPT_SECONDS, whole
        return self._cut(ticket, 0)

    def _cut(self, ticket: str, part: int) -> bytes:
        if ticket not in self._kept:
            raise NoAnswerError("the rest of the answer is not kept any more")
        whole, size = self._kept[ticket][1], self._part_bytes
        parts = -(-len(whole) // size)
        if part == parts - 1:
            del self._kept[ticket]
        return msgspec.msgpack.encode(_Part(whole[part * size : (part + 1) * size], parts, ticket))

    def _drop_old(self) -> None:
        now = self._clock()
        while self._kept and (len(self._kept) >= MAX_KEPT or next(iter(self._kept.values()))[0] < now):
            self._kept.popitem(last=False)
