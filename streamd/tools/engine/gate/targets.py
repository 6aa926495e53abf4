"""What is validated and measured: the plans and graphs of a version or of any ONNX file, as their record lists them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError, RepositoryError
from streamd.regular_files import read_regular
from streamd.repository.external import data_files
from streamd.repository.plans import Machine, PlanFile, why_damaged, why_missing, why_not
from streamd.tools.engine.graph.onnx_graph import OnnxModel, Signature
from streamd.tools.engine.graph.source import GraphSource, read_source
from streamd.tools.engine.output.atomic_version import VERSION_RECORD
from streamd.tools.engine.output.folders import PLANS_RECORD

NO_MACHINE = "no GPU with a TensorRT to run it here"


@dataclass(frozen=True)
class GateTarget:
    """A plan or a graph of one precision; `said` is its entry in the record, `buckets` the batch sizes of a plan."""

    precision: str
    kind: Literal["plan", "graph"]
    path: Path
    said: dict[str, Any]
    buckets: tuple[int, ...] = ()


@dataclass
class Subject:
    """A float32 graph with what was made of it; `passed_over` says what cannot run here and why, by precision.

    `record` is the file that lists all of it and takes verdicts: `conversion_info.json` or `plans.json`; None for a
    bare graph.
    """

    source: GraphSource
    record: Path | None
    candidates: list[GateTarget] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The version's name, or the file's."""
        return self.source.folder.name if self.source.folder else self.source.onnx.name

    @property
    def onnx(self) -> Path:
        """The float32 graph."""
        return self.source.onnx

    @property
    def model(self) -> OnnxModel:
        """The float32 graph, read."""
        return self.source.model

    @property
    def signature(self) -> Signature:
        """What the graph takes and gives."""
        return self.source.signature

    @property
    def contract(self) -> ModelContract | None:
        """What the manifest says; None for a network that is no forecaster of ours."""
        return self.source.contract


def find_version(said: str, engines: Path) -> Path:
    """A version's folder, by its path or by its name in the folder of versions; raises `ConfigError`."""
    for path in (Path(said), engines / said):
        if path.is_dir():
            return path
    raise ConfigError(f"{said}: no such engine version, neither as a folder nor in {engines}")


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

    Without a plan or graph of float32 the graph itself is its candidate. A precision that is asked for and is not
    there, or cannot run here, is a `RepositoryError`.
    """
    source = read_source(onnx, version, config, manifest_needed=False)
    record = version / VERSION_RECORD if version else plans / PLANS_RECORD if plans else None
    subject = Subject(source, record)
    said = read_gate_record(record) if record else {}
    folder = record.parent if record else source.onnx.parent
    for precision, entry in said.get("plans", {}).items():
        _add_plan(subject, folder, precision, entry, said.get("sha256", {}), machine)
    for precision, entry in said.get("graphs", {}).items():
        _add(subject, GateTarget(precision, "graph", folder / entry["file"], entry))
    if not {"fp32"} & {*(each.precision for each in subject.candidates), *subject.passed_over}:
        _add(subject, GateTarget("fp32", "graph", source.onnx, {}))
    _choose(subject, precisions)
    return subject


def read_gate_record(record: Path) -> dict[str, Any]:
    """What a version's or a folder's record says; nothing where there is none. Raises `RepositoryError`."""
    try:
        said: dict[str, Any] = msgspec.json.decode(read_regular(record), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as exc:
        raise RepositoryError(f"{record}: {exc}") from exc
    return said


def _add(subject: Subject, candidate: GateTarget) -> None:
    if not candidate.path.is_file():
        subject.passed_over[candidate.precision] = f"{candidate.path.name} is missing"
        return
    try:
        data_files(candidate.path)
    except RepositoryError as exc:
        subject.passed_over[candidate.precision] = str(exc)
    else:
        subject.candidates.append(candidate)


def _add_plan(
    subject: Subject,
    folder: Path,
    precision: str,
    entry: dict[str, Any],
    hashes: dict[str, str],
    machine: Machine | None,
) -> None:
    try:
        plan = PlanFile(
            path=folder / entry["file"],
            precision=precision,
            gpu=entry["gpu"],
            compute_capability=entry["compute_capability"],
            tensorrt=entry["tensorrt"],
            buckets=tuple(entry["buckets"]),
            version_compatible=bool(entry.get("version_compatible")),
            promotable=True,  # an earlier verdict is no reason not to judge again
            reasons=(),
            sha256=hashes.get(entry["file"], ""),
        )
    except (KeyError, TypeError) as exc:
        raise RepositoryError(f"{subject.record}: plans.{precision}: {exc!r} is missing or no list") from exc
    reason = NO_MACHINE if machine is None else why_not(plan, machine) or _why_not_read(plan)
    if reason:
        subject.passed_over[precision] = reason
    else:
        subject.candidates.append(GateTarget(precision, "plan", plan.path, entry, plan.buckets))


def _why_not_read(plan: PlanFile) -> str | None:
    """As the repository says; a folder of plans alone lists no hashes."""
    return why_damaged(plan) if plan.sha256 else why_missing(plan.path)


def _choose(subject: Subject, precisions: tuple[str, ...] | None) -> None:
    if precisions is not None:
        there = {each.precision for each in subject.candidates}
        for precision in precisions:
            if precision not in there:
                why = subject.passed_over.get(precision, f"there are {', '.join(sorted(there)) or 'none'}")
                raise RepositoryError(f"{subject.name}: no {precision} to run: {why}; build one: streamd engine build")
        subject.candidates = [each for each in subject.candidates if each.precision in precisions]
    if not subject.candidates:
        reasons = "; ".join(f"{precision}: {why}" for precision, why in subject.passed_over.items())
        raise RepositoryError(f"{subject.name}: nothing of it can run here: {reasons or 'nothing is built'}")
