"""Finds, checks and chooses engine versions: the folders `<name>_<YYYYMMDD>_<HHMMSS>` of a repository.

A folder that is not a sound version is refused with the reason and the remedy. Writes nothing and loads no runtime.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from streamd.core.contract import MEMORY_LENGTH, MEMORY_STEP_SECONDS, ModelContract
from streamd.core.errors import RepositoryError
from streamd.repository.conversion import check_data_files, check_hashes, is_plain_name
from streamd.repository.files import NO_FOLDER
from streamd.repository.graph import check_graph
from streamd.repository.guards import is_foreign, refuse_foreign
from streamd.repository.manifest import Manifest, read_manifest, read_server_mapping
from streamd.repository.record import PROMOTION_RECORD, PromotionRecord, read_promotion_record

_FOLDER = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)_(?P<stamp>\d{8}_\d{6})")
_ENDING = re.compile(r"(_tensorrt)?_\d{8}_\d{6}$")

GraphCheck = Callable[[Path, ModelContract], None]
"""Raises `RepositoryError` if a `model.onnx` does not follow the contract; may load the graph if a runtime is there."""

Rule = Literal["promoted", "earlier", "default", "newest"]
"""The rule by which a version serves; `earlier`: it was promoted before the current one, which cannot serve."""


@dataclass(frozen=True)
class SkippedVersion:
    """A version that should serve and cannot, with the rule by which it would serve.

    `name` is the version's, or that of the promotion record if the record cannot be read.
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
        """The folder's name, which forecasts give as their model."""
        return self.path.name

    @property
    def stamp(self) -> str:
        """The time in the name, `YYYYMMDD_HHMMSS`; later is newer."""
        return parse_stamp(self.path.name)

    @property
    def onnx(self) -> Path:
        """The graph."""
        return self.path / "model.onnx"


@dataclass(frozen=True)
class VersionChoice:
    """The version that serves, the rule that chose it, and the versions that were skipped before it."""

    version: EngineVersion
    rule: Rule
    skipped: tuple[SkippedVersion, ...] = ()

    @property
    def skip_reasons(self) -> tuple[str, ...]:
        """The reason for each skipped version."""
        return tuple(each.reason for each in self.skipped)


