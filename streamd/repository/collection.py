"""Removes old versions, and the remains of killed builds and removals.

A version that serves, that would serve instead, or that cannot be judged always stays.
"""

import shutil
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from streamd.core.errors import RepositoryError
from streamd.repository.files import (
    BUILDING_PREFIX,
    REMOVING_PREFIX,
    claim_folder,
    lock_repository,
    measure_size,
    set_aside,
)
from streamd.repository.record import PromotionRecord, read_promotion_record
from streamd.repository.versions import EngineRepository, EngineVersion

LEFTOVER_AGE_SECONDS = 6 * 3600.0
"""A build that no process holds is abandoned if nothing in it has changed for this long."""


@dataclass
class CollectionReport:
    """The folders that `collect_garbage` removed and kept, by name; with `dry_run`, those that it would.

    `removed` and `leftovers` have sizes in bytes, `kept` the reasons to keep a version, `unjudged` the reason why a
    folder is no sound version and stays, `failed` the error for each folder that could not be removed.
    """

    dry_run: bool = False
    removed: dict[str, int] = field(default_factory=dict)
    leftovers: dict[str, int] = field(default_factory=dict)
    kept: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unjudged: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def freed_bytes(self) -> int:
        """The size of all that was removed, or would be."""
        return sum(self.removed.values()) + sum(self.leftovers.values())


def collect_garbage(
    repository: EngineRepository,
    keep: int,
    *,
    now: float,
    in_use: Iterable[str] = (),
    dry_run: bool = False,
    leftover_age_seconds: float = LEFTOVER_AGE_SECONDS,
) -> CollectionReport:
    """Remove the sound versions that there is no reason to keep, and leftovers; `now` is epoch seconds.

    Kept are the newest `keep` versions (at least 1), the promoted one and the one before it, the one that serves now
    and the one that would serve if none were promoted, those marked as the default, those named in `in_use`, and those
    that a process holds. A folder is renamed before it is removed, so that its name is whole or free whenever this
    ends. Raises `RepositoryError` if the repository cannot be changed; a folder that cannot be removed is listed in
    `failed`.
    """
    if keep < 1:
        raise RepositoryError(f"keep is {keep}, expected at least 1: the newest version always stays")
    report = CollectionReport(dry_run)
    with nullcontext() if dry_run else lock_repository(repository.root):
        used = {path.name for path in map(repository.find_folder, in_use)}
        sound = _load_sound_versions(repository, report.unjudged)
        serving = list_serving_names(repository, {version.name for version in sound})
        reasons = find_reasons_to_keep(sound, read_promotion_record(repository.root), serving, used, keep)
        for version in sound:
            if reasons[version.name]:
                report.kept[version.name] = reasons[version.name]
            else:
                _remove(version.path, report.removed, report)
        for path in _find_leftovers(repository.root, now - leftover_age_seconds):
            _remove(path, report.leftovers, report)
    return report


def find_reasons_to_keep(
    sound: Sequence[EngineVersion], record: PromotionRecord, serving: Iterable[str], in_use: set[str], keep: int
) -> Mapping[str, tuple[str, ...]]:
    """Return the reasons to keep each sound version; one without reasons is to be removed."""
    newest = sorted(sound, key=lambda version: (version.stamp, version.name), reverse=True)[:keep]
    kept: dict[str, set[str | None]] = {
        "promoted": {record.current},
        "previous": {record.previous},
        "default": {version.name for version in sound if version.manifest.default},
        "would serve": {*serving},
        "in use": {*in_use},
        f"among the newest {keep}": {version.name for version in newest},
    }
    return {version.name: tuple(reason for reason, names in kept.items() if version.name in names) for version in sound}


def _load_sound_versions(repository: EngineRepository, unjudged: dict[str, str]) -> list[EngineVersion]:
    """Return the sound versions; add the reason for each other folder to `unjudged`."""
    sound = []
    for path in repository.list_folders():
        try:
            sound.append(repository.load(path.name))
        except RepositoryError as exc:
            unjudged[path.name] = str(exc)
    return sound


def list_serving_names(repository: EngineRepository, sound: Container[str]) -> set[str]:
    """Return the versions that serve now, that a rollback would return to, and that serve if none is promoted."""
    record = read_promotion_record(repository.root)
    orders = (
        (name for name, _ in repository.list_serving_order()),
        reversed(record.earlier),
        (name for name, _ in repository.list_serving_order(promoted=False)),
    )
    first = (next((name for name in order if name in sound), None) for order in orders)
    return {name for name in first if name is not None}


def _find_leftovers(root: Path, before: float) -> Iterator[Path]:
    """Yield the remains of killed removals, and builds that were last changed before this time in epoch seconds."""
    for path in sorted(root.glob(".*")):
        if path.is_symlink() or not path.is_dir():
            continue
        is_abandoned = path.name.startswith(BUILDING_PREFIX) and _find_last_change(path) < before
        if is_abandoned or path.name.startswith(REMOVING_PREFIX):
            yield path


def _find_last_change(path: Path) -> float:
    """Return the time, in epoch seconds, at which a folder or anything in it was last modified."""
    times = [path.stat().st_mtime]
    for inner in path.rglob("*"):
        with suppress(FileNotFoundError):
            times.append(inner.lstat().st_mtime)
    return max(times)


def _remove(path: Path, removed: dict[str, int], report: CollectionReport) -> None:
    """Remove a folder that no process holds, and note its size in `removed`, one of the report's."""
    try:
        size = measure_size(path)
        doomed = path
        if not path.name.startswith(REMOVING_PREFIX):
            with claim_folder(path) as is_free:
                if not is_free:
                    report.kept[path.name] = ("held",)
                    return
                if not report.dry_run:
                    doomed = set_aside(path)
        if not report.dry_run:
            shutil.rmtree(doomed)
        removed[path.name] = size
    except OSError as exc:
        report.failed[path.name] = f"{path}: cannot be removed: {exc.strerror or exc}"
