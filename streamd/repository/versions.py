"""Engine versions as folders `<name>_<YYYYMMDD>_<HHMMSS>`: found, checked, chosen.

A folder that is not a sound version is refused with the reason and the way out, never crashed on.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from streamd.core.contract import ModelContract
from streamd.core.errors import RepositoryError
from streamd.repository.manifest import Manifest, read_manifest, read_server_mapping

_FOLDER = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)_(?P<stamp>\d{8}_\d{6})")
_PYTORCH_SUFFIXES = {".pt", ".pth", ".ckpt", ".pkl", ".bin"}
_PYTORCH_NAME = re.compile(r"pytorch|torch(script)?_", re.IGNORECASE)


@dataclass(frozen=True)
class EngineVersion:
    """One checked version: its folder, manifest and contract."""

    path: Path
    manifest: Manifest
    contract: ModelContract
    server_ids: dict[str, int]

    @property
    def name(self) -> str:
        """The folder's name: what forecasts call their model."""
        return self.path.name

    @property
    def stamp(self) -> str:
        """`YYYYMMDD_HHMMSS`: later is newer."""
        match = _FOLDER.fullmatch(self.path.name)
        assert match is not None
        return match["stamp"]

    @property
    def onnx(self) -> Path:
        """The graph."""
        return self.path / "model.onnx"


class _ConversionInfo(msgspec.Struct):
    sha256: dict[str, str] = {}


class EngineRepository:
    """The versions in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def choose(self, pinned: str | None = None) -> EngineVersion:
        """Return the version that serves: the pinned one, else the default one, else the newest sound one.

        Raises `RepositoryError` with each folder that was passed over and why.
        """
        if pinned:
            return self._pinned(pinned)
        refused: list[str] = []
        sound: list[EngineVersion] = []
        for path in self._folders():
            try:
                sound.append(load_version(path))
            except RepositoryError as exc:
                refused.append(str(exc))
        sound.sort(key=lambda version: (version.manifest.default, version.stamp))
        if sound:
            return sound[-1]
        reasons = "; ".join(refused) or "it holds no folder named <name>_<YYYYMMDD>_<HHMMSS>"
        raise RepositoryError(f"{self.root}: no engine version to serve: {reasons}")

    def _pinned(self, pinned: str) -> EngineVersion:
        path = self.root / pinned
        if path.parent != self.root or not path.is_dir():
            names = sorted(path.name for path in self._folders())
            raise RepositoryError(f"{self.root}: no engine version {pinned!r}; there are {names}")
        return load_version(path)

    def _folders(self) -> Iterator[Path]:
        if not self.root.is_dir():
            raise RepositoryError(f"{self.root}: no such folder of engine versions")
        for path in sorted(self.root.iterdir()):
            if path.is_dir() and _FOLDER.fullmatch(path.name):
                yield path


def load_version(path: Path) -> EngineVersion:
    """Check a version's folder and read it; raises `RepositoryError` with the reason and the way out."""
    match = _FOLDER.fullmatch(path.name)
    if not match or not _is_date(match["stamp"]):
        raise RepositoryError(f"{path}: not named <name>_<YYYYMMDD>_<HHMMSS>")
    _refuse_pytorch(path)
    if not (path / "model.onnx").is_file():
        raise RepositoryError(f"{path}: has no model.onnx; export the model to ONNX first")
    manifest = read_manifest(path / "config.json")
    _check_hashes(path)
    mapping = read_server_mapping(path / "server_mapping.json")
    return EngineVersion(path, manifest, manifest.contract(), mapping)


def _is_date(stamp: str) -> bool:
    try:
        datetime.strptime(stamp, "%Y%m%d_%H%M%S")
    except ValueError:
        return False
    return True


def _refuse_pytorch(path: Path) -> None:
    way_out = "a PyTorch model is never loaded here: export it to ONNX and serve that version"
    if _PYTORCH_NAME.search(path.name):
        raise RepositoryError(f"{path}: named as a PyTorch model's folder; {way_out}")
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in _PYTORCH_SUFFIXES:
            raise RepositoryError(f"{file}: a PyTorch checkpoint (a pickle can run code); {way_out}")


def _check_hashes(path: Path) -> None:
    """Compare each file that `conversion_info.json` lists with its SHA-256."""
    info = path / "conversion_info.json"
    if not info.exists():
        return
    try:
        said = msgspec.json.decode(info.read_bytes(), type=_ConversionInfo).sha256
    except (OSError, msgspec.DecodeError) as exc:
        raise RepositoryError(f"{info}: {exc}") from exc
    for name, expected in said.items():
        file = path / name
        if file.parent != path:
            raise RepositoryError(f"{info}: sha256 names {name!r}, expected a file of the version itself")
        if not file.is_file():
            if file.suffix == ".engine":
                continue  # plans are of one machine and never travel with a version
            raise RepositoryError(f"{file}: missing; {info.name} lists it")
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != expected:
            raise RepositoryError(f"{file}: changed since it was made (SHA-256 {found}, expected {expected})")
