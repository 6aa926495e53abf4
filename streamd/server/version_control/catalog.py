"""Lists the versions of a repository for readers: their training, the verdicts of their gate, why they cannot serve.

Reads files in a thread, and changes nothing; `control.py` makes the changes.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from streamd.core.accuracy.scores import TrainingScores
from streamd.core.contract import ModelContract
from streamd.core.errors import RepositoryError
from streamd.repository.conversion import check_verdicts, read_graph_infos, read_plan_infos, read_verdicts
from streamd.repository.files import measure_size
from streamd.repository.record import PromotionChange, PromotionRecord, read_promotion_record
from streamd.repository.schema import EXACT_PRECISION, RecordedVerdict
from streamd.repository.versions import EngineRepository, EngineVersion, parse_stamp
from streamd.runtime.accuracy.live import read_training_scores
from streamd.runtime.background import run_in_background
from streamd.server.disk import bound_disk_work
from streamd.server.version_control.specs import find_contract_differences

FileSignature = tuple[tuple[str, int, int, int], ...]
"""Name, size, inode and time of change of each file of a folder: if it is the same, the files are not read again."""


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One version, as its files describe it; `problem` is `None` if it is sound and its gate passed it."""

    name: str
    size_bytes: int
    contract: ModelContract | None = None
    is_default: bool = False
    precisions: tuple[str, ...] = ()
    gate: Mapping[str, RecordedVerdict]
    training: TrainingScores | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The versions of a repository, the newest first, and the record of promotions."""

    entries: tuple[CatalogEntry, ...]
    record: PromotionRecord
    previous: str | None
    """The version to which a rollback returns."""
    problem: str | None = None
    """Why the folder or the record cannot be read."""


class CatalogReader:
    """Reads the catalog of a repository, one reading at a time; callers that come meanwhile share its result.

    So however many callers there are, at most one thread waits for a file system that hangs.
    """

    def __init__(self) -> None:
        self._reading: asyncio.Task[Catalog] | None = None
        self._known: dict[Path, tuple[FileSignature, CatalogEntry]] = {}

    async def read(self, root: Path, timeout_seconds: float) -> Catalog:
        """Return the catalog of the repository at `root`; raises `RepositoryError` if it takes too long."""
        reading = self._reading
        if reading is None or reading.done():
            reading = self._reading = asyncio.create_task(run_in_background(partial(self._read_now, root)))
            reading.add_done_callback(_take_error)
        return await bound_disk_work(str(root), timeout_seconds, asyncio.shield(reading))

    def _read_now(self, root: Path) -> Catalog:
        repository = EngineRepository(root)
        problems: list[str] = []
        try:
            folders = list(repository.list_folders())
        except (RepositoryError, OSError) as exc:
            return Catalog(entries=(), record=PromotionRecord(), previous=None, problem=str(exc))
        try:
            record = read_promotion_record(root)
        except RepositoryError as exc:
            record = PromotionRecord()
            problems.append(str(exc))
        known, self._known = self._known, {}
        for path in folders:
            self._known[path] = _read_folder(repository, path, known.get(path))
        entries = sorted(
            (entry for _, entry in self._known.values()), key=lambda each: (parse_stamp(each.name), each.name)
        )
        return Catalog(
            entries=tuple(reversed(entries)),
            record=record,
            previous=_find_rollback_target(repository, record, entries),
            problem="; ".join(problems) or None,
        )


def describe_catalog(
    catalog: Catalog, *, serving: str, candidate: str | None, contract: ModelContract, is_pinned: bool
) -> dict[str, Any]:
    """Return the answer to `GET /v1/engines`, as plain data; `contract` is that of the version that serves."""
    return {
        "serving": serving,
        "previous": catalog.previous,
        "candidate": candidate,
        "pinned": is_pinned,
        "problem": catalog.problem,
        "versions": [_describe_entry(each, catalog.record, contract) for each in catalog.entries],
        "history": [_describe_change(each) for each in reversed(catalog.record.history)],
    }


def _describe_entry(entry: CatalogEntry, record: PromotionRecord, contract: ModelContract) -> dict[str, Any]:
    problem = entry.problem
    if (
        problem is None
        and entry.contract is not None
        and (found := find_contract_differences(entry.contract, contract))
    ):
        problem = f"its {' and '.join(found)} differ from those of what serves, so it needs a restart"
    return {
        "version": entry.name,
        "created_at": _parse_time(entry.name),
        "architecture": None if entry.contract is None else entry.contract.architecture,
        "precisions": list(entry.precisions),
        "training_loss": None if entry.training is None else entry.training.loss,
        "training_fleets": [] if entry.training is None else list(entry.training.fleets),
        "gate": {name: _describe_verdict(each) for name, each in entry.gate.items()},
        "is_promoted": entry.name == record.current,
        "is_default": entry.is_default,
        "problem": problem,
        "size_bytes": entry.size_bytes,
    }


def _describe_verdict(verdict: RecordedVerdict) -> dict[str, Any]:
    return {"promotable": verdict.promotable, "reasons": list(verdict.reasons)}


def _describe_change(change: PromotionChange) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "when": change.when,
        "who": change.who,
        "why": change.why,
        "before": change.from_,
        "after": change.version,
        "passed_over": list(change.passed_over),
    }


def _parse_time(name: str) -> float | None:
    """Return the time in a version's name, in epoch seconds; `None` if its stamp is no time."""
    try:
        return datetime.strptime(parse_stamp(name), "%Y%m%d_%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


# ---------------------------------------------------------------- the files
def _read_folder(
    repository: EngineRepository, path: Path, known: tuple[FileSignature, CatalogEntry] | None
) -> tuple[FileSignature, CatalogEntry]:
    """Return the entry of a folder with its signature: the known one if no file of it has changed."""
    try:
        signature = _sign_files(path)
    except OSError as exc:
        reason = f"{path}: cannot be read: {exc.strerror or exc}"
        return (), CatalogEntry(name=path.name, size_bytes=0, gate={}, problem=reason)
    if known is not None and known[0] == signature:
        return known
    return signature, _read_entry(repository, path)


def _sign_files(path: Path) -> FileSignature:
    with os.scandir(path) as files:
        found = ((each.name, each.stat(follow_symlinks=False)) for each in files)
        return tuple(sorted((name, stat.st_size, stat.st_ino, stat.st_mtime_ns) for name, stat in found))


def _read_entry(repository: EngineRepository, path: Path) -> CatalogEntry:
    size = 0 if path.is_symlink() else measure_size(path)  # what a link leads to is no part of the repository
    try:
        version = repository.load(path.name)
    except RepositoryError as exc:
        return CatalogEntry(name=path.name, size_bytes=size, gate={}, problem=str(exc))
    precisions, gate, problem = _read_gate(version)
    return CatalogEntry(
        name=path.name,
        size_bytes=size,
        contract=version.contract,
        is_default=version.manifest.default,
        precisions=precisions,
        gate=gate,
        training=read_training_scores(path),
        problem=problem,
    )


def _read_gate(version: EngineVersion) -> tuple[tuple[str, ...], Mapping[str, RecordedVerdict], str | None]:
    """Return the precisions of a sound version, the verdicts of its gate, and why it cannot be promoted."""
    try:
        check_verdicts(version.path)
        problem = None
    except RepositoryError as exc:
        problem = str(exc)
    try:
        others = {*read_graph_infos(version.path), *read_plan_infos(version.path)} - {EXACT_PRECISION}
    except RepositoryError:  # the graph serves without them
        others = set()
    try:
        gate = read_verdicts(version.path)
    except RepositoryError:  # `check_verdicts` said why
        gate = {}
    return (EXACT_PRECISION, *sorted(others)), gate, problem


def _find_rollback_target(
    repository: EngineRepository, record: PromotionRecord, entries: Iterable[CatalogEntry]
) -> str | None:
    """Return the version to which a rollback returns, as `Promoter.find_rollback_target` does, by these entries.

    `None` if nothing is promoted, or if no sound version is left.
    """
    if record.current is None:
        return None
    sound = {each.name: each.problem is None for each in entries if each.contract is not None}
    after = record.with_rollback(lambda name: sound.get(name, False), when=0.0, who="", why="")
    if after.current is not None:
        return after.current
    order = repository.list_serving_order(promoted=False)
    return next((name for name, _ in order if name in sound), None)


def _take_error(reading: "asyncio.Task[Catalog]") -> None:
    """Take the error of a reading for which no caller waits any more; asyncio would report it."""
    if not reading.cancelled():
        reading.exception()
