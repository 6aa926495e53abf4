"""Puts a new version in place: whole or not at all, durable, under a name that is free.

It is put together in a hidden folder beside, whose name no reader takes for a version, and renamed last.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from streamd.core.errors import ConfigError, RepositoryError
from streamd.repository.conversion import sha256_of
from streamd.repository.files import BUILDING_PREFIX, VersionHold, replace_file, sync_file, sync_folder

_NAME = re.compile(r"(?!.*torch)[A-Za-z0-9][A-Za-z0-9_.-]*", re.IGNORECASE)
_STAMPED = re.compile(r"(_tensorrt)?_\d{8}_\d{6}$")
VERSION_RECORD = "conversion_info.json"


class NewVersion:
    """A folder in `root` that becomes the version `<name>_tensorrt_<YYYYMMDD>_<HHMMSS>`, whole or not at all.

    Use it as a context: what is written into `folder` is hidden until `publish`, and gone without it. Raises
    `ConfigError` for a bad name.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        default: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.root, self.name, self.default, self._now = root, name, default, now
        self.folder = Path()
        self._hold: VersionHold | None = None
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--name {name!r}: expected letters, digits, '_', '.', '-', and no PyTorch in it")

    def __enter__(self) -> Self:
        make_writable_folder(self.root)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{BUILDING_PREFIX}{self.name}-", dir=self.root))
        self._hold = VersionHold(self.folder)  # so that `gc` knows it from what a killed build left
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def publish(self, manifest: dict[str, Any], info: dict[str, Any]) -> Path:
        """Write the manifest and the record, make all of it durable, and give it its name; returns the version.

        `sha256` of the record is filled in here, with every file. Raises `RepositoryError`.
        """
        final = self._free_name()
        write_json(self.folder / "config.json", {**manifest, "name": final.name, "default": self.default})
        _retitle(self.folder / "MODEL_CARD.md", final.name)
        hashes = {path.name: sha256_of(path) for path in sorted(self.folder.iterdir()) if path.name != VERSION_RECORD}
        write_json(self.folder / VERSION_RECORD, {**info, "sha256": hashes})
        try:
            self.folder.chmod(0o755)
            for path in sorted(self.folder.iterdir()):
                sync_file(path)
            sync_folder(self.folder)
            self.folder.rename(final)
            sync_folder(self.root)
        except OSError as exc:
            raise RepositoryError(f"{final}: cannot be put in place: {exc.strerror or exc}") from exc
        self.folder = final
        return final

    def abandon(self) -> None:
        """Remove the hidden folder, unless it has been given its name; twice is harmless."""
        if self.folder.name.startswith(BUILDING_PREFIX):
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._hold is not None:
            self._hold.close()

    def _free_name(self) -> Path:
        stamp = self._now()
        while (path := self.root / f"{self.name}_tensorrt_{stamp:%Y%m%d_%H%M%S}").exists():
            stamp += timedelta(seconds=1)
        return path


def strip_stamp(folder: Path) -> str:
    """What versions made of a folder are called, without `_tensorrt_<stamp>`."""
    return _STAMPED.sub("", folder.name)


def make_writable_folder(path: Path) -> None:
    """Make a folder that can be written; raises `RepositoryError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as exc:
        raise RepositoryError(f"{path}: cannot be written: {exc.strerror or exc}") from exc


def write_json(path: Path, value: Any) -> None:
    """Put a value in a file's place, indented, all or nothing; raises `RepositoryError`."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def _retitle(card: Path, name: str) -> None:
    """Let a model card bear the name of the version that it now lies in."""
    if card.is_file():
        title, rest = card.read_text().partition("\n")[::2]
        if title.startswith("# "):
            card.write_text(f"# {name}\n{rest}")
