"""Lists the TensorRT plans of a version and chooses the one that this machine can run.

A plan is for one model of GPU and one TensorRT version. A plan that does not fit, was changed or was refused by the
accuracy gate is passed over with the reason; the version's graph can still serve. Loads no plan.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from streamd.core.errors import RepositoryError
from streamd.core.names import AUTO
from streamd.repository.conversion import (
    hash_file,
    is_plain_name,
    read_conversion,
    read_plan_infos,
    read_verdicts,
)
from streamd.repository.schema import EXACT_PRECISION, PLAN_SUFFIX, VERSION_RECORD, PlanInfo, RecordedVerdict
from streamd.repository.versions import EngineVersion

AUTO_ORDER = ("fp16", "bf16", "fp32")
"""The precisions that `auto` tries, in this order; it takes any other only if its plan is marked `preferred`."""


@dataclass(frozen=True)
class Machine:
    """The machine that plans must fit: the GPU's name, its compute capability ("9.0"), and the version of TensorRT.

    `lean` is true if the runtime is the lean one, which loads version-compatible plans only.
    """

    gpu: str
    compute_capability: str
    tensorrt: str
    lean: bool = False


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """One plan as a record lists it.

    `promotable` is the accuracy gate's verdict with its `reasons`; `validated` is false if the gate gave no verdict,
    and the plan is then promotable only in true fp32. `sha256` is empty if the record has no hash of the file.
    """

    path: Path
    precision: str
    gpu: str
    compute_capability: str
    tensorrt: str
    buckets: tuple[int, ...]
    version_compatible: bool
    promotable: bool
    reasons: tuple[str, ...]
    preferred: bool = False
    validated: bool = True
    sha256: str = ""


@dataclass(frozen=True)
class PlanChoice:
    """The plan to load, and the reason why each better one was passed over."""

    plan: PlanFile
    skip_reasons: tuple[str, ...] = ()


def read_plans(version: EngineVersion) -> list[PlanFile]:
    """Return the plans in the order of the record; raises `RepositoryError` if the record cannot be read."""
    infos = read_plan_infos(version.path)
    verdicts = read_verdicts(version.path)
    hashes = read_conversion(version.path).sha256
    plans = []
    for precision, info in infos.items():
        if not is_plain_name(info.file) or not info.file.endswith(PLAN_SUFFIX):
            raise RepositoryError(
                f"{version.path / VERSION_RECORD}: plans.{precision}.file is {info.file!r}, "
                f"expected a *{PLAN_SUFFIX} file of the version itself"
            )
        verdict = verdicts.get(precision, RecordedVerdict())
        plans.append(make_plan_file(version.path, precision, info, verdict, hashes.get(info.file, "")))
    return plans


def choose_plan(
    version: EngineVersion, precision: str, gpu: str, compute_capability: str, tensorrt: str, *, lean: bool = False
) -> PlanFile:
    """Return the plan to load here: that of `choose_plan_with_reasons`."""
    return choose_plan_with_reasons(version, precision, Machine(gpu, compute_capability, tensorrt, lean)).plan


def choose_plan_with_reasons(version: EngineVersion, precision: str, machine: Machine) -> PlanChoice:
    """Choose the plan to load here: that of the given precision, or with `auto` the best that fits.

    1. `auto` takes the plans marked `preferred` first, then fp16, bf16 and fp32, and only those that passed the gate.
    2. A plan of a precision that is requested by name may also be one that the gate never judged.

    The file of the plan is read once, for its SHA-256. Raises `RepositoryError` with the reason for each plan and the
    remedy.
    """
    plans = read_plans(version)
    reasons: list[str] = []
    for plan in _sort_candidates(plans, precision):
        reason = explain_misfit(plan, machine, is_requested=precision != AUTO) or explain_damage(plan)
        if reason is None:
            return PlanChoice(plan, tuple(reasons))
        reasons.append(f"{plan.precision}: {reason}")
    reasons += _explain_untried(version, plans, precision)
    requested = "" if precision == AUTO else f"{precision} "
    raise RepositoryError(
        f"{version.path}: no {requested}plan for {machine.gpu} with TensorRT {machine.tensorrt}: "
        f"{'; '.join(reasons) or 'none is built'}; build one here: {_make_build_command(version, precision)}"
    )


def explain_misfit(plan: PlanFile, machine: Machine, *, is_requested: bool = False) -> str | None:
    """Return why a plan may not run on this machine, by its record, or `None` if it may.

    `is_requested`: its precision was requested by name, so that it need not have been judged.
    """
    if plan.gpu != machine.gpu or plan.compute_capability != machine.compute_capability:
        return (
            f"built for {plan.gpu} (compute capability {plan.compute_capability}), "
            f"here is {machine.gpu} ({machine.compute_capability})"
        )
    if reason := _explain_version_misfit(plan, machine):
        return reason
    if not plan.validated and not plan.promotable and is_requested:
        return None
    if not plan.promotable:
        return f"the accuracy gate did not let it through: {', '.join(plan.reasons) or 'no reason given'}"
    return None


def explain_damage(plan: PlanFile) -> str | None:
    """Return why a plan's file may not be loaded, or `None` if it is as it was built. Reads the whole file."""
    if reason := explain_missing_file(plan.path):
        return reason
    if not plan.sha256:
        return f"{VERSION_RECORD} has no SHA-256 of {plan.path.name}"
    found = hash_file(plan.path)
    if found != plan.sha256:
        return f"{plan.path.name} changed since it was built (SHA-256 {found}, expected {plan.sha256})"
    return None


