"""The TensorRT plans of a version, and which of them this machine can run.

A plan is of one GPU and one TensorRT version. One that does not fit, was changed or was refused by the accuracy gate
is passed over with the reason; the version's graph serves all the same.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from streamd.core.errors import RepositoryError
from streamd.core.names import AUTO
from streamd.repository.conversion import (
    PLAN_SUFFIX,
    PlanInfo,
    RecordedVerdict,
    hash_file,
    is_plain_name,
    read_conversion,
    read_plan_infos,
    read_verdicts,
)
from streamd.repository.versions import EngineVersion

AUTO_ORDER = ("fp16", "bf16", "fp32")
"""What auto tries in this order; any other precision only where its plan is marked `preferred`."""

EXACT_PRECISION = "fp32"
"""Without TF32 it needs no verdict: it computes what the graph was checked for when it was exported."""


@dataclass(frozen=True)
class Machine:
    """The machine that plans must fit: the GPU's name, its compute capability ("9.0"), and the version of TensorRT.

    `lean` is true for the lean runtime, which loads version-compatible plans only.
    """

    gpu: str
    compute_capability: str
    tensorrt: str
    lean: bool = False


@dataclass(frozen=True)
class PlanFile:
    """One plan as `conversion_info.json` lists it.

    `promotable` is the accuracy gate's verdict with its `reasons`; `validated` is false where it gave none, and the
    plan is then promotable only in true fp32. `sha256` is empty where none is listed.
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
    """The plan to load, and why each better one was passed over."""

    plan: PlanFile
    passed_over: tuple[str, ...] = ()


def read_plans(version: EngineVersion) -> list[PlanFile]:
    """Return the plans that are listed, as they are listed; raises `RepositoryError` where the list is no list."""
    infos = read_plan_infos(version.path)
    verdicts = read_verdicts(version.path)
    hashes = read_conversion(version.path).sha256
    plans = []
    for precision, info in infos.items():
        if not is_plain_name(info.file) or not info.file.endswith(PLAN_SUFFIX):
            raise RepositoryError(
                f"{version.path / 'conversion_info.json'}: plans.{precision}.file is {info.file!r}, "
                f"expected a *{PLAN_SUFFIX} file of the version itself"
            )
        verdict = verdicts.get(precision, RecordedVerdict())
        plans.append(make_plan_file(version.path, precision, info, verdict, hashes.get(info.file, "")))
    return plans


def choose_plan(
    version: EngineVersion, precision: str, gpu: str, compute_capability: str, tensorrt: str, *, lean: bool = False
) -> PlanFile:
    """Return the plan to load here: `choose_plan_with_reasons` without its reasons."""
    return choose_plan_with_reasons(version, precision, Machine(gpu, compute_capability, tensorrt, lean)).plan


def choose_plan_with_reasons(version: EngineVersion, precision: str, machine: Machine) -> PlanChoice:
    """Choose the plan to load here: of that precision, or with `auto` the best that fits.

    Auto takes those marked `preferred` first, then fp16, bf16, fp32, and only what the accuracy gate let through; asked
    for by name, a plan may also be one that was never judged. Its file is read through once, for its SHA-256. Raises
    `RepositoryError` with the reason for each plan, and the way out.
    """
    plans = read_plans(version)
    passed_over: list[str] = []
    for plan in _in_order(plans, precision):
        reason = explain_misfit(plan, machine, asked_for=precision != AUTO) or explain_damage(plan)
        if reason is None:
            return PlanChoice(plan, tuple(passed_over))
        passed_over.append(f"{plan.precision}: {reason}")
    passed_over += _never_tried(version, plans, precision)
    wanted = "" if precision == AUTO else f"{precision} "
    raise RepositoryError(
        f"{version.path}: no {wanted}plan for {machine.gpu} with TensorRT {machine.tensorrt}: "
        f"{'; '.join(passed_over) or 'none is built'}; build one here: {_way_out(version, precision)}"
    )


