"""Tests `streamd/tools/captures/capture.py`: files are read, decompressed and described, or refused with the reason."""

import gzip
import json
import zlib
from pathlib import Path

import cramjam
import pytest

from streamd.tools.captures import capture as module
from streamd.tools.captures.capture import read_capture
from streamd.tools.captures.errors import CaptureError

BODY = b"cpu,host=a value=1\n" * 20


def write(folder: Path, data: bytes, coding: str | None = None) -> Path:
    file = folder / "one.body"
    file.write_bytes(data)
    if coding is not None:
        headers = [["Content-Encoding", coding], ["Host", "a:1"]]
        description = {"path": "/write", "query": "precision=s&db=x", "headers": headers}
        (folder / "one.json").write_text(json.dumps(description))
    return file


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("identity", BODY),
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY[:19], mtime=0) + gzip.compress(BODY[19:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("snappy", bytes(cramjam.snappy.compress_raw(BODY))),
        ("zstd", bytes(cramjam.zstd.compress(BODY))),
        ("", BODY),
    ],
)
def test_a_body_is_decompressed_as_its_description_says(tmp_path: Path, coding: str, data: bytes) -> None:
    capture = read_capture(write(tmp_path, data, coding))
    assert capture.body == BODY
    assert capture.path == "/write"
    assert capture.query == {"precision": "s", "db": "x"}
    assert capture.headers == {"content-encoding": coding, "host": "a:1"}


@pytest.mark.parametrize("data", [BODY, gzip.compress(BODY, mtime=0), bytes(cramjam.zstd.compress(BODY))])
def test_without_a_description_the_first_bytes_say_how_a_body_is_compressed(tmp_path: Path, data: bytes) -> None:
    capture = read_capture(write(tmp_path, data))
    assert (capture.body, capture.path, capture.headers) == (BODY, "", {})


def test_an_empty_body_is_empty(tmp_path: Path) -> None:
    for coding in ("gzip", "snappy", "zstd", None):
        assert read_capture(write(tmp_path, b"", coding)).body == b""


def test_a_file_of_the_same_name_that_describes_no_request_is_ignored(tmp_path: Path) -> None:
    file = write(tmp_path, BODY)
    for text in ('{"a": 1}', "[1]"):
        (tmp_path / "one.json").write_text(text)
        assert read_capture(file).headers == {}


def test_a_body_in_a_json_file_is_not_its_own_description(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text('{"headers": []}')
    assert read_capture(file).body == b'{"headers": []}'


@pytest.mark.parametrize(
    ("coding", "data", "message"),
    [
        ("gzip", BODY, "is not in its Content-Encoding, gzip"),
        ("gzip", gzip.compress(BODY, mtime=0)[:-9], "it is cut off"),
        ("snappy", BODY, "is not in its Content-Encoding, snappy"),
        ("zstd", BODY, "is not in its Content-Encoding, zstd"),
        ("br", BODY, "Content-Encoding is 'br', expected gzip, deflate, snappy or zstd"),
    ],
)
def test_a_body_that_is_not_in_its_coding_is_refused(tmp_path: Path, coding: str, data: bytes, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        read_capture(write(tmp_path, data, coding))


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzip.compress(bytes(10_000), mtime=0)),
        ("snappy", bytes(cramjam.snappy.compress_raw(bytes(10_000)))),
        ("zstd", bytes(cramjam.zstd.compress(bytes(10_000)))),
    ],
)
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coding: str, data: bytes
) -> None:
    monkeypatch.setattr(module, "MAX_CAPTURE_BYTES", 9_999)
    with pytest.raises(CaptureError, match="9999"):
        read_capture(write(tmp_path, data, coding))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CAPTURE_BYTES", 10)
    with pytest.raises(CaptureError, match="is over 10 bytes"):
        read_capture(write(tmp_path, BODY))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"missing.body: cannot be read: No such file"):
        read_capture(tmp_path / "missing.body")
    with pytest.raises(CaptureError, match="cannot be read: Is a directory"):
        read_capture(tmp_path)
    file = write(tmp_path, BODY)
    for text, message in (("{", r"one.json: cannot be read"), ('{"headers": [1]}', "headers are no list of pairs")):
        (tmp_path / "one.json").write_text(text)
        with pytest.raises(CaptureError, match=message):
            read_capture(file)
