"""Tests `streamd/tools/captures/sources.py`: the files that are replayed, in order, and dumps as lines."""

import gzip
import io
from pathlib import Path

import pytest

from streamd.tools.captures.errors import CaptureError
from streamd.tools.captures.sources import STANDARD_INPUT, list_capture_files, open_dump, read_dump
from tests.support.recording_sink import RecordingSink

LINES = [b'{__name__="up", instance="a:1"} 1 1763708400000\n', b'{__name__="up", instance="a:1"} 0 1763708460000\n']
DUMP = b"".join(LINES)


def read(file: Path) -> list[bytes] | None:
    with open_dump(file) as lines:
        return None if lines is None else list(lines)


def _read_into(file: Path, found: list[bytes]) -> None:
    with open_dump(file) as lines:
        assert lines is not None
        found += lines


def write(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).write_bytes(b"x")
    return [folder / name for name in names]


def test_the_bodies_of_a_folder_are_in_the_order_of_their_names_and_numbers(tmp_path: Path) -> None:
    write(tmp_path, "b-10.body", "b-2.body", "a.body", "b-2.json", "README.md", ".hidden.body")
    assert [file.name for file in list_capture_files([tmp_path])] == ["a.body", "b-2.body", "b-10.body"]


def test_a_folder_without_bodies_stands_for_all_files_that_describe_no_other(tmp_path: Path) -> None:
    write(tmp_path, "2.txt", "1.bin", "1.json", "3.json")
    assert [file.name for file in list_capture_files([tmp_path])] == ["1.bin", "2.txt", "3.json"]


def test_files_keep_the_order_in_which_they_are_given(tmp_path: Path) -> None:
    b, a = write(tmp_path, "b", "a")
    assert list_capture_files([b, STANDARD_INPUT, a]) == [b, STANDARD_INPUT, a]


def test_what_cannot_be_found_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="missing: no such file or folder"):
        list_capture_files([tmp_path / "missing"])
    with pytest.raises(CaptureError, match=r"has no captured body, expected files NAME\.body"):
        list_capture_files([tmp_path])


@pytest.mark.parametrize(
    "data", [DUMP, gzip.compress(DUMP, mtime=0), b"".join(gzip.compress(line, mtime=0) for line in LINES[:2])]
)
def test_the_lines_of_a_dump_are_read_also_in_gzip(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "dump"
    file.write_bytes(data)
    assert read(file) == LINES


def test_a_dump_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(DUMP))))
    assert read(STANDARD_INPUT) == LINES
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"up 1")))
    with pytest.raises(CaptureError, match="standard input is no text of promtool tsdb dump"):
        read(STANDARD_INPUT)


@pytest.mark.parametrize(
    "data", [b"", b"up 1\n", b'[{"a": 1}]', b'{"a": "b="}', gzip.compress(b"cpu value=1", mtime=0)]
)
def test_another_body_is_no_dump(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "body"
    file.write_bytes(data)
    assert read(file) is None


def test_a_name_that_needs_quotes_may_be_the_first_label(tmp_path: Path) -> None:
    file = tmp_path / "dump"
    for line in (b'{"host.name"="a", __name__="up"} 1 1\n', b'{Abc="a", __name__="up"} 1 1\n'):
        file.write_bytes(line)
        assert read(file) == [line]


def test_a_dump_that_is_cut_off_in_gzip_gives_its_lines_and_then_fails(tmp_path: Path) -> None:
    file = tmp_path / "dump.gz"
    file.write_bytes(gzip.compress(DUMP * 1_000)[:-20])
    found: list[bytes] = []
    with pytest.raises(CaptureError, match=r"dump\.gz: cannot be read: "):
        _read_into(file, found)
    assert set(found[:10]) == set(LINES)


def test_lines_of_a_dump_that_cannot_be_read_are_rejected_alone() -> None:
    sink = RecordingSink()
    for _ in read_dump(Path("x"), [LINES[0], b'{__name__="up"\n', LINES[1]], sink):
        pass
    assert (len(sink.points), len(sink.rejected)) == (2, 1)
    with pytest.raises(CaptureError, match="x: no line is one of `promtool tsdb dump`"):
        list(read_dump(Path("x"), [b"{a=\n"], sink))
