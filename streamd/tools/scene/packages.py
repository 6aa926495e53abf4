"""Gets agents without installing them: Debian packages unpacked into a folder, Glances in an environment.

Needs no root. Starts no agent.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from streamd.tools.loadtest.errors import NothingError, ReplayError

COMMAND_SECONDS = 180.0
NETWORK_OPTIONS = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "APT::Sandbox::User=root")
GLANCES_REQUIREMENTS = ("glances==4.5.8", "influxdb-client==1.50.0", "requests")
"""Glances does not declare the other two as dependencies, but its exports need them."""


class FetchError(ReplayError):
    """A package that cannot be downloaded or installed here."""


class PackageFolder:
    """Debian packages, downloaded and unpacked into one tree, and kept for the next run."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        """The tree of all unpacked packages."""
        self._downloads = folder / "packages"
        self._apt = folder / "apt"
        self._has_own_lists = False

    def fetch_packages(self, names: Sequence[str]) -> dict[str, str]:
        """Download and unpack packages; returns those that failed, each with the reason."""
        missing = [name for name in names if not self._make_mark(name).exists()]
        reasons: dict[str, str] = {}
        for name in missing:
            try:
                self._fetch_package(name)
            except FetchError as error:
                reasons[name] = str(error)
        return reasons

    def require_packages(self, names: Sequence[str]) -> None:
        """Download and unpack packages. Raises `NothingError` with the reasons if one cannot be had."""
        if reasons := self.fetch_packages(names):
            raise NothingError("\n".join(f"{name}: {reason}" for name, reason in reasons.items()))

    def read_version(self, name: str) -> str:
        """Return the version of an unpacked package; empty if it is not there."""
        mark = self._make_mark(name)
        return mark.read_text(encoding="utf-8").strip() if mark.exists() else ""

    def make_library_path(self) -> str:
        """Return the folders of the unpacked libraries, for `LD_LIBRARY_PATH`."""
        folders = {path.parent for pattern in ("usr/lib/*/*.so*", "lib/*/*.so*") for path in self.root.glob(pattern)}
        return ":".join(str(folder) for folder in sorted(folders) if folder.name.endswith("-linux-gnu"))

    def _fetch_package(self, name: str) -> None:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise FetchError("this system has no apt-get and dpkg-deb: it is not Debian")
        self._downloads.mkdir(parents=True, exist_ok=True)
        try:
            self._download(name)
        except FetchError:
            if self._has_own_lists:
                raise
            # The lists of this system are missing or too old, and only root may update them. So own lists are made.
            self._update_lists()
            self._download(name)
        package = max(self._downloads.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
        self.root.mkdir(exist_ok=True)
        run_command(["dpkg-deb", "--extract", str(package), str(self.root)], self._downloads)
        version = run_command(["dpkg-deb", "--field", str(package), "Version"], self._downloads)
        self._make_mark(name).write_text(version, encoding="utf-8")
        package.unlink()

    def _download(self, name: str) -> None:
        run_command(["apt-get", "--quiet", *NETWORK_OPTIONS, *self._list_options(), "download", name], self._downloads)

    def _update_lists(self) -> None:
        (self._apt / "lists/partial").mkdir(parents=True, exist_ok=True)
        (self._apt / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        self._has_own_lists = True
        run_command(["apt-get", "--quiet", *NETWORK_OPTIONS, *self._list_options(), "update"], self._apt)

    def _list_options(self) -> list[str]:
        if not self._has_own_lists:
            return []
        return ["-o", f"Dir::State::Lists={self._apt}/lists", "-o", f"Dir::Cache={self._apt}/cache"]

    def _make_mark(self, name: str) -> Path:
        return self._downloads / f"{name}.unpacked"


def fetch_glances(folder: Path) -> Path:
    """Install Glances from PyPI into an environment of its own; returns its command. Raises `FetchError`."""
    environment = folder / "glances"
    command = environment / "bin/glances"
    mark = environment / ".installed"
    wanted = " ".join(GLANCES_REQUIREMENTS)
    if not mark.exists() or mark.read_text(encoding="utf-8") != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        run_command([sys.executable, "-m", "venv", "--clear", str(environment)], folder)
        pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run_command([*pip, *GLANCES_REQUIREMENTS], folder)
        mark.write_text(wanted, encoding="utf-8")
    return command


def run_command(command: list[str], folder: Path) -> str:
    """Run a command until it ends; returns its output. Raises `FetchError` with the last line of its complaint."""
    try:
        ran = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{command[0]}: {error}") from error
    if ran.returncode:
        lines = [line for line in ran.stderr.splitlines() if line.startswith(("E:", "ERROR:"))] or ran.stderr.split(
            "\n"
        )
        raise FetchError(f"{command[0]}: {lines[0].strip() or f'exit status {ran.returncode}'}")
    return ran.stdout