class EngineRepository:
    """The versions in one folder."""

    def __init__(self, root: Path, check: GraphCheck = check_graph) -> None:
        self.root = root
        self._check = check

    def choose(self) -> EngineVersion:
        """Return the version that serves: that of `choose_with_reasons`."""
        return self.choose_with_reasons().version

    def choose_with_reasons(self) -> VersionChoice:
        """Choose the first sound version of this order, and return it with those that were skipped.

        1. The promoted version.
        2. Those promoted before it, the latest promotion first.
        3. Those whose manifest says `default`, the newest first.
        4. All others, the newest first.

        Versions behind the chosen one are not checked. Raises `RepositoryError` with the reason for each version if
        none is sound, or if the promotion record cannot be read.
        """
        return self._add_possible_defaults(self._find_first_sound(self.list_serving_order()))

    def choose_at_start(self) -> VersionChoice:
        """Choose as `choose_with_reasons` does, but skip a record that cannot be read, as if none were promoted.

        A daemon that starts had better serve the next best version than none. Raises `RepositoryError`.
        """
        try:
            read_promotion_record(self.root)
        except RepositoryError as exc:
            choice = self.choose_unpromoted()
            unread = SkippedVersion(PROMOTION_RECORD, "promoted", str(exc))
            return replace(choice, skipped=(unread, *choice.skipped))
        return self.choose_with_reasons()

    def choose_unpromoted(self) -> VersionChoice:
        """Choose the version that would serve if none were promoted; raises `RepositoryError`."""
        return self._add_possible_defaults(self._find_first_sound(self.list_serving_order(promoted=False)))

    def load(self, name: str) -> EngineVersion:
        """Check one version and read it; raises `RepositoryError`."""
        return load_version(self.find_folder(name), self._check)

    def find_folder(self, name: str) -> Path:
        """Return the folder of this name, sound or not; raises `RepositoryError` with the names that exist."""
        path = self.root / name
        if not is_plain_name(name) or not path.is_dir():
            names = [path.name for path in self.list_folders()]
            raise RepositoryError(f"{self.root}: no engine version {name!r}; there are {names}")
        return path

    def list_serving_order(self, *, promoted: bool = True) -> Iterator[tuple[str, Rule]]:
        """Yield names in the order in which they would serve, sound or not; a name may be repeated.

        Without `promoted`, the promotion record is not read.
        """
        record = read_promotion_record(self.root) if promoted else PromotionRecord()
        for name in record.serving_names:
            yield name, "promoted" if name == record.current else "earlier"
        newest = sorted(self.list_folders(), key=lambda path: (parse_stamp(path.name), path.name), reverse=True)
        for path in newest:
            with suppress(RepositoryError):  # reported when this version is checked among the newest
                if read_manifest(path / "config.json").default:
                    yield path.name, "default"
        yield from ((path.name, "newest") for path in newest)

    def list_folders(self) -> Iterator[Path]:
        """Yield every folder with the name of a version, sound or not, by name; raises `RepositoryError`."""
        if not self.root.is_dir():
            raise RepositoryError(f"{self.root}: {NO_FOLDER}")
        for path in sorted(self.root.iterdir()):
            if path.is_dir() and _FOLDER.fullmatch(path.name):
                yield path

    def _find_first_sound(self, order: Iterator[tuple[str, Rule]]) -> VersionChoice:
        skipped: dict[str, SkippedVersion] = {}
        for name, rule in order:
            if name in skipped:
                continue
            try:
                return VersionChoice(self.load(name), rule, tuple(skipped.values()))
            except RepositoryError as exc:
                skipped[name] = SkippedVersion(name, rule, str(exc))
        reasons = "; ".join(each.reason for each in skipped.values())
        reasons = reasons or "it has no folder named <name>_<YYYYMMDD>_<HHMMSS>"
        raise RepositoryError(f"{self.root}: no engine version to serve: {reasons}")

    def _add_possible_defaults(self, choice: VersionChoice) -> VersionChoice:
        """Add versions with an unreadable `config.json` to a choice by the rule `newest`: one may be the default."""
        if choice.rule != "newest":
            return choice
        known = {each.name for each in choice.skipped}
        unread = []
        for path in self.list_folders():
            try:
                if path.name in known or is_foreign(path):
                    continue
                read_manifest(path / "config.json")
            except RepositoryError as exc:
                unread.append(SkippedVersion(path.name, "newest", f"{exc} (it may be the default)"))
        return replace(choice, skipped=(*choice.skipped, *unread))


def load_version(path: Path, check: GraphCheck = check_graph) -> EngineVersion:
    """Check a version's folder and read it; raises `RepositoryError` with the reason and the remedy."""
    if not is_version_name(path.name):
        raise RepositoryError(f"{path}: not named <name>_<YYYYMMDD>_<HHMMSS>")
    refuse_foreign(path)
    if not (path / "model.onnx").is_file():
        raise RepositoryError(f"{path}: has no model.onnx; export the model to ONNX first")
    manifest = read_manifest(path / "config.json")
    check_hashes(path)
    contract = manifest.make_contract()
    if not contract.has_daemon_memory:
        raise RepositoryError(
            f"{path / 'config.json'}: memory is {contract.memory_length} means of {contract.memory_step_seconds} s, "
            f"expected {MEMORY_LENGTH} of {MEMORY_STEP_SECONDS} s, which the daemon keeps"
        )
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
    """Return the stamp in a folder's name, `YYYYMMDD_HHMMSS`; empty if it has none."""
    match = _FOLDER.fullmatch(name)
    return match["stamp"] if match else ""


def strip_stamp(name: str) -> str:
    """Return a version's name without `_tensorrt_<stamp>` or `_<stamp>`, under which new ones are made of it."""
    return _ENDING.sub("", name)
