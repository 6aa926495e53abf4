"""Requests of the form that connections serve themselves (`streamd/http/direct`), and those that are nearly so.

Each has one or a few deviations, such as those by which requests are smuggled past a parser that reads them otherwise.
"""

import itertools
from collections.abc import Sequence
from random import Random

import msgspec
import numpy as np

from streamd.core.contract import ModelContract

MSGPACK = "application/msgpack"

_METHODS = ("post", "GET", "PUT", "HEAD", "OPTIONS", "CONNECT", "POST ", "P\x00ST")
_TARGETS = (
    *("/predict", "/healthz", "/v1/samples", "/v1/predict?x=1", "/v1/predict#a", "/v1/%70redict", "/v1//predict"),
    *("/v1/predict/", "http://localhost/v1/predict", "//v1/predict", "/v1/./predict", "*", "/v1/predict;a", ""),
)
_VERSIONS = ("HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "", "HTTP/1.1\t")
_HOSTS = (
    *("Host: evil.example", "Host:", "Host: a b", "Host: 127.0.0.1:99999", "Host: [::1]", "Host: localhost@x"),
    *("Host: local\x7fhost", "Host: localhost\r\nHost: localhost", "X-Host: localhost", "host:localhost"),
)
_TYPES = (
    *(f"content-type:{MSGPACK.upper()}", f"Content-Type: {MSGPACK}; q=1", "Content-Type: application/x-msgpack"),
    *("Content-Type: application/json", "Content-Type:", f"Content-Type: {MSGPACK},{MSGPACK}", "X-Type: a"),
)
_FIELDS = (
    *("Connection: keep-alive", "Connection: close", "Connection: Keep-Alive", "connection: keep-alive, close"),
    *("Connection: upgrade\r\nUpgrade: websocket", "Upgrade: h2c", "Expect: 100-continue", "Expect: x", "TE: trailers"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Content-Length: 3", "Content-Encoding: gzip"),
    *("Content-Encoding: identity", "Origin: http://evil.example", "Origin: http://localhost", "Trailer: x"),
    *(" folded", "\tfolded", "A\x00: b", "A: b\x00", "A: b\nC: d", "Accept: \x80\xff", "Accept: a\rb", ": x", "Accept"),
    *("Accept:", "Accept:   x", "Accept : x", "Accept: application/json", "X-Request-Id: a", "Accept-Encoding: gzip"),
    *("User-Agent: " + "y" * 1_500, "User-Agent: " + "y" * 9_000, "Authorization: x", "Content-Type: x"),
    *("Forwarded: for=1", "X-Forwarded-For: 1", "Keep-Alive: timeout=1", "Cookie: a=b", "Accept: */*"),
)
_LINE_ENDS = ("\n", "\r", "\r\r\n", "\n\r")
_ENDS = ("\n", "", "\r", "\r\n\r\n")
_BEGINS = ("\r\n", "\n", " ", "\r\n\r\n", "\x00")
_DAMAGES = b"\r\n \t:\x00,aA/0"
_USUAL = 0.93
"""The share of the parts of a request that are as usual: some requests are right, the others differ in few parts."""


def list_predict_bodies(contract: ModelContract) -> list[bytes]:
    """Return the bodies of calls of one to three windows, and bodies that are none."""
    right = [msgspec.msgpack.encode(_make_call(contract, windows)) for windows in (1, 2, 3)]
    call = _make_call(contract, 1)
    shapes = ([0, 2**64 - 1], [0, 2**62], [0, 2**63 - 1, 2**63 - 1], [-1], [2**63, 0])
    wrong = [{"inputs": {"encoder_cont": {"shape": shape, "dtype": "float32", "data": b""}}} for shape in shapes]
    others = [call["inputs"], {**call, "more": 1}, {"inputs": 5}, {"inputs": {}}, [], {"inputs": {"x": None}}]
    raw = [b"", b"\xc1", b"\x80", right[0] + b"\x00", b"\x81\xa6inputs\x81\xa1\xff\x80", b"x" * 5_000]
    raw += [b"\x81\xa6inputs\xdf\xff\xff\xff\xff", b"\x82\xa6inputs\x80\xa6inputs\x80"]
    return [*right * 6, *map(msgspec.msgpack.encode, [*wrong, *others]), *raw]


def _make_call(contract: ModelContract, windows: int) -> dict[str, dict[str, object]]:
    tensors: dict[str, object] = {}
    for name, shape in contract.input_shapes.items():
        dtype = "int32" if name.endswith("_cat") else "float32"
        array = np.ones((windows, *shape), dtype)
        tensors[name] = {"shape": list(array.shape), "dtype": dtype, "data": array.tobytes()}
    return {"inputs": tensors}


class PlainRequestMaker:
    """Makes requests; `authorizations` are lines of heads that identify callers, the first one the usual one."""

    def __init__(self, bodies: Sequence[bytes], random: Random, authorizations: Sequence[str] = ()) -> None:
        self._bodies = bodies
        self._random = random
        self._authorizations = authorizations

    def make_requests(self) -> bytes:
        """Return the bytes of one request or several, one behind the other; perhaps the last is cut off."""
        data = b"".join(self._make_request() for _ in range(self._random.choice((1, 1, 2, 2, 3, 5))))
        return data[: self._random.randrange(len(data))] if self._random.random() < 0.05 else data

    def cut(self, data: bytes) -> list[bytes]:
        """Return data in the pieces in which it is to be sent."""
        count = self._random.choice((0, 0, 1, 2, 6))
        edges = [0, *sorted(self._random.randrange(len(data) + 1) for _ in range(count)), len(data)]
        return [data[begin:end] for begin, end in itertools.pairwise(edges)]

    # ------------------------------------------------------------ parts
    def _choose(self, usual: str, others: Sequence[str]) -> str:
        return usual if self._random.random() < _USUAL or not others else self._random.choice(others)

    def _make_request(self) -> bytes:
        random, body = self._random, self._random.choice(self._bodies)
        line = f"{self._choose('POST', _METHODS)} {self._choose('/v1/predict', _TARGETS)}"
        lines = [f"{line} {self._choose('HTTP/1.1', _VERSIONS)}", *self._make_fields(len(body))]
        end = self._choose("\r\n", _LINE_ENDS)
        head = self._choose("", _BEGINS) + end.join(lines) + end + self._choose(end, _ENDS)
        data = bytearray(head.encode("latin-1") + body)
        for _ in range(random.choice((1, 2, 5)) if random.random() > _USUAL else 0):
            data[random.randrange(min(len(data), 400))] = random.choice(_DAMAGES)
        return bytes(data)

    def _make_fields(self, size: int) -> list[str]:
        fields = [
            self._choose("Host: localhost", _HOSTS),
            self._choose(f"Content-Type: {MSGPACK}", _TYPES),
            self._choose(f"Content-Length: {size}", _list_lengths(size)),
            *self._random.sample(_FIELDS, self._random.choice((0, 0, 0, 1, 1, 2))),
        ]
        if self._authorizations:
            fields.append(self._choose(self._authorizations[0], self._authorizations))
        self._random.shuffle(fields)
        return fields


def _list_lengths(size: int) -> list[str]:
    """Return announcements of a body's size that are unusual or wrong."""
    values = [f"000{size}", f"+{size}", f"{size} ", f"{size}, {size}", f"\t{size}", hex(size), str(size // 2)]
    values += [str(size + 7), "99999999", "999999999999999999999", "-1", "", "00000005"]
    lines = [f"Content-Length: {value}" for value in values]
    twice = f"Content-Length: {size}\r\nContent-Length: {size}"
    return [*lines, f"content-length:{size}", f"Content-Length : {size}", twice, "X: 1"]