def explain_misfit(plan: PlanFile, machine: Machine, *, asked_for: bool = False) -> str | None:
    """Return why a plan may not run on this machine, by its record, or `None` if it may."""
    if plan.gpu != machine.gpu or plan.compute_capability != machine.compute_capability:
        return (
            f"built for {plan.gpu} (compute capability {plan.compute_capability}), "
            f"here is {machine.gpu} ({machine.compute_capability})"
        )
    if reason := _why_not_loaded(plan, machine):
        return reason
    if not plan.validated and not plan.promotable and asked_for:
        return None
    if not plan.promotable:
        return f"the accuracy gate did not let it through: {', '.join(plan.reasons) or 'no reason given'}"
    return None


def explain_damage(plan: PlanFile) -> str | None:
    """Return why a plan's file may not be loaded, or `None` if it is as it was built. Reads the whole file."""
    if reason := explain_missing_file(plan.path):
        return reason
    if not plan.sha256:
        return f"conversion_info.json has no SHA-256 of {plan.path.name}"
    found = hash_file(plan.path)
    if found != plan.sha256:
        return f"{plan.path.name} changed since it was built (SHA-256 {found}, expected {plan.sha256})"
    return None


def explain_missing_file(path: Path) -> str | None:
    """Return why no file can be loaded, or `None` if one is there."""
    if path.is_symlink() or not path.is_file():
        return f"{path.name} is missing"
    return f"{path.name} is empty" if path.stat().st_size == 0 else None


def find_unlisted_plans(version: EngineVersion) -> list[Path]:
    """Return the plan files in the folder that are not listed: nothing vouches for them, so none is ever loaded."""
    listed = {plan.path.name for plan in read_plans(version)}
    return [path for path in sorted(version.path.glob(f"*{PLAN_SUFFIX}")) if path.name not in listed]


def make_plan_file(
    folder: Path, precision: str, info: PlanInfo, verdict: RecordedVerdict, sha256: str = ""
) -> PlanFile:
    """Return one plan of a folder's record."""
    validated = verdict.promotable is not None
    exact = precision == EXACT_PRECISION and not info.tf32
    promotable = verdict.promotable if verdict.promotable is not None else exact
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


def _in_order(plans: list[PlanFile], precision: str) -> list[PlanFile]:
    if precision != AUTO:
        return [plan for plan in plans if plan.precision == precision]
    usual = {name: place for place, name in enumerate(AUTO_ORDER)}
    able = [plan for plan in plans if plan.preferred or plan.precision in usual]
    return sorted(able, key=lambda plan: (not plan.preferred, usual.get(plan.precision, len(usual)), plan.precision))


def _never_tried(version: EngineVersion, plans: list[PlanFile], precision: str) -> list[str]:
    """Return why the plans that `_in_order` omits are no candidates at all."""
    if precision != AUTO:
        others = [plan.precision for plan in plans if plan.precision != precision]
        said = [f"there are plans in {', '.join(others)}"] if others else []
    else:
        tried = _in_order(plans, AUTO)
        said = [f"{plan.precision}: not marked as preferred; ask for it by name" for plan in plans if plan not in tried]
    unlisted = [
        f"{path.name}: conversion_info.json does not list it, so it is never loaded"
        for path in find_unlisted_plans(version)
    ]
    return said + unlisted


def _why_not_loaded(plan: PlanFile, machine: Machine) -> str | None:
    built, here = _numbers(plan.tensorrt), _numbers(machine.tensorrt)
    if len(built) < 2 or len(here) < 2:
        return f"built by TensorRT {plan.tensorrt!r}, here is {machine.tensorrt!r}: not both are versions"
    if machine.lean and not plan.version_compatible:
        return "here is the lean runtime, which loads version-compatible plans only"
    told = min(len(built), len(here))
    if built[:told] == here[:told]:
        return None
    if not plan.version_compatible:
        return f"built by TensorRT {plan.tensorrt}, here is {machine.tensorrt}"
    if here < built:
        return f"built by TensorRT {plan.tensorrt}, which is newer than {machine.tensorrt} here"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: "8.6.1.post1" gives (8, 6, 1)."""
    match = re.match(r"\d+(\.\d+)*(?![\w])", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _way_out(version: EngineVersion, precision: str) -> str:
    wanted = "" if precision == AUTO else f" --precision {precision}"
    return f"streamd engine build --version {version.path}{wanted}"