def explain_missing_file(path: Path) -> str | None:
    """Return why there is no file to load, or `None` if there is one."""
    if path.is_symlink() or not path.is_file():
        return f"{path.name} is missing"
    return f"{path.name} is empty" if path.stat().st_size == 0 else None


def find_unlisted_plans(version: EngineVersion) -> list[Path]:
    """Return the plan files in the folder that are not listed; they have no hash, so they are never loaded."""
    listed = {plan.path.name for plan in read_plans(version)}
    return [path for path in sorted(version.path.glob(f"*{PLAN_SUFFIX}")) if path.name not in listed]


def make_plan_file(
    folder: Path, precision: str, info: PlanInfo, verdict: RecordedVerdict, sha256: str = ""
) -> PlanFile:
    """Return a plan of a folder from its entry in the record and its verdict."""
    validated = verdict.promotable is not None
    is_exact = precision == EXACT_PRECISION and not info.tf32
    promotable = verdict.promotable if verdict.promotable is not None else is_exact
    unjudged = () if validated or promotable else ("never validated (streamd engine validate)",)
    return PlanFile(
        path=folder / info.file,
        precision=precision,
        gpu=info.gpu,
        compute_capability=info.compute_capability,
        tensorrt=info.tensorrt,
        buckets=info.buckets,
        version_compatible=info.version_compatible,
        promotable=promotable,
        reasons=(*verdict.reasons, *unjudged),
        preferred=info.preferred,
        validated=validated,
        sha256=sha256,
    )


def _sort_candidates(plans: list[PlanFile], precision: str) -> list[PlanFile]:
    """Return the plans that may be chosen for a precision, the best first."""
    if precision != AUTO:
        return [plan for plan in plans if plan.precision == precision]
    usual = {name: place for place, name in enumerate(AUTO_ORDER)}
    able = [plan for plan in plans if plan.preferred or plan.precision in usual]
    return sorted(able, key=lambda plan: (not plan.preferred, usual.get(plan.precision, len(usual)), plan.precision))


def _explain_untried(version: EngineVersion, plans: list[PlanFile], precision: str) -> list[str]:
    """Return why the plans that `_sort_candidates` omits were not tried."""
    if precision != AUTO:
        others = [plan.precision for plan in plans if plan.precision != precision]
        reasons = [f"there are plans in {', '.join(others)}"] if others else []
    else:
        tried = _sort_candidates(plans, AUTO)
        untried = [plan.precision for plan in plans if plan not in tried]
        reasons = [f"{name}: not marked as preferred; request it by name" for name in untried]
    unlisted = [path.name for path in find_unlisted_plans(version)]
    return reasons + [f"{name}: {VERSION_RECORD} does not list it, so it is never loaded" for name in unlisted]


def _explain_version_misfit(plan: PlanFile, machine: Machine) -> str | None:
    """Return why the installed TensorRT cannot load a plan, or `None` if it can."""
    built, here = _parse_version(plan.tensorrt), _parse_version(machine.tensorrt)
    if len(built) < 2 or len(here) < 2:
        return f"built by TensorRT {plan.tensorrt!r}, here is {machine.tensorrt!r}: not both are versions"
    if machine.lean and not plan.version_compatible:
        return "here is the lean runtime, which loads version-compatible plans only"
    # "8.6.1" and "8.6.1.6" are the same version, one of them given more exactly.
    known = min(len(built), len(here))
    if built[:known] == here[:known]:
        return None
    if not plan.version_compatible:
        return f"built by TensorRT {plan.tensorrt}, here is {machine.tensorrt}"
    if here < built:
        return f"built by TensorRT {plan.tensorrt}, which is newer than {machine.tensorrt} here"
    return None


def _parse_version(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: "8.6.1.post1" gives (8, 6, 1)."""
    match = re.match(r"\d+(\.\d+)*(?![\w])", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _make_build_command(version: EngineVersion, precision: str) -> str:
    flag = "" if precision == AUTO else f" --precision {precision}"
    return f"streamd engine build --version {version.path}{flag}"
