"""Requests and frames for the whole surface: made for every route, then damaged in their structure or their bytes."""

import itertools
import struct
from collections.abc import Sequence
from random import Random
from urllib.parse import quote

from benchmarks.chaos.process import ADMIN_TOKEN
from benchmarks.fuzzing.mutations import BodyShape, mutate_body
from benchmarks.fuzzing.own_targets import OWN_TARGETS
from benchmarks.fuzzing.targets import TARGETS
from streamd.http.access.rules import ROUTE_RULES, VERSION_RULES

ROUTES = (*ROUTE_RULES, *VERSION_RULES)
"""Every route, as (method, path): the application cannot be built if one is missing."""

SOCKET_PATHS = ("/v1/ingest", "/v1/ingest?ack=none", "/v1/forecasts", "/telegraf", "/telegraf?format=influx")
METHODS = ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "", "G\x00T")
NAMES = ("web-01", "stream", "..", ".", "", "a/b", "é☃", "\x00", "x" * 256, "x" * 257, "*", "[", "%", "a,b", "\ud800")
QUERIES = (
    *("", "ack=none", "ack=some", "limit=1", "limit=0", "limit=x", "cursor=web", "servers=web-*,db-?", "server="),
    *("targets=a&quantiles=0.2", "every=2&batch=true", "dtype=float16&format=msgpack", "last_event_id=7", "="),
    *("bucket=b&org=o&precision=ms", "db=telegraf&u=a&p=b", "u=" + "x" * 3_000, "&" * 500, "%zz=%", "a=1&" * 300),
)
CONTENT_TYPES = (
    *("application/json", "application/json", "application/msgpack", "application/x-protobuf", "text/plain"),
    *("application/x-protobuf;proto=io.prometheus.write.v2.Request", "application/octet-stream", "text/json"),
    *("", "text/plain; charset=utf-8", "a/b; " + "x" * 2_000, "multipart/form-data"),
)
CODINGS = ("", "", "", "", "gzip", "deflate", "snappy", "zstd", "br", "identity", "gzip, gzip", "x" * 300)
HEADERS = (
    f"Authorization: Bearer {ADMIN_TOKEN}",
    *("Accept: application/msgpack", "Accept: */*;q=0", "Expect: 100-continue", "Connection: close", "Connection: x"),
    *(
        "Host: evil.example",
        "Host:",
        "Origin: http://evil.example",
        "Origin: null",
        "Last-Event-ID: 12",
        "Range: bytes=0-",
    ),
    *(
        "Last-Event-ID: x",
        "Authorization: Bearer x",
        "Authorization: Token x",
        "Authorization: Basic !!",
        "Authorization:",
    ),
    *("Upgrade: websocket", "Upgrade: h2c", "Sec-WebSocket-Version: 12", "Sec-WebSocket-Key: x", "X: " + "y" * 9_000),
    *("Content-Length: 5", "Content-Length: -1", "Content-Length: 99999999999999999999", "Transfer-Encoding: chunked"),
    *(
        "Transfer-Encoding: x, chunked",
        "Cookie: " + "a=b; " * 500,
        ": no name",
        " folded",
        "X\x00Y: z",
        "Forwarded: for=x",
    ),
)
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
CLOSE_CODES = (0, 999, 1000, 1001, 1005, 1006, 1009, 1015, 2999, 3000, 4999, 5000, 65_535)
_BODY_BYTES, SMALL_BYTES = 60_000, 3_000


SeedBodies = Sequence[tuple[BodyShape, Sequence[bytes]]]
"""The bodies of each decoder, with the structure that they have."""


def list_seed_bodies() -> SeedBodies:
    """Return the bodies from which requests are made."""
    return [
        (target.shape, _choose_small(target.list_seeds()))
        for target in (*TARGETS, *OWN_TARGETS)
        if target.name not in ("settings", "state_files", "tokens_file")  # no route takes these
    ]


def _choose_small(seeds: list[bytes]) -> list[bytes]:
    """Return the small ones of some bodies, at least one: a large one takes long to change."""
    return [seed for seed in seeds if len(seed) <= SMALL_BYTES] or [min(seeds, key=len, default=b"")[:_BODY_BYTES]]


