"""The version that a cluster serves, and a change of it: every node warms first, then all switch, or none does.

    WARMING → SWITCHING → DONE
    WARMING → STOPPED

Any node moves a change on, by compare-and-set of the plan, so no node's death stops it. The step to SWITCHING is the
decision: it is one write, after which a node that was away switches when it is back. Has no clock and no files.
"""

from collections.abc import Collection, Mapping
from enum import Enum

import msgspec

from streamd.core.errors import ReloadError

MAX_UNDOABLE = 50
WARM_SECONDS = 600.0
"""The time in which each node must have warmed a version, else the change stops."""

SWITCH_SECONDS = 60.0
"""The time in which each node must have switched, else the change ends without it."""


class VersionChangeKind(Enum):
    """The kinds of changes that an operator wants."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    CANDIDATE = "candidate"
    END_CANDIDATE = "end-candidate"


class ChangePhase(Enum):
    """The stages of a change."""

    WARMING = "warming"
    SWITCHING = "switching"
    DONE = "done"
    STOPPED = "stopped"


class NodeState(Enum):
    """The stages of one node in a change."""

    WARM = "warm"
    FAILED = "failed"
    SWITCHED = "switched"


class VersionRef(msgspec.Struct, frozen=True):
    """A version by its name and the digest of its network: one name may not mean two networks."""

    name: str
    digest: str


class CandidateRef(msgspec.Struct, frozen=True):
    """A candidate, and the share of the servers that it forecasts or shadows."""

    version: VersionRef
    share: float = 0.0
    shadow: bool = False


class VersionChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `version` is the one to load, `None` for the end of a candidate; `when` is epoch seconds."""

    id: str
    kind: VersionChangeKind
    version: VersionRef | None = None
    share: float = 0.0
    shadow: bool = False
    who: str = ""
    why: str = ""
    when: float = 0.0
    proposer: str = ""
    """The node that was asked."""
    phase: ChangePhase = ChangePhase.WARMING
    reason: str = ""
    """Why it was stopped, or which nodes it ended without."""

    @property
    def is_running(self) -> bool:
        """Whether no other change can begin."""
        return self.phase in (ChangePhase.WARMING, ChangePhase.SWITCHING)


class VersionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The versions that all nodes serve; `earlier` is an undo stack, its last is the version before."""

    serving: VersionRef
    earlier: tuple[VersionRef, ...] = ()
    candidate: CandidateRef | None = None
    change: VersionChange | None = None
    """The newest change, also when it has ended."""


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one node on the newest change that it knows, and on itself."""

    change: str = ""
    state: NodeState | None = None
    reason: str = ""
    serving: str = ""
    candidate: str | None = None
    problem: str = ""
    """Why it does not serve the cluster's version; empty if it does."""


def propose_change(plan: VersionPlan, change: VersionChange) -> VersionPlan:
    """Return the plan with a change that begins; raises `ReloadError` while another one runs."""
    running = plan.change
    if running is not None and running.is_running:
        name = "the end of the candidate" if running.version is None else running.version.name
        raise ReloadError(
            f"{name} is being changed to in the whole cluster ({running.kind.value} at {running.proposer}, "
            f"{running.phase.value}): one change at a time; try again later"
        )
    began = msgspec.structs.replace(change, phase=ChangePhase.WARMING, reason="")
    return msgspec.structs.replace(plan, change=began)


def advance_change(
    plan: VersionPlan, reports: Mapping[str, NodeReport], nodes: Collection[str], seconds: float
) -> VersionPlan | None:
    """Return the next plan, `None` if there is nothing to do.

    `nodes` are those that must take part: they live and serve. `seconds` is the time that the caller has seen the
    change in its phase.
    """
    change = plan.change
    if change is None or not change.is_running:
        return None
    states = {node: _find_state(reports.get(node), change.id) for node in nodes}
    if change.phase is ChangePhase.WARMING:
        return _advance_warming(plan, change, states, reports, seconds)
    return _advance_switching(plan, change, states, reports, seconds)


