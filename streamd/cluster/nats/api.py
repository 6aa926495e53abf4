"""The requests to JetStream that streamd makes: about streams, their messages and their states."""

import asyncio
import base64
import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec

from streamd.cluster.log import Appended, LogAwayError, LogFullError, LogMessage, StreamState
from streamd.cluster.nats.connection import NatsConnection
from streamd.cluster.nats.errors import NO_MESSAGE_FOUND, ApiFault, translate_fault
from streamd.cluster.nats.stream_ends import StreamEnds
from streamd.core.errors import StreamdError

if TYPE_CHECKING:
    from nats.aio.msg import Msg

MAX_LISTED_HOLES = 100_000
"""Removed messages that are asked for, one by one."""

DELETED_AT_ONCE = 16
"""Messages that are removed one by one at the same time."""

_API_SECONDS = 3.0
"""How long a request may take: an election of a leader takes longer, and the caller tries again."""

_Answer = TypeVar("_Answer")


class _Faulty(msgspec.Struct):
    error: ApiFault | None = None


class _Ack(msgspec.Struct):
    stream: str
    seq: int
    duplicate: bool = False


class _State(msgspec.Struct):
    first_seq: int
    last_seq: int
    messages: int
    bytes: int
    num_deleted: int = 0
    deleted: list[int] | None = None


class _Config(msgspec.Struct, frozen=True):
    subjects: tuple[str, ...] = ()


class _Info(msgspec.Struct):
    state: _State
    created: str = ""
    config: _Config = _Config()


class _Stored(msgspec.Struct):
    subject: str
    seq: int
    time: str
    data: str = ""
    hdrs: str = ""


class _Got(msgspec.Struct):
    message: _Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamContent:
    """The messages that a stream has: all from `first` to `last` but those that were `removed` between them."""

    first: int
    last: int
    removed: Collection[int]
    is_listed: bool = True
    """Whether `removed` is known; a stream with some messages that never change has millions of them after years."""
    subjects: tuple[str, ...]
    """Those that the stream takes."""
    created: str = ""
    """When it was made, as NATS writes it: one that was deleted and made anew has another time."""

    def iterate_present(self, after: int, before: int) -> Iterator[int]:
        """Iterate over the sequences of messages that are there, between two that do not count."""
        removed = self.removed
        return (at for at in range(max(after + 1, self.first), min(before, self.last + 1)) if at not in removed)

    def has(self, sequence: int) -> bool:
        """Whether a message is there."""
        return self.first <= sequence <= self.last and sequence not in self.removed


