"""Tests `streamd/runtime/aggregation/point_log.py`: the points of open rows on disk."""

import errno
import os
import struct
import zlib
from pathlib import Path

import pytest

from streamd.core.errors import StorageError
from streamd.runtime.aggregation.point_log import MAX_ENDED_SEGMENTS, PointLog

NOW = 1_700_000_000.0


def make_log(folder: Path) -> PointLog:
    return PointLog(folder / "points", segment_seconds=300.0, retention_seconds=1_500.0)


def read(folder: Path) -> list[tuple[int, int, bytes]]:
    return list(make_log(folder).read_records())


def list_files(folder: Path) -> list[Path]:
    return sorted((folder / "points").iterdir())


def age(path: Path, seconds: float) -> None:
    os.utime(path, (NOW - seconds, NOW - seconds))


def test_a_log_without_records_makes_no_folder(tmp_path: Path) -> None:
    make_log(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
    assert read(tmp_path) == []


def test_records_come_back_in_order(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    assert log.begin_segment_if_due(NOW)
    log.append([(1, b"series"), (2, b"")])
    assert not log.begin_segment_if_due(NOW + 299)
    log.append([(2, b"points")])
    assert log.begin_segment_if_due(NOW + 300)
    log.append([(2, b"next")])
    log.flush()
    log.close()
    for path in list_files(tmp_path):
        age(path, 0)
    assert read(tmp_path) == [(1, 1, b"series"), (1, 2, b""), (1, 2, b"points"), (2, 2, b"next")]


def test_a_clock_that_steps_back_begins_a_segment(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    assert log.begin_segment_if_due(NOW)
    assert log.begin_segment_if_due(NOW - 1)
    log.close()


def test_a_former_process_s_segments_stay_and_a_new_one_follows(tmp_path: Path) -> None:
    for text in (b"a", b"b"):
        log = make_log(tmp_path)
        log.begin_segment_if_due(NOW)
        log.append([(2, text)])
        log.close()
    assert [record for _, _, record in read(tmp_path)] == [b"a", b"b"]


def test_segments_of_no_use_are_deleted(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    for turn in range(3):
        log.begin_segment_if_due(NOW + 300 * turn)
        log.append([(2, b"%d" % turn)])
        age(list_files(tmp_path)[-1], 0)
    age(list_files(tmp_path)[0], 1_000.0)
    log.begin_segment_if_due(NOW + 900)
    log.close()
    assert [path.name for path in list_files(tmp_path)] == [f"points-{number:012d}.log" for number in (2, 3, 4)]


def test_what_is_needed_gets_no_older_while_the_daemon_is_away(tmp_path: Path) -> None:
    for text in (b"a", b"b"):
        log = make_log(tmp_path)
        log.begin_segment_if_due(NOW)
        log.append([(2, text)])
        log.close()
    log = make_log(tmp_path)
    log.keep_from(2, NOW + 100_000)
    log.begin_segment_if_due(NOW + 101_000)
    assert [record for _, _, record in read(tmp_path)] == [b"b"]
    log.begin_segment_if_due(NOW + 102_000)
    log.close()
    assert read(tmp_path) == []


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_record_that_was_cut_off_is_left_out_and_those_before_it_stay(tmp_path: Path, cut: int) -> None:
    log = make_log(tmp_path)
    log.begin_segment_if_due(NOW)
    log.append([(2, b"whole")])
    log.append([(2, b"x" * 24)])
    log.close()
    (path,) = list_files(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    age(path, 0)
    assert read(tmp_path) == [(1, 2, b"whole")]


RECORDS = [(1, 1, b"series"), (1, 2, b"points"), (1, 2, b""), (1, 3, b"name"), (1, 2, b"pts2 pts1")]


def write_records(folder: Path) -> bytearray:
    log = make_log(folder)
    log.begin_segment_if_due(NOW)
    for _, kind, record in RECORDS:
        log.append([(kind, record)])
    log.close()
    return bytearray(list_files(folder)[0].read_bytes())


def test_each_damaged_byte_costs_its_record_only_and_is_counted(tmp_path: Path) -> None:
    sound = write_records(tmp_path)
    (path,) = list_files(tmp_path)
    ends = [sum(20 + len(record) for _, _, record in RECORDS[: number + 1]) for number in range(len(RECORDS))]
    for place in range(len(sound)):
        damaged = next(number for number, end in enumerate(ends) if place < end)
        for bits in (1 << place % 8, 0xFF):
            content = bytearray(sound)
            content[place] ^= bits
            path.write_bytes(content)
            log = make_log(tmp_path)
            assert list(log.read_records()) == RECORDS[:damaged] + RECORDS[damaged + 1 :], (place, bits)
            assert log.damaged_bytes == 20 + len(RECORDS[damaged][2]), (place, bits)


def test_a_segment_cut_off_at_any_length_has_the_records_before(tmp_path: Path) -> None:
    sound = write_records(tmp_path)
    (path,) = list_files(tmp_path)
    for size in range(len(sound), -1, -1):
        os.truncate(path, size)
        found = read(tmp_path)
        assert found == RECORDS[: len(found)]
        whole = sum(20 + len(record) for _, _, record in found)
        assert whole <= size < whole + 20 + max(len(record) for _, _, record in RECORDS)


def test_reading_goes_on_behind_a_hole_that_is_longer_than_a_piece(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    log.begin_segment_if_due(NOW)
    log.append([(2, b"before"), (2, bytes(200_000)), (2, b"after")])
    log.close()
    (path,) = list_files(tmp_path)
    content = bytearray(path.read_bytes())
    content[30:150_000] = bytes(150_000 - 30)
    path.write_bytes(content)
    log = make_log(tmp_path)
    assert list(log.read_records()) == [(1, 2, b"before"), (1, 2, b"after")]
    assert log.damaged_bytes == 200_020


def test_a_segment_of_a_former_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "points").mkdir()
    heads = [struct.pack("<4sIII", b"pts1", 2, len(record), zlib.crc32(record)) for record in (b"one", b"two")]
    (tmp_path / "points" / "points-000000000001.log").write_bytes(heads[0] + b"one" + heads[1] + b"two")
    assert read(tmp_path) == [(1, 2, b"one"), (1, 2, b"two")]


def test_a_full_disk_takes_a_record_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(tmp_path)
    log.begin_segment_if_due(NOW)
    log.append([(2, b"before")])
    real = os.pwrite
    left = [10]

    def write_some(fd: int, data: bytes, offset: int) -> int:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = min(left[0], len(data))
        left[0] -= count
        return real(fd, data[:count], offset)

    monkeypatch.setattr(os, "pwrite", write_some)
    with pytest.raises(StorageError, match="No space left on device"):
        log.append([(2, b"too much"), (2, b"for it")])
    monkeypatch.setattr(os, "pwrite", real)
    log.append([(2, b"after")])
    log.close()
    age(list_files(tmp_path)[0], 0)
    assert [record for _, _, record in read(tmp_path)] == [b"before", b"after"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "points").write_text("a file")
    with pytest.raises(StorageError, match="the points cannot be stored"):
        make_log(tmp_path).begin_segment_if_due(NOW)


def test_a_file_that_takes_the_next_number_costs_one_refusal(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    log.begin_segment_if_due(NOW)
    (tmp_path / "points" / "points-000000000002.log").mkdir()
    with pytest.raises(StorageError, match="File exists"):
        log.begin_segment_if_due(NOW + 300)
    assert log.begin_segment_if_due(NOW + 300)
    log.append([(2, b"after")])
    log.close()
    assert read(tmp_path) == [(3, 2, b"after")]


def test_a_huge_file_that_is_no_segment_is_not_read(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    log.begin_segment_if_due(NOW)
    log.append([(2, b"good")])
    log.close()
    with open(tmp_path / "points" / "points-000000000002.log", "wb") as file:
        file.truncate(2**42)
    assert read(tmp_path) == [(1, 2, b"good")]


@pytest.fixture(name="synced")
def record_synced_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each file that is written through to the disk."""
    names: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: names.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    return names


def test_a_flush_includes_the_segments_that_ended_since_the_last_one(tmp_path: Path, synced: list[str]) -> None:
    log = make_log(tmp_path)
    for number in range(3):
        log.begin_segment_if_due(NOW + number * 1_000)
        log.append([(2, b"record")])
    log.flush()
    assert sorted(synced) == [f"points-{number:012d}.log" for number in (1, 2, 3)]
    log.flush()
    assert len(synced) == 3, "nothing is new"
    log.append([(2, b"last")])
    log.close()
    assert synced[3:] == ["points-000000000003.log"], "a stop leaves nothing that is not on the disk"


def test_a_disk_that_refuses_every_flush_holds_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        log = make_log(tmp_path)
        for number in range(3 * MAX_ENDED_SEGMENTS):
            log.begin_segment_if_due(NOW + number * 1_000)
            log.append([(2, b"record")])
            with pytest.raises(OSError, match="Input/output"):
                log.flush()
        assert len(os.listdir("/proc/self/fd")) <= before + MAX_ENDED_SEGMENTS + 1
        log.close()
    assert len(os.listdir("/proc/self/fd")) <= before, "files of earlier tests may be collected meanwhile"
