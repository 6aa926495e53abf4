"""Tests `streamd/http/compression.py`: codings that are decoded or refused, and limits, at every route with a body."""

import asyncio
import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import MalformedError, TooLargeError, UnsupportedMediaTypeError
from streamd.http.compression import MAX_MEMBERS, MAX_PIECE_BYTES, Decompressor, parse_content_encoding
from streamd.http.requests import TransportLimits
from streamd.http.routes.versions import ChangeReport, VersionList
from tests.http.conftest import Start
from tests.support.http_harness import (
    JSON,
    MSGPACK,
    NEED,
    TYPES,
    HttpDaemon,
    HttpDaemonSettings,
    is_same_array,
    make_question,
    make_rows,
    make_window,
    pack,
)
from tests.support.memory_use import resident_bytes


def deflate_without_header(data: bytes) -> bytes:
    """Compress as deflate without the header of zlib, as some senders do."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip in capitals": ("GZip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "two members": ("gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:])),
    "an empty member": ("gzip", lambda data: gzip.compress(b"") + gzip.compress(data)),
    "deflate": ("deflate", zlib.compress),
    "deflate without a header": ("deflate", deflate_without_header),
    "identity": ("identity", bytes),
    "nothing": ("", bytes),
    "gzip after identity": ("identity, gzip", gzip.compress),
}


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(("encoding", "packer"), PACKERS.values(), ids=PACKERS)
async def test_samples_and_calls_are_decoded(
    daemon: HttpDaemon, encoding: str, packer: Callable[[bytes], bytes], content_type: str
) -> None:
    rows = make_rows("a", 1, range(NEED))
    data = packer(pack({"samples": rows}, content_type))
    reply = await daemon.post_bytes("/v1/samples", data, content_type, **{"Content-Encoding": encoding})
    assert reply.body == {"accepted": NEED, "rejected": 0, "errors": []}
    assert is_same_array(await daemon.window("a"), make_window(rows, NEED - 1))
    for path in ("/v1/predict", "/predict"):
        data = packer(pack(make_question(1), MSGPACK))
        reply = await daemon.post_bytes(path, data, MSGPACK, **{"Content-Encoding": encoding})
        assert reply.status == 200


REFUSED = [
    "br",
    "zstd",
    "compress",
    "lz4",
    "snappy",
    "aes128gcm",
    "gzip, gzip",
    "deflate, gzip",
    "gzip;q=1",
    "*",
    "g zip",
]
ROUTES = ["/v1/samples", "/v1/predict", "/predict"]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("encoding", REFUSED)
async def test_any_other_encoding_is_415(daemon: HttpDaemon, encoding: str, path: str, content_type: str) -> None:
    """An unknown name is refused even if the body is not compressed."""
    data = pack({"samples": make_rows("a", 1, range(NEED))}, content_type)
    reply = await daemon.post_bytes(path, data, content_type, **{"Content-Encoding": encoding})
    assert (reply.status, reply.code) == (415, "unsupported_media_type")
    assert encoding in reply.body["message"]
    assert "gzip, deflate" in reply.body["message"]
    assert reply.headers["Accept-Encoding"] == "gzip, deflate, identity"
    assert reply.headers["Content-Type"].startswith(content_type)
    assert (await daemon.status())["servers"] == 0


async def test_the_error_of_another_type_does_not_mention_encodings(daemon: HttpDaemon) -> None:
    reply = await daemon.post_bytes("/v1/samples", b"", "text/plain")
    assert reply.status == 415
    assert "Accept-Encoding" not in reply.headers


@pytest.mark.parametrize("path", ["/healthz", "/v1/status", "/v1/servers"])
async def test_a_call_without_a_body_may_name_any_encoding(daemon: HttpDaemon, path: str) -> None:
    reply = await daemon.call("GET", path, headers={"Content-Encoding": "br"})
    assert reply.status == 200


async def test_two_fields_are_read_as_one_with_a_comma(daemon: HttpDaemon) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    head = "POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    writer.write(f"{head}Content-Encoding: gzip\r\nContent-Encoding: deflate\r\n\r\n{{}}".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 415 ")
    writer.close()
    await writer.wait_closed()


BROKEN: dict[str, tuple[str, bytes]] = {
    "no gzip": ("gzip", b'{"samples": []}'),
    "gzip cut off": ("gzip", gzip.compress(b'{"samples": []}')[:-1]),
    "a gzip header cut off": ("gzip", gzip.compress(b"")[:5]),
    "a wrong checksum": ("gzip", gzip.compress(b'{"samples": []}')[:-8] + bytes(8)),
    "more behind gzip": ("gzip", gzip.compress(b'{"samples": []}') + b"x"),
    "no deflate": ("deflate", b'{"samples": []}'),
    "deflate cut off": ("deflate", zlib.compress(b'{"samples": []}')[:-1]),
    "more behind deflate": ("deflate", zlib.compress(b'{"samples": []}') + b"x"),
    "two of deflate": ("deflate", zlib.compress(b'{"samples"') + zlib.compress(b": []}")),
    "members without end": ("gzip", gzip.compress(b"") * (MAX_MEMBERS + 1)),
}


@pytest.mark.parametrize(("encoding", "data"), BROKEN.values(), ids=BROKEN)
async def test_a_body_that_is_not_in_its_encoding_is_400(daemon: HttpDaemon, encoding: str, data: bytes) -> None:
    reply = await daemon.post_bytes("/v1/samples", data, **{"Content-Encoding": encoding})
    assert (reply.status, reply.code) == (400, "malformed")
    assert encoding in reply.body["message"]


@pytest.mark.parametrize("pack_body", [gzip.compress, zlib.compress, deflate_without_header, bytes])
async def test_the_limit_holds_for_decoded_bytes(start: Start, pack_body: Callable[[bytes], bytes]) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_body_bytes=1_000)))
    encoding = {gzip.compress: "gzip", bytes: "identity"}.get(pack_body, "deflate")
    for size, expected in ((1_000, 200), (1_001, 413)):
        data = pack_body(b'{"samples": []}'.ljust(size))
        reply = await daemon.post_bytes("/v1/samples", data, **{"Content-Encoding": encoding})
        assert reply.status == expected
        assert expected == 200 or reply.code == "too_large"


async def test_the_limit_holds_for_received_bytes_too(start: Start) -> None:
    """Empty members decode to nothing, however many arrive."""
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_body_bytes=1_000)))
    data = gzip.compress(b"") * 100
    reply = await daemon.post_bytes("/v1/samples", data, **{"Content-Encoding": "gzip"})
    assert (reply.status, reply.code) == (413, "too_large")
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    head = "POST /v1/samples HTTP/1.1\r\nHost: localhost\r\n"
    head += "Content-Type: application/json\r\nContent-Encoding: gzip\r\n"
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(data):x}\r\n".encode() + data + b"\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


# ---------------------------------------------------------------- the routes that change versions
class RecordedChanges:
    """A `VersionChanges` that only records the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def list_versions(self) -> VersionList:
        return {}

    async def promote(self, version: str, who: str, why: str) -> ChangeReport:
        self.calls.append(version)
        return {}

    async def rollback(self, who: str, why: str) -> ChangeReport:
        self.calls.append(why)
        return {}

    async def start_candidate(self, version: str, share: float, shadow: bool) -> ChangeReport:
        self.calls.append(version)
        return {}

    async def end_candidate(self) -> ChangeReport:
        return {}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/engines/promote", {"version": "v"}),
        ("/v1/engines/rollback", {"why": "v"}),
        ("/v1/engines/candidate", {"version": "v"}),
    ],
)
async def test_routes_that_change_versions_read_bodies_alike(start: Start, path: str, body: dict[str, str]) -> None:
    engines = RecordedChanges()
    limits = TransportLimits(max_body_bytes=1_000)
    daemon = await start(HttpDaemonSettings(limits=limits, engines=engines, admin_token="secret"))
    headers = {"Authorization": "Bearer secret", "Content-Encoding": "gzip"}
    assert (await daemon.post_bytes(path, gzip.compress(pack(body, JSON)), **headers)).status == 200
    assert engines.calls == ["v"]
    for encoding, data, status in (("gzip", gzip.compress(b" " * 1_001), 413), ("gzip", b"x", 400), ("br", b"", 415)):
        reply = await daemon.post_bytes(path, data, **{**headers, "Content-Encoding": encoding})
        assert reply.status == status
    assert engines.calls == ["v"]