class JetStreamApi:
    """Requests over one connection."""

    prefix = "$JS.API"

    def __init__(self, connection: NatsConnection) -> None:
        self.connection = connection
        self.consumers = 0
        """Consumers that are open over this connection."""
        self.ends = StreamEnds()

    async def append(self, subject: str, data: bytes, headers: Mapping[str, str], timeout_seconds: float) -> Appended:
        """Append a message to the stream that takes its subject; raises as `Log.append`."""
        with self.noting():
            answer = await self.connection.request(subject, data, timeout_seconds=timeout_seconds, headers=headers)
            ack = decode_api_answer(answer, _Ack, subject)
        self.ends.note(ack.stream, ack.seq)
        return Appended(ack.seq, ack.duplicate)

    async def call(
        self, verb: str, request: bytes, answer_type: type[_Answer], place: str, timeout_seconds: float = _API_SECONDS
    ) -> _Answer:
        """Make a request to JetStream itself; raises what `translate_fault` returns, `LogAwayError`."""
        with self.noting():
            answer = await self.connection.request(f"{self.prefix}.{verb}", request, timeout_seconds=timeout_seconds)
            return decode_api_answer(answer, answer_type, place)

    async def find(
        self, verb: str, request: bytes, answer_type: type[_Answer], place: str, missing: int
    ) -> _Answer | None:
        """Make a request as `call` does; returns `None` if it is refused with the code `missing`."""
        with self.noting():
            subject = f"{self.prefix}.{verb}"
            answer = await self.connection.request(subject, request, timeout_seconds=_API_SECONDS)
            fault = find_fault(answer)
            if fault is not None and fault.err_code == missing:
                return None
            return decode_api_answer(answer, answer_type, place)

    async def read_state(self, stream: str) -> StreamState:
        """Return what a stream holds, as its leader knows it."""
        state = (await self._read_info(stream)).state
        return StreamState(state.first_seq or 1, state.last_seq, state.messages, state.bytes)

    async def read_content(self, stream: str) -> StreamContent:
        """Return which messages a stream has, as its leader knows it."""
        info = await self._read_info(stream)
        is_listed = info.state.num_deleted <= MAX_LISTED_HOLES
        if info.state.num_deleted and is_listed:
            info = await self._read_info(stream, b'{"deleted_details": true}')
        state = info.state
        return StreamContent(
            first=state.first_seq or 1,
            last=state.last_seq,
            removed=frozenset(state.deleted or ()),
            is_listed=is_listed,
            subjects=info.config.subjects,
            created=info.created,
        )

    async def _read_info(self, stream: str, request: bytes = b"") -> _Info:
        info = await self.call(f"STREAM.INFO.{stream}", request, _Info, stream)
        self.ends.check(stream, info.created, info.state.last_seq)
        return info

    async def read_message(self, stream: str, sequence: int) -> LogMessage | None:
        """Return one message, as the leader knows it; `None` if it is not there."""
        return await self._get(stream, {"seq": sequence})

    async def read_last(self, stream: str, subject: str) -> LogMessage | None:
        """Return the last message of a subject, as the leader knows it."""
        return await self._get(stream, {"last_by_subj": subject})

    async def _get(self, stream: str, which: Mapping[str, str | int]) -> LogMessage | None:
        request = json.dumps(which).encode()
        got = await self.find(f"STREAM.MSG.GET.{stream}", request, _Got, stream, NO_MESSAGE_FOUND)
        if got is None:
            return None
        stored = got.message
        return LogMessage(
            stored.subject,
            base64.b64decode(stored.data),
            stored.seq,
            parse_time(stored.time),
            parse_headers(base64.b64decode(stored.hdrs)),
        )

    async def purge(self, stream: str, subject: str, below: int) -> None:
        """Remove the messages of a subject below a sequence; there are no others below it."""
        if self.connection.is_old:
            await self._delete(stream, below)
            return
        request = json.dumps({"filter": subject, "seq": below}).encode()
        await self.call(f"STREAM.PURGE.{stream}", request, _Faulty, stream)

    async def _delete(self, stream: str, below: int) -> None:
        """Remove the messages below a sequence one by one.

        A server of 2.9 that was killed purges again when it starts, and then all that the stream had at that time.
        """
        content = await self.read_content(stream)
        present = list(content.iterate_present(0, below))
        for begin in range(0, len(present), DELETED_AT_ONCE):
            requests = [json.dumps({"seq": at, "no_erase": True}) for at in present[begin : begin + DELETED_AT_ONCE]]
            verb = f"STREAM.MSG.DELETE.{stream}"
            await asyncio.gather(*(self.call(verb, each.encode(), _Faulty, stream) for each in requests))

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note whether JetStream answers, be it with a refusal."""
        try:
            yield
        except LogFullError:
            self.connection.note_outcome(is_answered=True)
            raise
        except LogAwayError:
            self.connection.note_outcome(is_answered=False)
            raise
        except StreamdError:
            self.connection.note_outcome(is_answered=True)
            raise
        else:
            self.connection.note_outcome(is_answered=True)


def decode_api_answer(answer: "Msg", answer_type: type[_Answer], place: str) -> _Answer:
    """Decode an answer of JetStream; raises what `translate_fault` returns for one that refuses."""
    if not answer.data and answer.headers and answer.headers.get("Status") == "503":
        raise LogAwayError(f"{place}: has no leader at present, or is not there, or JetStream is not enabled")
    fault = find_fault(answer)
    if fault is not None:
        raise translate_fault(fault, place)
    try:
        return msgspec.json.decode(answer.data, type=answer_type)
    except msgspec.MsgspecError as exc:
        raise LogAwayError(f"{place}: NATS answers what cannot be read: {exc}") from exc


def find_fault(answer: "Msg") -> ApiFault | None:
    """Return the error in an answer of JetStream."""
    if b'"error"' not in answer.data:
        return None
    try:
        return msgspec.json.decode(answer.data, type=_Faulty).error
    except msgspec.MsgspecError:
        return None


def parse_time(text: str) -> float:
    """Return the epoch seconds of a time of NATS, which has up to nine digits after the second."""
    whole, _, rest = text.rstrip("Z").partition(".")
    digits = rest.rstrip("Z") or "0"
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + int(digits) / 10.0 ** len(digits)


def parse_headers(raw: bytes) -> dict[str, str]:
    """Return the headers of a stored message."""
    pairs = (line.partition(b":") for line in raw.split(b"\r\n")[1:] if b":" in line)
    return {name.decode(): value.strip().decode() for name, _, value in pairs}
