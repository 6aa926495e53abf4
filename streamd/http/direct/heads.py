"""The head of a plain request: read strictly from its bytes, or not at all. No I/O.

What this grammar takes, every parser of HTTP/1.1 reads in the same way: nothing can be hidden between the two.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

MAX_HEAD_BYTES = 2_048
"""A longer head is not plain."""

MAX_REMEMBERED = 1_024
"""Heads that are remembered. A client repeats its head, so most are not parsed again; all of them take 3 MB at most."""

END = b"\r\n\r\n"

_START = b"POST /"
_REQUEST_LINE = re.compile(rb"POST (/[!-~]*) HTTP/1\.1")
_FIELD = re.compile(rb"([A-Za-z0-9-]+): ?([!-~](?:[ -~]*[!-~])?)")
_LENGTH = re.compile(r"[0-9]{1,8}")

_MEANINGFUL = frozenset({"host", "content-length", "content-type", "authorization", "connection"})
_WITHOUT_MEANING = frozenset({"accept", "accept-encoding", "accept-language", "user-agent", "x-request-id"})
"""Fields that change nothing here. A request with any other field is not plain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainHead:
    """The head of a POST over HTTP/1.1 with a body of known length, on a connection that stays open."""

    path: str
    head_bytes: int
    body_bytes: int
    host: str
    content_type: str
    authorization: str | None


def parse_head(head: bytes) -> PlainHead | None:
    """Return the head that these bytes are, up to and with the empty line; `None` if it is not plain."""
    line, *lines = head.removesuffix(END).split(b"\r\n")
    request_line = _REQUEST_LINE.fullmatch(line)
    fields = _parse_fields(lines)
    if request_line is None or fields is None or not {"host", "content-length", "content-type"} <= fields.keys():
        return None
    length = fields["content-length"]
    if fields.get("connection", "keep-alive").lower() != "keep-alive" or not _LENGTH.fullmatch(length):
        return None
    return PlainHead(
        path=request_line[1].decode("ascii"),
        head_bytes=len(head),
        body_bytes=int(length),
        host=fields["host"],
        content_type=fields["content-type"],
        authorization=fields.get("authorization"),
    )


def _parse_fields(lines: list[bytes]) -> dict[str, str] | None:
    """Return the fields by their names in lower case; `None` if one is not plain, or occurs twice."""
    fields: dict[str, str] = {}
    for line in lines:
        parts = _FIELD.fullmatch(line)
        if parts is None:
            return None
        name = parts[1].decode("ascii").lower()
        if name in fields or not (name in _MEANINGFUL or name in _WITHOUT_MEANING):
            return None
        fields[name] = parts[2].decode("ascii")
    return fields


class PlainHeads:
    """Finds the heads of plain requests to some paths, with bodies of some content types."""

    def __init__(self, paths: Collection[str], content_types: Collection[str], max_body_bytes: int) -> None:
        self._paths = frozenset(paths)
        self._content_types = frozenset(content_types)
        self._max_body_bytes = max_body_bytes
        self._remembered: dict[bytes, PlainHead | None] = {}

    def find(self, data: bytes) -> PlainHead | None:
        """Return the head at the begin of `data`; `None` if it is not plain, or not complete (`may_become_plain`)."""
        end = data.find(END, 0, MAX_HEAD_BYTES)
        if end < 0:
            return None
        head = data[: end + len(END)]
        if head in self._remembered:
            return self._remembered[head]
        return self._remember(head)

    def may_become_plain(self, data: bytes) -> bool:
        """Whether more bytes may make `data`, in which `find` found nothing, the begin of a plain request."""
        if not data.startswith(_START[: len(data)]) or len(data) >= MAX_HEAD_BYTES or END in data:
            return False
        *lines, rest = data.split(b"\r\n")
        has_end = b"\n" in rest or b"\r" in rest[:-1]  # one that only other parsers take for the end of a line
        return not has_end and (not lines or self._is_begun_well(lines))

    def _is_begun_well(self, lines: list[bytes]) -> bool:
        request_line = _REQUEST_LINE.fullmatch(lines[0])
        if request_line is None or request_line[1].decode("ascii") not in self._paths:
            return False
        return _parse_fields(lines[1:]) is not None

    def _remember(self, head: bytes) -> PlainHead | None:
        found = parse_head(head)
        if found is not None and not self._serves(found):
            found = None
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[head] = found
        return found

    def _serves(self, head: PlainHead) -> bool:
        return (
            head.path in self._paths
            and head.content_type.lower() in self._content_types
            and head.body_bytes <= self._max_body_bytes
        )