def _find_state(report: NodeReport | None, change: str) -> NodeState | None:
    return report.state if report is not None and report.change == change else None


def _advance_warming(
    plan: VersionPlan,
    change: VersionChange,
    states: Mapping[str, NodeState | None],
    reports: Mapping[str, NodeReport],
    seconds: float,
) -> VersionPlan | None:
    failed = sorted(node for node, state in states.items() if state is NodeState.FAILED)
    if failed:
        reasons = "; ".join(f"{node}: {reports[node].reason}" for node in failed)
        return _end(plan, change, ChangePhase.STOPPED, reasons)
    late = sorted(node for node, state in states.items() if state is None)
    if not late and states:
        return _decide(plan, change)
    if seconds > WARM_SECONDS:
        names = ", ".join(late) or "no node"
        return _end(plan, change, ChangePhase.STOPPED, f"not warm within {WARM_SECONDS:g} s: {names}")
    return None


def _advance_switching(
    plan: VersionPlan,
    change: VersionChange,
    states: Mapping[str, NodeState | None],
    reports: Mapping[str, NodeReport],
    seconds: float,
) -> VersionPlan | None:
    missing = sorted(node for node, state in states.items() if state is not NodeState.SWITCHED)
    if not missing:
        return _end(plan, change, ChangePhase.DONE, "")
    if seconds <= SWITCH_SECONDS and any(states[node] is not NodeState.FAILED for node in missing):
        return None
    reasons = (f"{node}: {_name_reason(reports.get(node), change.id)}" for node in missing)
    return _end(plan, change, ChangePhase.DONE, f"without {'; '.join(reasons)}")


def _name_reason(report: NodeReport | None, change: str) -> str:
    has_failed = report is not None and report.change == change and report.state is NodeState.FAILED
    return report.reason if report is not None and has_failed else f"not switched within {SWITCH_SECONDS:g} s"


def _end(plan: VersionPlan, change: VersionChange, phase: ChangePhase, reason: str) -> VersionPlan:
    return msgspec.structs.replace(plan, change=msgspec.structs.replace(change, phase=phase, reason=reason))


def _decide(plan: VersionPlan, change: VersionChange) -> VersionPlan:
    """Return the plan that says what serves from now on."""
    switching = msgspec.structs.replace(change, phase=ChangePhase.SWITCHING)
    serving, earlier, candidate = plan.serving, plan.earlier, plan.candidate
    match change.kind:
        case VersionChangeKind.CANDIDATE:
            assert change.version is not None, "a candidate is a version"
            candidate = CandidateRef(change.version, change.share, change.shadow)
        case VersionChangeKind.END_CANDIDATE:
            candidate = None
        case VersionChangeKind.PROMOTE | VersionChangeKind.ROLLBACK:
            assert change.version is not None, "a version serves"
            serving, earlier = _serve(plan, change.kind, change.version)
            if candidate is not None and candidate.version.name == serving.name:
                candidate = None
    return VersionPlan(serving=serving, earlier=earlier, candidate=candidate, change=switching)


def _serve(
    plan: VersionPlan, kind: VersionChangeKind, version: VersionRef
) -> tuple[VersionRef, tuple[VersionRef, ...]]:
    if kind is VersionChangeKind.ROLLBACK:
        return version, plan.earlier[:-1]
    if version == plan.serving:
        return version, plan.earlier
    return version, (*plan.earlier, plan.serving)[-MAX_UNDOABLE:]


def find_serving_problem(plan: VersionPlan, serving: VersionRef) -> str:
    """Return why a node that serves this does not serve what the cluster does; empty if it does."""
    if serving.name != plan.serving.name:
        return f"{serving.name} serves here, and {plan.serving.name} in the cluster"
    if serving.digest != plan.serving.digest:
        return (
            f"{serving.name} has another network here than in the cluster: its digest is {serving.digest[:12]}, "
            f"expected {plan.serving.digest[:12]}"
        )
    return ""