class RequestMaker:
    """Makes requests and frames from the bodies that the decoders of all routes are fuzzed with."""

    def __init__(self, bodies: SeedBodies, random: Random) -> None:
        self._random = random
        self._bodies = bodies

    def make_request(self) -> bytes:
        """Return the bytes of one request, perhaps damaged, perhaps with others behind it."""
        random = self._random
        method, path = random.choice(ROUTES)
        if random.random() < 0.1:
            method = random.choice(METHODS)
        name = quote(
            random.choice(NAMES).encode("utf-8", "surrogatepass"), safe="" if random.random() < 0.8 else "/.*["
        )
        target = path.replace("{server}", name)
        if random.random() < 0.5:
            target += f"?{random.choice(QUERIES)}" if random.random() < 0.7 else f"?server={name}"
        body = self._make_body() if method not in ("GET", "HEAD") or random.random() < 0.05 else b""
        head = self._make_head(method, target, body)
        request = head.encode("utf-8", "surrogateescape") + self._send_in_chunks(body, head)
        if random.random() < 0.15:
            request = mutate_body([request], BodyShape.BYTES, random)
        if random.random() < 0.05:
            request = request[: random.randrange(len(request) + 1)]
        return request + (self.make_request() if random.random() < 0.1 else b"")

    def make_handshake(self) -> bytes:
        """Return a WebSocket handshake that is right."""
        return f"GET {self._random.choice(SOCKET_PATHS)} HTTP/1.1\r\nHost: 127.0.0.1\r\n{UPGRADE}\r\n".encode()

    def make_frames(self) -> bytes:
        """Return some frames of one connection, perhaps damaged."""
        frames = b"".join(self._make_frame() for _ in range(self._random.choice((1, 1, 2, 5, 40))))
        return mutate_body([frames], BodyShape.BYTES, self._random) if self._random.random() < 0.1 else frames

    # ------------------------------------------------------------ parts
    def _make_body(self) -> bytes:
        random = self._random
        shape, seeds = random.choice(self._bodies)
        return (mutate_body(seeds, shape, random) if random.random() < 0.8 else random.choice(seeds))[:_BODY_BYTES]

    def _make_head(self, method: str, target: str, body: bytes) -> str:
        random = self._random
        lines = [
            f"{method} {target} HTTP/{'1.1' if random.random() < 0.95 else random.choice(('1.0', '2.0', '9', ''))}"
        ]
        lines += ["Host: 127.0.0.1"] if random.random() < 0.97 else []
        if body or random.random() < 0.1:
            lines.append(f"Content-Type: {random.choice(CONTENT_TYPES)}")
            if coding := random.choice(CODINGS):
                lines.append(f"Content-Encoding: {coding}")
            is_chunked = random.random() < 0.2
            lines.append("Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}")
        lines += random.sample(HEADERS, random.choice((0, 0, 0, 1, 1, 3)))
        return "\r\n".join(lines) + "\r\n\r\n"

    def _send_in_chunks(self, body: bytes, head: str) -> bytes:
        if "Transfer-Encoding: chunked" not in head:
            return body
        size = self._random.choice((1, 7, 1_000, 50_000))
        pieces = [body[begin : begin + size] for begin in range(0, min(len(body), 200 * size), size)]
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    def _make_frame(self) -> bytes:
        random = self._random
        if random.random() < 0.1:
            payload = struct.pack(">H", random.choice(CLOSE_CODES)) + random.choice(
                (b"", b"bye", b"\xff\xfe", b"x" * 130)
            )
            return self._wrap_frame(0x88, payload)
        if random.random() < 0.15:
            return self._wrap_frame(random.choice((0x89, 0x8A)), bytes(random.choice((0, 4, 125, 126, 5_000))))
        payload = self._make_body()
        if random.random() < 0.2:
            return self._wrap_fragments(payload)
        return self._wrap_frame(random.choice((0x81, 0x82, 0x82, 0x81, 0x83, 0x80, 0xC1, 0xF2, 0x01, 0x8F)), payload)

    def _wrap_fragments(self, payload: bytes) -> bytes:
        cuts = sorted(self._random.randint(0, len(payload)) for _ in range(self._random.choice((1, 2, 30))))
        edges = [0, *cuts, len(payload)]
        parts = [payload[begin:end] for begin, end in itertools.pairwise(edges)]
        kinds = [self._random.choice((0x01, 0x02)), *[0x00] * (len(parts) - 2), 0x80]
        return b"".join(self._wrap_frame(kind, part) for kind, part in zip(kinds, parts, strict=True))

    def _wrap_frame(self, first: int, payload: bytes) -> bytes:
        """Return a frame masked with zeros; a few announce another length, or are not masked."""
        length, masked = len(payload), 0x80
        if self._random.random() < 0.03:
            length = self._random.choice((length + 1, 0, 2**21 + 1, 2**63, 2**64 - 1))
        if self._random.random() < 0.02:
            masked = 0
        if length < 126:
            head = bytes((first, masked | length))
        elif length < 65_536:
            head = bytes((first, masked | 126)) + struct.pack(">H", length)
        else:
            head = bytes((first, masked | 127)) + struct.pack(">Q", length)
        return head + (bytes(4) if masked else b"") + payload
