"""Publishes a new version: whole or not at all, durable, under a free name.

It is assembled in a hidden folder in the same place, whose name no reader takes for a version, and renamed last.
"""

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
import numpy as np

from streamd.core.errors import ConfigError, RepositoryError
from streamd.regular_files import sync_folder
from streamd.repository.conversion import hash_file
from streamd.repository.files import BUILDING_PREFIX, VersionHold, replace_file, set_aside, sync_file
from streamd.repository.schema import VERSION_RECORD

_NAME = re.compile(r"(?!.*torch)[A-Za-z0-9][A-Za-z0-9_.-]*", re.IGNORECASE)

CONVERSION_LOG = "conversion_log.txt"
"""The log of how a version, or a folder of plans, was made."""


class HiddenFolder:
    """A folder in `root` that gets its name last, so that a version appears whole or not at all.

    Use it as a context: what is written into `folder` is hidden until `rename_to`, and removed without it.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.folder = Path()
        self._hold: VersionHold | None = None

    def __enter__(self) -> Self:
        make_writable_folder(self.root)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{BUILDING_PREFIX}{self.name}-", dir=self.root))
        self._hold = VersionHold(self.folder)  # so that `gc` can tell it from the remains of a killed build
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def rename_to(self, final: Path) -> None:
        """Make all files durable and rename the folder, into the same `root`; raises `RepositoryError`."""
        try:
            self.folder.chmod(0o755)
            for path in sorted(self.folder.iterdir()):
                sync_file(path)
            sync_folder(self.folder)
            self.folder.rename(final)
            sync_folder(self.root)
        except OSError as exc:
            raise RepositoryError(f"{final}: cannot be published: {exc.strerror or exc}") from exc
        self.folder = final

    def replace(self, final: Path) -> None:
        """Rename the folder as `rename_to` does, but remove a folder that has this name; raises `RepositoryError`.

        The old folder is set aside first and returns if the renaming fails. Killed at any moment, the name has the old
        folder, the new one, or none, and never a mixture.
        """
        try:
            previous = set_aside(final) if final.is_dir() else None
        except OSError as exc:
            raise RepositoryError(f"{final}: cannot be replaced: {exc.strerror or exc}") from exc
        try:
            self.rename_to(final)
        except RepositoryError:
            if previous is not None:
                previous.rename(final)
            raise
        if previous is not None:
            shutil.rmtree(previous, ignore_errors=True)

    def abandon(self) -> None:
        """Remove the hidden folder, unless it is published; a second call is harmless."""
        if self.folder.name.startswith(BUILDING_PREFIX):
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._hold is not None:
            self._hold.close()


class NewVersion(HiddenFolder):
    """A hidden folder that becomes the version `<name>_tensorrt_<YYYYMMDD>_<HHMMSS>` in `root`.

    Raises `ConfigError` for a bad name.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        default: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(root, name)
        self.default, self._now = default, now
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--name {name!r}: expected letters, digits, '_', '.', '-', and no PyTorch in it")

    def publish(self, manifest: dict[str, Any], info: dict[str, Any]) -> Path:
        """Write the manifest and the record, make all files durable, and rename the folder; return its new path.

        `sha256` of the record is filled in here, for every file. Raises `RepositoryError`.
        """
        final = self._find_free_name()
        write_json(self.folder / "config.json", {**manifest, "name": final.name, "default": self.default})
        _retitle_card(self.folder / "MODEL_CARD.md", final.name)
        hashes = {path.name: hash_file(path) for path in sorted(self.folder.iterdir()) if path.name != VERSION_RECORD}
        write_json(self.folder / VERSION_RECORD, {**info, "sha256": hashes})
        self.rename_to(final)
        return final

    def _find_free_name(self) -> Path:
        """Return the first free path, counting the stamp up by seconds."""
        stamp = self._now()
        while (path := self.root / f"{self.name}_tensorrt_{stamp:%Y%m%d_%H%M%S}").exists():
            stamp += timedelta(seconds=1)
        return path


def make_writable_folder(path: Path) -> None:
    """Make a folder, and check that it can be written; raises `RepositoryError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as exc:
        raise RepositoryError(f"{path}: cannot be written: {exc.strerror or exc}") from exc


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all; NaN becomes null. Raises `RepositoryError`."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(value, enc_hook=_unwrap_number), indent=2) + b"\n")


def _retitle_card(card: Path, name: str) -> None:
    """Write the version's name into the title of its model card."""
    if card.is_file():
        title, rest = card.read_text().partition("\n")[::2]
        if title.startswith("# "):
            card.write_text(f"# {name}\n{rest}")


def _unwrap_number(value: Any) -> Any:
    """Return a number of numpy as Python's own: msgspec encodes no others."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
