"""Lists the versions of a repository, sound or not, with their plans and verdicts, for people and for scripts.

Changes nothing; the result is plain data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from streamd.core.errors import RepositoryError
from streamd.repository.conversion import read_verdicts
from streamd.repository.files import is_held, measure_size
from streamd.repository.plans import Machine, PlanFile, explain_damage, explain_misfit, find_unlisted_plans, read_plans
from streamd.repository.record import PromotionRecord, read_promotion_record
from streamd.repository.schema import RecordedVerdict
from streamd.repository.versions import EngineRepository, EngineVersion, Rule, parse_stamp


@dataclass(frozen=True)
class PlanEntry:
    """A plan, and the reason why it would not run here; `fits` is `None` if no machine was given to compare with."""

    plan: PlanFile
    fits: bool | None = None
    why_not: str | None = None


@dataclass(frozen=True, kw_only=True)
class VersionEntry:
    """One version as a list shows it.

    `refused` is the reason why it is not sound, `serves` the rule by which it serves. `plans_refused` is the error in
    its list of plans; its graph can still serve.
    """

    name: str
    stamp: str
    size_bytes: int
    architecture: str = ""
    refused: str | None = None
    serves: Rule | None = None
    promoted: bool = False
    previous: bool = False
    default: bool = False
    held: bool = False
    plans: tuple[PlanEntry, ...] = ()
    unlisted_plans: tuple[str, ...] = ()
    plans_refused: str | None = None
    validation: Mapping[str, RecordedVerdict] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """A repository's versions, the newest first, and the record of promotions."""

    root: Path
    versions: tuple[VersionEntry, ...]
    record: PromotionRecord

    @property
    def serving(self) -> VersionEntry | None:
        """The version that serves if none is pinned; `None` if none is sound."""
        return next((entry for entry in self.versions if entry.serves), None)


def list_versions(repository: EngineRepository, machine: Machine | None = None) -> Listing:
    """Check every version; plans are compared with `machine` by their entry in the record. Raises `RepositoryError`."""
    record = read_promotion_record(repository.root)
    loaded = {path.name: _load(repository, path.name) for path in repository.list_folders()}
    rules = _find_serving_rule(repository, loaded)
    entries = [_make_entry(repository.root / name, found, record, rules, machine) for name, found in loaded.items()]
    entries.sort(key=lambda entry: (entry.stamp, entry.name), reverse=True)
    return Listing(repository.root, tuple(entries), record)


def inspect_version(repository: EngineRepository, name: str, machine: Machine | None = None) -> VersionEntry:
    """Check one version and the files of its plans; raises `RepositoryError` if no version has this name."""
    path = repository.find_folder(name)
    loaded = {each.name: _load(repository, each.name) for each in repository.list_folders()}
    found = loaded[name] if name in loaded else _load(repository, name)
    rules = _find_serving_rule(repository, loaded)
    return _make_entry(path, found, read_promotion_record(repository.root), rules, machine, reads_plans=True)


def convert_to_builtins(found: Listing | VersionEntry) -> Any:
    """Return the result as values that JSON has."""
    return msgspec.to_builtins(found, enc_hook=str)


def _load(repository: EngineRepository, name: str) -> EngineVersion | str:
    """Return a version, or the reason why it is not sound."""
    try:
        return repository.load(name)
    except RepositoryError as exc:
        return str(exc)


def _find_serving_rule(repository: EngineRepository, loaded: Mapping[str, EngineVersion | str]) -> dict[str, Rule]:
    """Return the one version that serves, with its rule; empty if none is sound."""
    for name, rule in repository.list_serving_order():
        if isinstance(loaded.get(name), EngineVersion):
            return {name: rule}
    return {}


def _make_entry(
    path: Path,
    found: EngineVersion | str,
    record: PromotionRecord,
    rules: Mapping[str, Rule],
    machine: Machine | None,
    *,
    reads_plans: bool = False,
) -> VersionEntry:
    common: dict[str, Any] = {
        "name": path.name,
        "stamp": parse_stamp(path.name),
        "size_bytes": measure_size(path),
        "promoted": path.name == record.current,
        "previous": path.name == record.previous,
        "held": is_held(path),
    }
    if isinstance(found, str):
        return VersionEntry(**common, refused=found)
    return VersionEntry(
        **common,
        architecture=found.manifest.architecture,
        serves=rules.get(path.name),
        default=found.manifest.default,
        **_list_plans(found, machine, reads_plans),
    )


def _list_plans(version: EngineVersion, machine: Machine | None, reads_plans: bool) -> dict[str, Any]:
    """Return the fields of a `VersionEntry` that are about plans."""
    try:
        return {
            "plans": tuple(_make_plan_entry(plan, machine, reads_plans) for plan in read_plans(version)),
            "unlisted_plans": tuple(path.name for path in find_unlisted_plans(version)),
            "validation": read_verdicts(version.path),
        }
    except RepositoryError as exc:
        return {"plans_refused": str(exc)}


def _make_plan_entry(plan: PlanFile, machine: Machine | None, reads_plans: bool) -> PlanEntry:
    reason = explain_misfit(plan, machine) if machine is not None else None
    if reason is None and (reads_plans or not plan.path.is_file()):
        reason = explain_damage(plan)
    if reason is None and machine is None:
        return PlanEntry(plan)
    return PlanEntry(plan, reason is None, reason)
