"""Tests `streamd/regular_files.py`: reading never waits without limit.

Pipes and other kinds of files are refused, wherever the daemon reads a file; a file system that hangs is a timeout.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from streamd import regular_files
from streamd.core.errors import ConfigError, RepositoryError, StateError, StreamdError
from streamd.inference.api.sources import find_source
from streamd.regular_files import read_regular, read_with_timeout
from streamd.repository.files import lock_repository, replace_file
from streamd.repository.listing import list_versions
from streamd.repository.record import read_promotion_record
from streamd.repository.versions import EngineRepository, load_version
from streamd.runtime.accuracy.live import read_training_scores
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import WindowLimits
from streamd.server.config import Config, ServerSection, load_config, read_admin_token
from tests.support.made_versions import CONTRACT, digest, make, pin

NAME = "a_20260101_000000"


def make_pipe(path: Path) -> Path:
    """Replace a file by a pipe without a writer."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("read", [read_regular, read_with_timeout])
def test_the_error_of_a_file_that_is_not_regular_names_its_kind(tmp_path: Path, read: Callable[[Path], bytes]) -> None:
    (tmp_path / "file").write_bytes(b"content" * 1_000_000)
    (tmp_path / "link").symlink_to("file")
    assert read(tmp_path / "file") == read(tmp_path / "link") == b"content" * 1_000_000
    with pytest.raises(OSError, match="it is a pipe, expected a regular file"):
        read(make_pipe(tmp_path / "pipe"))
    with pytest.raises(OSError, match="it is a folder"):
        read(tmp_path)
    with pytest.raises(OSError, match="it is a device"):
        read(Path("/dev/null"))
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match=r"No such device|it is a socket"):
            read(tmp_path / "s")


@pytest.fixture
def hung() -> Iterator[None]:
    """A file system that does not answer until the test is over."""
    over = threading.Event()
    before = {thread for thread in threading.enumerate() if thread.name.startswith("read ")}

    def hang(path: Path) -> None:
        over.wait()
        raise OSError("the test is over")

    with patch.object(regular_files, "open_regular", hang):
        yield
        over.set()
        for thread in {each for each in threading.enumerate() if each.name.startswith("read ")} - before:
            thread.join()


@pytest.mark.usefixtures("hung")
def test_a_file_system_that_hangs_leads_to_a_timeout(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"no answer for 0\.01 s"):
        read_with_timeout(tmp_path / "file", 0.01)


# ---------------------------------------------------------------- everything that reads files
def make_version(tmp_path: Path) -> Path:
    """Make a version with every file that may be read; all except the plan are listed."""
    path = make(tmp_path, NAME)
    for name in ("server_mapping.json", "training_info.json"):
        (path / name).write_text("{}")
    pin(path, {name: digest(path / name) for name in ("model.onnx", "training_info.json")})
    return path


@pytest.mark.parametrize("name", ["config.json", "model.onnx", "server_mapping.json", "conversion_info.json"])
def test_a_version_with_a_pipe_is_refused_and_the_file_named(tmp_path: Path, name: str) -> None:
    path = make_version(tmp_path)
    make_pipe(path / name)
    with pytest.raises(RepositoryError, match=name):
        load_version(path)
    with pytest.raises(RepositoryError, match=name):
        EngineRepository(tmp_path).choose()
    (entry,) = list_versions(EngineRepository(tmp_path)).versions
    assert name in (entry.refused or "")
    if name != "config.json":  # without it the folder counts as a plain graph
        with pytest.raises(RepositoryError, match=name):
            find_source(path)


def test_a_pipe_among_the_files_that_are_listed_is_refused(tmp_path: Path) -> None:
    path = make_version(tmp_path)
    make_pipe(path / "training_info.json")
    with pytest.raises(RepositoryError, match="training_info"):
        load_version(path)
    assert read_training_scores(path) is None


def test_a_pipe_for_the_record_is_refused(tmp_path: Path) -> None:
    make_version(tmp_path)
    make_pipe(tmp_path / "promoted.json")
    with pytest.raises(RepositoryError, match=r"promoted\.json: .*a pipe"):
        read_promotion_record(tmp_path)


def test_writing_does_not_wait_for_a_reader(tmp_path: Path) -> None:
    make_pipe(tmp_path / ".promoted.json.new")
    with pytest.raises(RepositoryError, match=r"promoted\.json: cannot be written"):
        replace_file(tmp_path / "promoted.json", b"{}")
    make_pipe(tmp_path / ".promoted.lock")
    with lock_repository(tmp_path):
        pass


def test_plans_and_their_record_are_read_as_files(tmp_path: Path) -> None:
    make_pipe(tmp_path / "plans.json")
    with pytest.raises(StreamdError, match=r"plans\.json|expected one of them"):
        find_source(tmp_path)


def test_settings_and_token_are_read_as_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read: it is a pipe"):
        load_config(make_pipe(tmp_path / "config.toml"), {})
    section = ServerSection(admin_token_file=str(make_pipe(tmp_path / "token")))
    with pytest.raises(ConfigError, match=r"token.*a pipe"):
        read_admin_token(Config(server=section))


def test_a_state_file_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    make_pipe(tmp_path / "windows.streamd")
    limits = WindowLimits(capacity=4, need=2, late_steps=8, grace_seconds=1.0)
    with pytest.raises(StateError, match=r"windows\.streamd: cannot be opened: it is a pipe"):
        open_state(tmp_path, CONTRACT, limits, 0.0)
