"""Engine versions as folders `<name>_<YYYYMMDD>_<HHMMSS>`: found, checked, chosen.

A folder that is not a sound version is refused with the reason and the way out, never crashed on.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from streamd.core.contract import ModelContract
from streamd.core.errors import RepositoryError
from streamd.repository.conversion import check_data_files, check_hashes, is_plain_name
from streamd.repository.graph import check_graph
from streamd.repository.guards import is_foreign, refuse_foreign
from streamd.repository.manifest import Manifest, read_manifest, read_server_mapping
from streamd.repository.record import PROMOTION_RECORD, PromotionRecord, read_promotion_record

_FOLDER = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)_(?P<stamp>\d{8}_\d{6})")

GraphCheck = Callable[[Path, ModelContract], None]
"""Raises `RepositoryError` where a `model.onnx` is not the contract's; may load it, where the caller has a runtime."""

Rule = Literal["pinned", "promoted", "earlier", "default", "newest"]
"""Why a version serves; `earlier`: promoted before the one that is, which cannot serve."""


@dataclass(frozen=True)
class SkippedVersion:
    """A version that should serve and cannot: `name` is the version's, or that of the record's file.

    `rule` is that by which it would serve.
    """

    name: str
    rule: Rule
    reason: str


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
        return parse_stamp(self.path.name)

    @property
    def onnx(self) -> Path:
        """The graph."""
        return self.path / "model.onnx"


@dataclass(frozen=True)
class VersionChoice:
    """The version that serves, the rule that chose it, and what came before it and was passed over."""

    version: EngineVersion
    rule: Rule
    missed: tuple[SkippedVersion, ...] = ()

    @property
    def passed_over(self) -> tuple[str, ...]:
        """The reason why each was passed over."""
        return tuple(each.reason for each in self.missed)


