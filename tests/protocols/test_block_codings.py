"""Tests `streamd/protocols/block_codings.py`: whatever a body declares, it decodes to at most the limit."""

import contextlib
import tracemalloc

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import MalformedError, TooLargeError
from streamd.protocols.block_codings import BLOCK_CODINGS, decode_block
from tests.support.remote_write_bodies import encode_varint

CODINGS = pytest.mark.parametrize("coding", BLOCK_CODINGS)
ZSTD_MAGIC = bytes.fromhex("28b52ffd")


def compress(coding: str, data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data) if coding == "snappy" else cramjam.zstd.compress(data))


def make_zstd_frame(blocks: bytes, *, size: int | None = None) -> bytes:
    """Return a frame with these blocks, in a window of 128 KiB, that declares a size in 4 bytes, or none."""
    declared = b"" if size is None else size.to_bytes(4, "little")
    return ZSTD_MAGIC + bytes([0x80 if declared else 0x00, 0x38]) + declared + blocks


def make_run_block(count: int, *, is_last: bool) -> bytes:
    """Return a block of one byte that is repeated `count` times."""
    return (is_last | 1 << 1 | count << 3).to_bytes(3, "little") + b"x"


@CODINGS
@given(data=st.binary(max_size=3_000), limit=st.integers(0, 3_000))
def test_any_data_is_decoded_whole_or_refused(coding: str, data: bytes, limit: int) -> None:
    packed = compress(coding, data)
    if len(data) <= limit:
        assert decode_block(coding, packed, limit) == data
    else:
        with pytest.raises(TooLargeError, match=f" {limit} "):
            decode_block(coding, packed, limit)


@CODINGS
@given(data=st.binary(max_size=300), is_framed=st.booleans())
def test_any_bytes_are_decoded_or_refused(coding: str, data: bytes, is_framed: bool) -> None:
    with contextlib.suppress(MalformedError, TooLargeError):
        body = ZSTD_MAGIC + data if is_framed and coding == "zstd" else data
        assert len(decode_block(coding, body, 10_000)) <= 10_000


@CODINGS
def test_no_bytes_are_an_empty_body(coding: str) -> None:
    assert decode_block(coding, b"", 10) == b""


@CODINGS
def test_a_body_that_is_cut_off_or_goes_on_is_malformed(coding: str) -> None:
    packed = compress(coding, b"some text, " * 20)
    for body in (packed[:-1], packed + b"x", b"text", packed[:3]):
        with pytest.raises(MalformedError, match=f"not valid {coding}"):
            decode_block(coding, body, 10_000)


def test_the_framed_format_of_snappy_is_malformed() -> None:
    """The specification forbids it; its first byte declares 255 bytes and more."""
    with pytest.raises((MalformedError, TooLargeError)):
        decode_block("snappy", bytes(cramjam.snappy.compress(b"some text")), 10_000)


@pytest.mark.parametrize("declared", [2**23 + 1, 2**32 - 1, 2**35, 2**63])
def test_a_declared_length_is_checked_before_it_is_believed(declared: int) -> None:
    tracemalloc.start()
    with pytest.raises((TooLargeError, MalformedError)):
        decode_block("snappy", encode_varint(declared) + b"\x00x", 2**23)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**16


def test_a_length_that_is_not_true_is_malformed() -> None:
    data = compress("snappy", b"x" * 1_000)
    assert data[:2] == encode_varint(1_000)
    for declared in (999, 1_001, 1):
        with pytest.raises(MalformedError):
            decode_block("snappy", encode_varint(declared) + data[2:], 10_000)


@CODINGS
def test_a_bomb_is_not_decoded_beyond_the_limit(coding: str) -> None:
    bomb = compress(coding, bytes(2**26))
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        decode_block(coding, bomb, 2**20)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**21


BOMBS = {
    "no size": make_zstd_frame(make_run_block(2**17, is_last=False) * 600 + make_run_block(2**17, is_last=True)),
    "a small size": make_zstd_frame(
        make_run_block(2**17, is_last=False) * 600 + make_run_block(2**17, is_last=True), size=10
    ),
    "many frames": make_zstd_frame(make_run_block(2**17, is_last=True)) * 600,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_zstd_bomb_may_declare_what_it_likes(bomb: bytes) -> None:
    with pytest.raises((TooLargeError, MalformedError)):
        decode_block("zstd", bomb, 2**20)


def test_the_frames_of_the_bombs_are_valid() -> None:
    for frame in (
        make_zstd_frame(make_run_block(3, is_last=True)),
        make_zstd_frame(make_run_block(3, is_last=True), size=3),
    ):
        assert decode_block("zstd", frame * 2, 6) == b"x" * 6


def test_a_window_that_takes_much_memory_is_malformed() -> None:
    with pytest.raises(MalformedError, match="memory"):
        decode_block("zstd", ZSTD_MAGIC + b"\x00\xf8" + make_run_block(1, is_last=True), 100)
