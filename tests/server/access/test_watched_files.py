"""Tests `streamd/server/access/watched_files.py`: what a change of a file gives, and that none is missed."""

from pathlib import Path

import pytest

from streamd.core.errors import ConfigError
from streamd.server.access.watched_files import SETTLED_SECONDS, Reread, WatchedFiles

LATER = 10 * SETTLED_SECONDS


class WatchedNumber:
    """A file with a number, the watch of it, and a clock; `reads` counts how often it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reads = 0
        self.write("1")
        self.now = path.stat().st_ctime + LATER
        self.watch = WatchedFiles("number", [path], self._read, lambda: self.now)
        self.reads = 0

    def _read(self) -> int:
        self.reads += 1
        try:
            return int(self.path.read_text())
        except (OSError, ValueError) as exc:
            raise ConfigError(type(exc).__name__) from exc

    def write(self, text: str) -> None:
        """Write in place: the inode stays."""
        self.path.write_text(text)

    def replace(self, text: str) -> None:
        """Replace by another file, as editors do."""
        self.path.with_suffix(".new").write_text(text)
        self.path.with_suffix(".new").rename(self.path)


@pytest.fixture
def number(tmp_path: Path) -> WatchedNumber:
    return WatchedNumber(tmp_path / "number")


def test_a_file_that_does_not_change_is_not_read(number: WatchedNumber) -> None:
    assert number.watch.first == 1
    assert [number.watch.check() for _ in range(3)] == [None] * 3
    assert number.reads == 0


@pytest.mark.parametrize("method", ["write", "replace"])
def test_a_change_gives_the_new_value_once(number: WatchedNumber, method: str) -> None:
    getattr(number, method)("2")
    number.now += LATER
    assert number.watch.check() == Reread(2)
    assert number.watch.check() is None


def test_a_change_within_the_same_time_of_the_file_system_is_not_missed(
    number: WatchedNumber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.server.access.watched_files._make_stamp", lambda status: (status.st_ino,))
    number.write("2")
    number.now = number.path.stat().st_ctime + SETTLED_SECONDS / 2
    assert number.watch.check() == Reread(2)
    number.write("3")
    number.now = number.path.stat().st_ctime + SETTLED_SECONDS / 2
    assert number.watch.check() == Reread(3)
    number.now += LATER
    assert number.watch.check() is None
    reads = number.reads
    assert number.watch.check() is None
    assert number.reads == reads, "it has settled"


def test_an_error_is_given_once_and_the_repaired_value_again(number: WatchedNumber) -> None:
    number.write("x")
    number.now += LATER
    assert number.watch.check() == Reread(error="ValueError")
    assert number.watch.check() is None
    number.path.unlink()
    assert number.watch.check() == Reread(error="FileNotFoundError")
    assert number.watch.check() is None
    number.write("1")
    assert number.watch.check() == Reread(1)


def test_a_change_that_gives_the_same_value_is_none(number: WatchedNumber) -> None:
    number.replace(" 1 ")
    number.now += LATER
    assert number.watch.check() is None
    assert number.reads == 1


def test_a_requested_check_reads_anyway_and_repeats_an_error(number: WatchedNumber) -> None:
    assert number.watch.check(is_requested=True) is None
    assert number.reads == 1
    number.write("x")
    for _ in range(2):
        assert number.watch.check(is_requested=True) == Reread(error="ValueError")


def test_a_file_that_cannot_be_used_at_first_is_an_error(tmp_path: Path) -> None:
    def read() -> int:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError, match="wrong"):
        WatchedFiles("number", [tmp_path / "number"], read)
