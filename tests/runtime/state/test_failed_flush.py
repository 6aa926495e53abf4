"""Tests `streamd/runtime/state`: after a flush that failed, one that succeeds means that everything is on the disk.

The kernel reports a page that the disk refused once, and then takes it for written.
"""

import errno
import os
from pathlib import Path

import pytest

from streamd.core.errors import StateError
from streamd.runtime.aggregation.log_segment import LogSegment
from tests.support.state_files import fill, opened, rows_of
from tests.support.thin_disks import WITHOUT_EXTENTS, thin_disk


def test_what_a_failed_flush_lost_is_written_by_the_next(tmp_path: Path) -> None:
    with thin_disk(tmp_path) as disk, opened(disk.folder / "state") as state:
        fill(state, "web-01", 8)
        state.flush()
        path = state.windows_file.path
        assert disk.read(path) == path.read_bytes()
        disk.refuse_writes(path)
        fill(state, "web-01", 8, first_step=108)
        for _ in range(2):
            with pytest.raises(OSError, match=r"No space left|Input/output"):
                state.flush()
        disk.permit_writes()
        assert disk.read(path) != path.read_bytes()
        state.flush()
        assert disk.read(path) == path.read_bytes()


def test_points_that_a_failed_flush_lost_are_written_by_the_next(tmp_path: Path) -> None:
    with thin_disk(tmp_path, WITHOUT_EXTENTS) as disk:
        path = disk.folder / "segment"
        segment = LogSegment(path)
        segment.append(b"a" * 4_096)
        segment.flush()
        assert disk.read(path) == b"a" * 4_096
        disk.refuse_writes(path)
        segment.append(b"b" * 8_192)
        for _ in range(2):
            with pytest.raises(OSError, match=r"No space left|Input/output"):
                segment.flush()
        disk.permit_writes()
        segment.flush()
        assert disk.read(path)[4_096:] == b"b" * 8_192
        segment.close()


def test_a_start_that_cannot_write_what_it_rebuilt_ends_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 8)
    (tmp_path / "lock").write_bytes(b"another boot")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(StateError, match=f"{tmp_path}.*Input/output error"), opened(tmp_path):
            pass
    with opened(tmp_path) as state:
        assert state.recovered["torn"] == 1, "the start that failed did not mark the files as being in order"
        assert len(rows_of(state, "web-01")) == 8


@pytest.mark.parametrize("name", ["windows.streamd", "forecasts.streamd"])
def test_a_file_that_a_killed_process_had_only_begun_to_make_is_made_anew(tmp_path: Path, name: str) -> None:
    with opened(tmp_path) as state:
        fill(state, "web-01", 8)
    path = tmp_path / name
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)
    with opened(tmp_path) as state:
        assert state.set_aside == []
        assert len(state.directory) == (0 if name == "windows.streamd" else 1)
        fill(state, "web-01", 8, first_step=200)
