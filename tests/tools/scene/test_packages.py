"""Tests `streamd/tools/scene/packages.py`: packages are unpacked once, and one that fails has a reason."""

import shutil
from pathlib import Path

import pytest

from streamd.tools.loadtest.errors import NothingError
from streamd.tools.scene.packages import FetchError, PackageFolder, run_command

APT_GET = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *update*) exit {update} ;;
  *download*absent*) echo "E: Unable to locate package absent" >&2; exit 100 ;;
  *download*) touch "present_1.2-3_amd64.deb" ;;
esac
"""
DPKG_DEB = """#!/bin/sh
case "$1" in
  --extract) mkdir -p "$3/usr/bin" && touch "$3/usr/bin/present" ;;
  --field) echo 1.2-3 ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake apt-get and dpkg-deb on the PATH; returns the log of the calls of apt-get."""
    programs, log = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    for name, text in (("apt-get", APT_GET.format(log=log, update=0)), ("dpkg-deb", DPKG_DEB)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name in ("sh", "mkdir", "touch"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))
    return log


def test_a_package_is_unpacked_once(tmp_path: Path, calls: Path) -> None:
    packages = PackageFolder(tmp_path / "cache")
    assert packages.fetch_packages(["present"]) == {}
    assert packages.read_version("present") == "1.2-3"
    assert (packages.root / "usr/bin/present").exists()
    assert packages.fetch_packages(["present"]) == {}
    assert len(calls.read_text().splitlines()) == 1


def test_a_package_that_cannot_be_had_says_why_and_the_others_are_there(tmp_path: Path, calls: Path) -> None:
    packages = PackageFolder(tmp_path / "cache")
    reasons = packages.fetch_packages(["absent", "present"])
    assert reasons == {"absent": "apt-get: E: Unable to locate package absent"}
    assert packages.read_version("present") == "1.2-3"
    assert packages.read_version("absent") == ""
    lines = calls.read_text().splitlines()
    assert [line.endswith(" update") for line in lines] == [False, True, False, False], "lists of its own, once"


def test_another_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reasons = PackageFolder(tmp_path / "cache").fetch_packages(["present"])
    assert reasons == {"present": "this system has no apt-get and dpkg-deb: it is not Debian"}


def test_a_command_that_is_not_there_is_a_fetch_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no-such-command"):
        run_command(["no-such-command"], tmp_path)


def test_packages_that_are_required_end_the_scene_with_the_reasons(tmp_path: Path, calls: Path) -> None:
    packages = PackageFolder(tmp_path / "cache")
    packages.require_packages(["present"])
    with pytest.raises(NothingError, match=r"^absent: apt-get: E: Unable to locate package absent$"):
        packages.require_packages(["present", "absent"])
