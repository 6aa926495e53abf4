"""Removes old versions, and what killed builds and removals left behind.

What serves, what would serve instead, and what cannot be judged always stays.
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
"""A build that nobody holds is left behind once nothing in it has changed for so long."""


@dataclass
class CollectionReport:
    """The folders that `collect_garbage` removed and kept, or would, by name.

    `removed` gives bytes, `kept` the reasons to keep a version, `unjudged` why a folder is no sound version (it is
    left to whoever put it there), `failed` why something that was to go did not.
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
    """Remove the sound versions that nothing speaks for, and leftovers; `now` is epoch seconds.

    Stays: the newest `keep` (at least 1), the promoted one, the one before it, what serves now and what would serve
    were nothing promoted, those marked as the default, those named in `in_use` and those that are held. A folder
    goes by its name first and then from the disk, so it is whole or gone however this ends. Raises `RepositoryError`
    for a folder of versions that cannot be changed; a single folder that resists is listed in `failed`.
    """
    if keep < 1:
        raise RepositoryError(f"keep is {keep}, expected at least 1: the newest version always stays")
    done = CollectionReport(dry_run)
    with nullcontext() if dry_run else lock_repository(repository.root):
        used = {path.name for path in map(repository.find_folder, in_use)}
        sound = _sound_versions(repository, done.unjudged)
        serving = list_serving_names(repository, {version.name for version in sound})
        reasons = find_reasons_to_keep(sound, read_promotion_record(repository.root), serving, used, keep)
        for version in sound:
            if reasons[version.name]:
                done.kept[version.name] = reasons[version.name]
            else:
                _remove(version.path, done.removed, done)
        for path in _leftovers(repository.root, now - leftover_age_seconds):
            _remove(path, done.leftovers, done)
    return done


def find_reasons_to_keep(
    sound: Sequence[EngineVersion], record: PromotionRecord, serving: Iterable[str], in_use: set[str], keep: int
) -> Mapping[str, tuple[str, ...]]:
    """Return why each sound version stays; without a reason it goes."""
    newest = sorted(sound, key=lambda version: (version.stamp, version.name), reverse=True)[:keep]
    spoken_for: dict[str, set[str | None]] = {
        "promoted": {record.current},
        "previous": {record.previous},
        "default": {version.name for version in sound if version.manifest.default},
        "would serve": {*serving},
        "in use": {*in_use},
        f"among the newest {keep}": {version.name for version in newest},
    }
    return {
        version.name: tuple(reason for reason, names in spoken_for.items() if version.name in names)
        for version in sound
    }


def _sound_versions(repository: EngineRepository, unjudged: dict[str, str]) -> list[EngineVersion]:
    sound = []
    for path in repository.list_folders():
        try:
            sound.append(repository.load(path.name))
        except RepositoryError as exc:
            unjudged[path.name] = str(exc)
    return sound


def list_serving_names(repository: EngineRepository, sound: Container[str]) -> set[str]:
    """Return the versions that serve now, after a rollback, and with nothing promoted."""
    record = read_promotion_record(repository.root)
    orders = (
        (name for name, _ in repository.list_serving_order()),
        reversed(record.earlier),
        (name for name, _ in repository.list_serving_order(promoted=False)),
    )
    first = (next((name for name in order if name in sound), None) for order in orders)
    return {name for name in first if name is not None}


def _leftovers(root: Path, before: float) -> Iterator[Path]:
    """Yield what killed removals left, and builds that were last changed before then."""
    for path in sorted(root.glob(".*")):
        if path.is_symlink() or not path.is_dir():
            continue
        abandoned = path.name.startswith(BUILDING_PREFIX) and _last_changed(path) < before
        if abandoned or path.name.startswith(REMOVING_PREFIX):
            yield path


def _last_changed(path: Path) -> float:
    times = [path.stat().st_mtime]
    for inner in path.rglob("*"):
        with suppress(FileNotFoundError):
            times.append(inner.lstat().st_mtime)
    return max(times)


def _remove(path: Path, removed: dict[str, int], done: CollectionReport) -> None:
    try:
        size = measure_size(path)
        doomed = path
        if not path.name.startswith(REMOVING_PREFIX):
            with claim_folder(path) as free:
                if not free:
                    done.kept[path.name] = ("held",)
                    return
                if not done.dry_run:
                    doomed = set_aside(path)
        if not done.dry_run:
            shutil.rmtree(doomed)
        removed[path.name] = size
    except OSError as exc:
        done.failed[path.name] = f"{path}: cannot be removed: {exc.strerror or exc}"
