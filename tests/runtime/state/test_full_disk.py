"""Tests `streamd/runtime/state` on full disks, with every file system that can be made here.

A full disk is an error of the sample, and never ends the daemon.
"""

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from streamd.core.errors import StateError
from tests.support.contracts import make_contract
from tests.support.daemon_process import ROOT, run_python
from tests.support.loop_mounts import MKFS, mounted
from tests.support.state_files import fill, opened, rows_of


def run(folder: Path, *names: str) -> list[list[str]]:
    """Run `tests.support.filling_disks`; returns the words of each line."""
    ended = run_python("-m", "tests.support.filling_disks", str(folder), *names, cwd=ROOT)
    assert ended.returncode == 0, (ended.returncode, ended.stdout, ended.stderr)
    return [line.split() for line in ended.stdout.splitlines() if not line.startswith("20")]


def check(lines: list[list[str]], kind: str) -> None:
    """Check that new servers are rejected only while there is no space, and that known ones go on."""
    assert lines[-1] == ["ended"]
    for what, *counts in lines:
        if what == "ended":
            continue
        codes = dict(count.split("=") for count in counts)
        if what in ("full-new", "full-again"):
            assert set(codes) == {"storage"}, (what, codes)
        elif what in ("reserved", "tight"):
            assert set(codes) <= {"accepted", "storage"}, (what, codes)
        elif what == "full-old":
            # btrfs may need new space for each write, so a full one is not written.
            assert set(codes) == ({"storage"} if kind == "btrfs" else {"accepted"}), (what, codes)
        else:
            assert set(codes) == {"accepted"}, (what, codes)


@pytest.mark.parametrize("kind", MKFS)
def test_a_full_disk_is_an_error_of_the_sample(tmp_path: Path, kind: str) -> None:
    with mounted(kind, tmp_path) as mount:
        # The disk is still full when the state is opened again.
        check(run(mount.folder, "a", "b"), kind)
        # Also after a backup has read the files, which brings them into the cache in the largest pieces.
        mount.remount()
        shutil.copytree(mount.folder / "state", tmp_path / "copy")
        check(run(mount.folder, "c"), kind)
        assert os.statvfs(mount.folder).f_bavail < 2**20, "it was full until the end"


@pytest.mark.parametrize("kind", MKFS)
def test_a_new_forecast_file_has_space_or_the_start_fails(tmp_path: Path, kind: str) -> None:
    """The forecasts of another model are in a new file, which needs space for the known servers before they are due."""
    other = make_contract(horizon=4_000)
    with mounted(kind, tmp_path) as mount:
        with opened(mount.folder / "state") as state:
            for number in range(4):
                fill(state, f"web-{number}", 8)
        mount.fill()
        with pytest.raises(StateError, match="No space left"), opened(mount.folder / "state", other):
            pass
        gc.collect()  # objects of the error's traceback
        mount.free(48 * 2**20)
        with opened(mount.folder / "state", other) as state:
            assert all(len(rows_of(state, f"web-{number}")) == 8 for number in range(4))
            values = np.zeros(other.forecast_shape, np.float32)
            assert [state.board.post(slot, 107, 8, b"model", values) for slot in range(4)] == [1, 2, 3, 4]