class EngineRepository:
    """The versions in one folder."""

    def __init__(self, root: Path, check: GraphCheck = check_graph) -> None:
        self.root = root
        self._check = check

    def choose(self, pinned: str | None = None, *, use_latest: bool = True) -> EngineVersion:
        """Return the version that serves: `choice` without its reasons."""
        return self.choice(pinned, use_latest=use_latest).version

    def choice(self, pinned: str | None = None, *, use_latest: bool = True) -> VersionChoice:
        """Choose the version that serves: the pinned one and no other, else the first sound one of this order.

        The promoted one, those promoted before it, those whose manifest says default, and with `use_latest` all
        others; among the last two the newest first. Only as many are checked as need be.
        Raises `RepositoryError` with each that was passed over and why.
        """
        if pinned:
            return VersionChoice(self.load(pinned), "pinned")
        return self._with_lost_defaults(self._first_sound(self.list_serving_order(use_latest=use_latest)))

    def choose_at_start(self) -> VersionChoice:
        """Choose as `choice` does, and pass over a record that cannot be read: nothing is promoted then.

        For a daemon that starts: it had better serve the next best than nothing. Raises `RepositoryError`.
        """
        try:
            read_promotion_record(self.root)
        except RepositoryError as exc:
            choice = self.choice_unpromoted()
            return replace(choice, missed=(SkippedVersion(PROMOTION_RECORD, "promoted", str(exc)), *choice.missed))
        return self.choice()

    def choice_unpromoted(self) -> VersionChoice:
        """Choose the version that serves where nothing is promoted; raises `RepositoryError`."""
        return self._with_lost_defaults(self._first_sound(self.list_serving_order(promoted=False)))

    def choose_unpromoted(self) -> EngineVersion:
        """Return the version that serves where nothing is promoted: `choice_unpromoted` without its reasons."""
        return self.choice_unpromoted().version

    def load(self, name: str) -> EngineVersion:
        """Check one version and read it; raises `RepositoryError`."""
        return load_version(self.find_folder(name), self._check)

    def find_folder(self, name: str) -> Path:
        """Return the folder of this name, sound or not; raises `RepositoryError` with those that are there."""
        path = self.root / name
        if not is_plain_name(name) or not path.is_dir():
            names = [path.name for path in self.list_folders()]
            raise RepositoryError(f"{self.root}: no engine version {name!r}; there are {names}")
        return path

    def list_serving_order(self, *, promoted: bool = True, use_latest: bool = True) -> Iterator[tuple[str, Rule]]:
        """Yield the versions in the order in which they would serve, sound or not; one may come more than once."""
        record = read_promotion_record(self.root) if promoted else PromotionRecord()
        for name in record.serving_names:
            yield name, "promoted" if name == record.current else "earlier"
        newest = sorted(self.list_folders(), key=lambda path: (parse_stamp(path.name), path.name), reverse=True)
        for path in newest:
            with suppress(RepositoryError):  # told when its turn among all others comes
                if read_manifest(path / "config.json").default:
                    yield path.name, "default"
        if use_latest:
            yield from ((path.name, "newest") for path in newest)

    def list_folders(self) -> Iterator[Path]:
        """Yield every folder named as a version is, sound or not, by name; raises `RepositoryError`."""
        if not self.root.is_dir():
            raise RepositoryError(f"{self.root}: no such folder of engine versions")
        for path in sorted(self.root.iterdir()):
            if path.is_dir() and _FOLDER.fullmatch(path.name):
                yield path

    def _first_sound(self, order: Iterator[tuple[str, Rule]]) -> VersionChoice:
        missed: dict[str, SkippedVersion] = {}
        for name, rule in order:
            if name in missed:
                continue
            try:
                return VersionChoice(self.load(name), rule, tuple(missed.values()))
            except RepositoryError as exc:
                missed[name] = SkippedVersion(name, rule, str(exc))
        reasons = "; ".join(each.reason for each in missed.values())
        if not reasons and any(self.list_folders()):
            reasons = "none is promoted or marked as the default; pin one, or promote one"
        reasons = reasons or "it holds no folder named <name>_<YYYYMMDD>_<HHMMSS>"
        raise RepositoryError(f"{self.root}: no engine version to serve: {reasons}")

    def _with_lost_defaults(self, choice: VersionChoice) -> VersionChoice:
        """Add the versions that may be the default, where none is known to be: whose `config.json` cannot be read."""
        if choice.rule != "newest":
            return choice
        known = {each.name for each in choice.missed}
        lost = []
        for path in self.list_folders():
            try:
                if path.name in known or is_foreign(path):
                    continue
                read_manifest(path / "config.json")
            except RepositoryError as exc:
                lost.append(SkippedVersion(path.name, "newest", f"{exc} (it may be the default)"))
        return replace(choice, missed=(*choice.missed, *lost))


def load_version(path: Path, check: GraphCheck = check_graph) -> EngineVersion:
    """Check a version's folder and read it; raises `RepositoryError` with the reason and the way out."""
    if not is_version_name(path.name):
        raise RepositoryError(f"{path}: not named <name>_<YYYYMMDD>_<HHMMSS>")
    refuse_foreign(path)
    if not (path / "model.onnx").is_file():
        raise RepositoryError(f"{path}: has no model.onnx; export the model to ONNX first")
    manifest = read_manifest(path / "config.json")
    check_hashes(path)
    contract = manifest.make_contract()
    check(path / "model.onnx", contract)
    check_data_files(path, "model.onnx")
    mapping = read_server_mapping(path / "server_mapping.json")
    return EngineVersion(path, manifest, contract, mapping)


def is_version_name(name: str) -> bool:
    """Whether a folder of this name may be a version: its stamp is a date and a time."""
    match = _FOLDER.fullmatch(name)
    if not match:
        return False
    try:
        datetime.strptime(match["stamp"], "%Y%m%d_%H%M%S")
    except ValueError:
        return False
    return True


def parse_stamp(name: str) -> str:
    """The stamp in a folder's name, `YYYYMMDD_HHMMSS`; empty where it has none."""
    match = _FOLDER.fullmatch(name)
    return match["stamp"] if match else ""
