"""Tests `streamd/server/cluster/cache.py`: a node begins without what its former run knew, and nothing else is lost."""

from pathlib import Path

import pytest

from streamd.core.errors import StateError
from streamd.runtime.state.folder import StateFolder
from streamd.server.cluster.cache import CACHE_NAME, empty_cache


def test_the_files_of_a_daemon_that_is_alone_stay(tmp_path: Path) -> None:
    alone = tmp_path / "windows.streamd"
    alone.write_bytes(b"kept")
    folder = empty_cache(tmp_path)
    assert folder == tmp_path / CACHE_NAME
    (folder / "windows.streamd").write_bytes(b"old")
    (folder / "points").mkdir()
    (folder / "points" / "points-1.log").write_bytes(b"old")
    empty_cache(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["lock"]
    assert alone.read_bytes() == b"kept"


def test_a_link_in_the_cache_is_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (kept / "file").write_bytes(b"kept")
    folder = empty_cache(tmp_path)
    (folder / "link").symlink_to(kept)
    empty_cache(tmp_path)
    assert not (folder / "link").is_symlink()
    assert (kept / "file").read_bytes() == b"kept"


def test_the_cache_of_a_process_that_runs_is_not_touched(tmp_path: Path) -> None:
    folder = empty_cache(tmp_path)
    (folder / "windows.streamd").write_bytes(b"in use")
    lock = StateFolder(folder)
    try:
        with pytest.raises(StateError, match="another process has it open"):
            empty_cache(tmp_path)
    finally:
        lock.close()
    assert (folder / "windows.streamd").read_bytes() == b"in use"
