"""Tests `streamd/server/access/guarded_files.py`: files that others could have written are refused."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streamd.core.errors import ConfigError
from streamd.server.access.guarded_files import MAX_GUARDED_BYTES, read_guarded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tokens.json"
    made.write_bytes(b"content")
    made.chmod(0o600)
    return made


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_a_private_file_is_read_without_a_warning(path: Path, mode: int) -> None:
    path.chmod(mode)
    with capture_logs() as logs:
        assert read_guarded(path, "the file") == b"content"
    assert logs == []


def test_a_file_that_others_may_read_is_a_warning_if_it_is_secret(path: Path) -> None:
    path.chmod(0o644)
    with capture_logs() as logs:
        assert read_guarded(path, "the file") == b"content"
        read_guarded(path, "the file", is_secret=False)
        read_guarded(path, "the file", is_credential=True)
    assert [(line["event"], line["mode"]) for line in logs] == [("readable_by_others", "0644")]


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_a_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"tokens.json: the file may be written by others \(mode {mode:04o}\)"):
        read_guarded(path, "the file", is_secret=False)
    assert read_guarded(path, "the file", is_credential=True) == b"content"


def test_a_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "fstat", lambda descriptor: _with_owner(path, 4_711))
    monkeypatch.setattr(os, "geteuid", lambda: 4_712)
    with pytest.raises(ConfigError, match="belongs to the user 4711, expected root or the user 4712"):
        read_guarded(path, "the file")
    monkeypatch.setattr(os, "geteuid", lambda: 4_711)
    assert read_guarded(path, "the file") == b"content"
    assert path.stat().st_uid == owner


def _with_owner(path: Path, user: int) -> os.stat_result:
    fields = list(path.stat())
    fields[4] = user
    return os.stat_result(fields)


def test_what_is_no_file_of_tokens_is_refused(path: Path, tmp_path: Path) -> None:
    os.truncate(path, MAX_GUARDED_BYTES + 1)
    with pytest.raises(ConfigError, match=f"has over {MAX_GUARDED_BYTES} bytes"):
        read_guarded(path, "the file")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for wrong, reason in ((pipe, "it is a pipe"), (tmp_path, "it is a folder"), (tmp_path / "x", "No such file")):
        with pytest.raises(ConfigError, match=f"{wrong.name}: the file cannot be read: {reason}"):
            read_guarded(wrong, "the file")
