"""Finds the plans and graphs to validate and measure: those that the record of a version or of an ONNX file lists.

Reads records and checks files; it runs no network.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError, RepositoryError
from streamd.regular_files import read_regular
from streamd.repository.external import find_data_files
from streamd.repository.plans import Machine, PlanFile, explain_damage, explain_misfit, explain_missing_file
from streamd.repository.schema import PLANS_RECORD, VERSION_RECORD
from streamd.tools.engine.graph.onnx_graph import OnnxModel, Signature
from streamd.tools.engine.graph.source import GraphSource, read_source

NO_MACHINE = "no GPU with a TensorRT to run it here"


@dataclass(frozen=True, kw_only=True)
class GateTarget:
    """A plan or a graph of one precision."""

    precision: str
    kind: Literal["plan", "graph"]
    path: Path
    entry: dict[str, Any]
    """Its entry in the record; empty for a bare graph."""

    buckets: tuple[int, ...] = ()
    """The batch sizes of a plan."""


@dataclass
class Subject:
    """A float32 graph with the plans and graphs that were made of it."""

    source: GraphSource
    record: Path | None
    """The file that lists them and takes verdicts: `conversion_info.json` or `plans.json`; None for a bare graph."""

    candidates: list[GateTarget] = field(default_factory=list)
    """Those that can run here."""

    passed_over: dict[str, str] = field(default_factory=dict)
    """The reason for each precision that cannot run here."""

    @property
    def name(self) -> str:
        """Return the version's name, or the file's."""
        return self.source.folder.name if self.source.folder else self.source.onnx.name

    @property
    def onnx(self) -> Path:
        """Return the path of the float32 graph."""
        return self.source.onnx

    @property
    def model(self) -> OnnxModel:
        """Return the float32 graph."""
        return self.source.model

    @property
    def signature(self) -> Signature:
        """Return the graph's inputs and outputs."""
        return self.source.signature

    @property
    def contract(self) -> ModelContract | None:
        """Return the manifest's contract; None for a network without a manifest."""
        return self.source.contract


def find_version(name: str, engines: Path) -> Path:
    """Return a version's folder, by its path or by its name in the folder of versions; raises `ConfigError`."""
    for path in (Path(name), engines / name):
        if path.is_dir():
            return path
    raise ConfigError(f"{name}: no such engine version, neither as a folder nor in {engines}")


def read_subject(
    version: Path | None,
    onnx: Path | None,
    machine: Machine | None,
    *,
    plans: Path | None = None,
    config: Path | None = None,
    precisions: tuple[str, ...] | None = None,
) -> Subject:
    """Read a version, or an ONNX file with the folder that `build --plans-only` made of it; raises `StreamdError`.

    Without a plan or graph of float32, the source graph itself is the candidate for fp32. Raises `RepositoryError` if a
    requested precision is missing or cannot run here.
    """
    source = read_source(onnx, version, config, manifest_needed=False)
    record = version / VERSION_RECORD if version else plans / PLANS_RECORD if plans else None
    subject = Subject(source, record)
    content = read_gate_record(record) if record else {}
    folder = record.parent if record else source.onnx.parent
    for precision, entry in content.get("plans", {}).items():
        _add_plan(subject, folder, precision, entry, hashes=content.get("sha256", {}), machine=machine)
    for precision, entry in content.get("graphs", {}).items():
        _add_candidate(subject, GateTarget(precision=precision, kind="graph", path=folder / entry["file"], entry=entry))
    if "fp32" not in {*(each.precision for each in subject.candidates), *subject.passed_over}:
        _add_candidate(subject, GateTarget(precision="fp32", kind="graph", path=source.onnx, entry={}))
    _select_precisions(subject, precisions)
    return subject


def read_gate_record(record: Path) -> dict[str, Any]:
    """Return the record of a version or of a folder of plans; empty if there is no file. Raises `RepositoryError`."""
    try:
        content: dict[str, Any] = msgspec.json.decode(read_regular(record), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as exc:
        raise RepositoryError(f"{record}: {exc}") from exc
    return content


def _add_candidate(subject: Subject, candidate: GateTarget) -> None:
    """Add a graph, or the reason why it cannot run."""
    if not candidate.path.is_file():
        subject.passed_over[candidate.precision] = f"{candidate.path.name} is missing"
        return
    try:
        find_data_files(candidate.path)
    except RepositoryError as exc:
        subject.passed_over[candidate.precision] = str(exc)
    else:
        subject.candidates.append(candidate)


def _add_plan(
    subject: Subject,
    folder: Path,
    precision: str,
    entry: dict[str, Any],
    *,
    hashes: dict[str, str],
    machine: Machine | None,
) -> None:
    """Add a plan, or the reason why it cannot run; raises `RepositoryError` if its entry is malformed."""
    try:
        plan = PlanFile(
            path=folder / entry["file"],
            precision=precision,
            gpu=entry["gpu"],
            compute_capability=entry["compute_capability"],
            tensorrt=entry["tensorrt"],
            buckets=tuple(entry["buckets"]),
            version_compatible=bool(entry.get("version_compatible")),
            promotable=True,  # an earlier verdict must not keep the plan from being judged again
            reasons=(),
            sha256=hashes.get(entry["file"], ""),
        )
    except (KeyError, TypeError) as exc:
        raise RepositoryError(f"{subject.record}: plans.{precision}: {exc!r} is missing or no list") from exc
    reason = NO_MACHINE if machine is None else explain_misfit(plan, machine) or _find_damage(plan)
    if reason:
        subject.passed_over[precision] = reason
    else:
        subject.candidates.append(
            GateTarget(precision=precision, kind="plan", path=plan.path, entry=entry, buckets=plan.buckets)
        )


def _find_damage(plan: PlanFile) -> str | None:
    """Return the reason why a plan's file cannot be read, or None; a folder of plans alone lists no hashes."""
    return explain_damage(plan) if plan.sha256 else explain_missing_file(plan.path)


def _select_precisions(subject: Subject, precisions: tuple[str, ...] | None) -> None:
    """Keep only the candidates of these precisions; raises `RepositoryError` if one or all are missing."""
    if precisions is not None:
        found = {each.precision for each in subject.candidates}
        for precision in precisions:
            if precision not in found:
                why = subject.passed_over.get(precision, f"it has {', '.join(sorted(found)) or 'nothing to run'}")
                raise RepositoryError(f"{subject.name}: no {precision} to run: {why}; build one: streamd engine build")
        subject.candidates = [each for each in subject.candidates if each.precision in precisions]
    if not subject.candidates:
        reasons = "; ".join(f"{precision}: {why}" for precision, why in subject.passed_over.items())
        raise RepositoryError(f"{subject.name}: nothing of it can run here: {reasons or 'nothing is built'}")
