"""Finds what can be opened (an ONNX file, an engine version, a folder of plans, one plan) and the plan that fits."""

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from streamd.core.errors import BackendUnavailableError, RepositoryError
from streamd.core.names import AUTO
from streamd.regular_files import read_regular
from streamd.repository.conversion import hash_graph
from streamd.repository.external import find_data_files
from streamd.repository.plans import AUTO_ORDER, Machine, PlanFile, choose_plan, explain_misfit, make_plan_file
from streamd.repository.schema import EXACT_PRECISION, PLAN_SUFFIX, PLANS_RECORD, PlansRecord, RecordedVerdict
from streamd.repository.versions import EngineVersion, load_version


@dataclass(frozen=True)
class ChosenPlan:
    """A plan to load; no buckets where nothing says which it has."""

    path: Path
    precision: str
    buckets: tuple[int, ...] | None = None
    version_compatible: bool = True


@dataclass(frozen=True)
class EngineSource:
    """The files of a network: a graph, plans, or both."""

    path: Path
    graph: Path | None = None
    version: EngineVersion | None = None
    plans: Path | None = None
    """A folder with a record, or one plan without."""

    @property
    def has_memory(self) -> bool:
        """Whether it is a version that asks for a memory."""
        return self.version is not None and self.version.contract.memory_length > 0

    def find_graph(self, precision: str) -> tuple[Path, str]:
        """The graph to run as it is, and its precision; raises `BackendUnavailableError` with the way out."""
        if precision not in (AUTO, EXACT_PRECISION):
            kept = [place / f"model_{precision}.onnx" for place in (self.plans, self.path) if place and place.is_dir()]
            for path in kept:
                if path.is_file():
                    find_data_files(path, allow_other_formats=True)
                    return path, precision
            raise BackendUnavailableError(
                f"{self.path}: no graph in {precision}: expected {EXACT_PRECISION}, or model_{precision}.onnx beside "
                "its plan (streamd engine build --keep-graphs)"
            )
        if self.graph is None:
            raise BackendUnavailableError(f"{self.path}: plans alone, no graph: give the ONNX file, and plans=")
        return self.graph, EXACT_PRECISION

    def find_plan(self, precision: str, machine: Machine) -> ChosenPlan:
        """The plan to load on this machine; raises `BackendUnavailableError` with the reason for each."""
        if self.plans is not None and self.plans.is_file():
            return ChosenPlan(self.plans, self.plans.stem.removeprefix("model_"))
        if self.plans is not None:
            return _chosen(_loose_plan(self.plans, self.graph, precision, machine))
        if self.version is None:
            raise BackendUnavailableError(
                f"{self.path}: a graph without plans: streamd engine build --onnx {self.path} --plans-only DIR, "
                "and plans=DIR"
            )
        try:
            here = (machine.gpu, machine.compute_capability, machine.tensorrt)
            return _chosen(choose_plan(self.version, precision, *here, lean=machine.lean))
        except RepositoryError as exc:
            raise BackendUnavailableError(str(exc)) from exc


def find_source(path: Path, plans: Path | None = None) -> EngineSource:
    """Look at what a path is; raises `RepositoryError` with what was expected.

    The files in which a graph keeps weights must lie in its folder, whatever a runtime would take.
    """
    source = _find_source(path, plans)
    if source.graph is not None:
        find_data_files(source.graph, allow_other_formats=True)
    return source


def _find_source(path: Path, plans: Path | None) -> EngineSource:
    for each in (path, plans):
        if each is not None and not each.exists():
            raise RepositoryError(f"{each}: no such file or folder; expected an ONNX file, a version or plans")
    if plans is not None and plans.is_dir() and not (plans / PLANS_RECORD).is_file():
        raise RepositoryError(f"{plans}: has no {PLANS_RECORD}; expected what streamd engine build --plans-only wrote")
    if path.is_file():
        if path.suffix == PLAN_SUFFIX:
            return EngineSource(path, plans=path)
        return EngineSource(path, graph=path, plans=plans)
    if (path / "config.json").is_file():
        version = load_version(path)
        return EngineSource(path, version.onnx, version, plans)
    graph = path / "model.onnx" if (path / "model.onnx").is_file() else None
    own = path if (path / PLANS_RECORD).is_file() else None
    if graph is None and own is None:
        raise RepositoryError(f"{path}: has no config.json, no {PLANS_RECORD} and no model.onnx; expected one of them")
    return EngineSource(path, graph, None, plans or own)


def _loose_plan(folder: Path, graph: Path | None, precision: str, machine: Machine) -> PlanFile:
    """Choose a plan of a plain folder: that of the precision, or with `auto` a validated one, then true fp32."""
    record = _read_record(folder / PLANS_RECORD)
    plans = {name: _plan_file(folder, name, record) for name in record.plans}
    reasons = []
    for name in AUTO_ORDER if precision == AUTO else (precision,):
        reason = _why_passed_over(plans.get(name), machine, precision != AUTO)
        if reason is None and graph is not None and record.plans[name].source_onnx not in ("", hash_graph(graph)):
            reason = f"built from another graph than {graph}"
        if reason is None:
            return plans[name]
        reasons.append(f"{name}: {reason}")
    raise BackendUnavailableError(
        f"{folder}: no plan to load: {'; '.join(reasons)}; there are {sorted(plans)}: ask for one by precision=, or "
        "build one: streamd engine build --plans-only"
    )


def _why_passed_over(plan: PlanFile | None, machine: Machine, is_requested: bool) -> str | None:
    if plan is None:
        return "not built"
    if reason := explain_misfit(plan, machine, is_requested=is_requested):
        return reason
    return None if plan.path.is_file() else f"{plan.path.name} is missing"


def _plan_file(folder: Path, precision: str, record: PlansRecord) -> PlanFile:
    info = record.plans[precision]
    plan = make_plan_file(folder, precision, info, record.validation.get(precision, RecordedVerdict()))
    return replace(plan, path=folder / Path(info.file).name)  # whatever the record says, one of this folder


def _read_record(path: Path) -> PlansRecord:
    try:
        return msgspec.json.decode(read_regular(path), type=PlansRecord)
    except OSError as exc:
        raise RepositoryError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except msgspec.DecodeError as exc:
        raise RepositoryError(f"{path}: {exc}") from exc


def _chosen(plan: PlanFile) -> ChosenPlan:
    return ChosenPlan(plan.path, plan.precision, plan.buckets, plan.version_compatible)