# ---------------------------------------------------------------- the decoder alone
@given(st.binary(max_size=2_000), st.sampled_from(sorted(PACKERS)), st.integers(1, 100), st.integers(0, 2_000))
def test_any_data_is_decoded_whole_or_refused(data: bytes, name: str, piece: int, limit: int) -> None:
    field, packer = PACKERS[name]
    encoding = parse_content_encoding([field])
    packed = packer(data)
    if encoding == "identity":
        return
    decompressor = Decompressor(encoding, limit)
    out = b""
    try:
        for begin in range(0, len(packed), piece):
            out += b"".join(decompressor.decode(packed[begin : begin + piece]))
        decompressor.finish()
    except TooLargeError:
        assert len(data) > limit
        assert len(out) <= limit
    else:
        assert out == data
        assert len(data) <= limit


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]), st.integers(1, 50))
def test_any_bytes_are_decoded_or_malformed(data: bytes, encoding: str, piece: int) -> None:
    decompressor = Decompressor(encoding, 10_000)
    try:
        for begin in range(0, len(data), piece):
            assert all(isinstance(each, bytes) for each in decompressor.decode(data[begin : begin + piece]))
        decompressor.finish()
    except (MalformedError, TooLargeError):
        pass


def test_a_bomb_is_not_decoded_beyond_the_limit() -> None:
    bomb = gzip.compress(bytes(2**26), 9)
    decompressor = Decompressor("gzip", 2**16)
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        sum(map(len, decompressor.decode(bomb)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**19


@pytest.mark.parametrize(("encoding", "pack_body"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("excess_bytes", [-1, 0, 1, 258])
def test_what_decodes_to_much_is_decoded_in_pieces(
    encoding: str, pack_body: Callable[[bytes], bytes], excess_bytes: int
) -> None:
    """Also where a piece is full while zlib has read all, and holds the rest."""
    data = bytes(3 * MAX_PIECE_BYTES + excess_bytes)
    packed = pack_body(data)
    decompressor = Decompressor(encoding, len(data))
    pieces = [each for at in range(len(packed)) for each in decompressor.decode(packed[at : at + 1])]
    decompressor.finish()
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= MAX_PIECE_BYTES


async def test_bombs_at_once_take_no_memory(daemon: HttpDaemon) -> None:
    bomb = gzip.compress(bytes(2**26), 9)
    before = resident_bytes()
    replies = await asyncio.gather(
        *(daemon.post_bytes("/v1/samples", bomb, **{"Content-Encoding": "gzip"}) for _ in range(20))
    )
    assert {reply.status for reply in replies} <= {413, 429}
    assert resident_bytes() - before < 128 * 2**20


BLOCKS = ("snappy", "zstd")


@pytest.mark.parametrize("fields", [[], [""], [" , "]])
def test_no_coding_is_identity_or_the_first_that_a_route_takes(fields: list[str]) -> None:
    assert parse_content_encoding(fields) == "identity"
    assert parse_content_encoding(fields, BLOCKS) == "snappy"


@pytest.mark.parametrize("name", ["snappy", "ZSTD", " zstd "])
def test_a_route_may_take_other_codings(name: str) -> None:
    assert parse_content_encoding([name], BLOCKS) == name.strip().lower()
    with pytest.raises(UnsupportedMediaTypeError, match="expected one of gzip, deflate, identity"):
        parse_content_encoding([name])


@pytest.mark.parametrize("name", ["gzip", "deflate", "identity", "identity, identity", "snappy, zstd", "br"])
def test_a_route_that_takes_others_takes_no_more(name: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="expected one of snappy, zstd"):
        parse_content_encoding([name], BLOCKS)


@given(st.lists(st.text(max_size=20), max_size=3))
def test_any_field_is_a_known_encoding_or_refused(fields: list[str]) -> None:
    with contextlib.suppress(UnsupportedMediaTypeError):
        assert parse_content_encoding(fields) in ("gzip", "deflate", "identity")
