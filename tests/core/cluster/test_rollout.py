"""Tests `streamd/core/cluster/rollout.py`: a change reaches all nodes or none, whoever fails or joins."""

from collections.abc import Callable, Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.rollout import (
    MAX_UNDOABLE,
    SWITCH_SECONDS,
    WARM_SECONDS,
    CandidateRef,
    ChangePhase,
    NodeReport,
    NodeState,
    VersionChange,
    VersionChangeKind,
    VersionPlan,
    VersionRef,
    advance_change,
    find_serving_problem,
    propose_change,
)
from streamd.core.errors import ReloadError

ONE, TWO, THREE = (VersionRef(f"v{number}", f"digest{number}") for number in (1, 2, 3))
NODES = ("a", "b", "c")


def begin(
    plan: VersionPlan, version: VersionRef | None, kind: VersionChangeKind = VersionChangeKind.PROMOTE
) -> VersionPlan:
    return propose_change(plan, VersionChange(id="x", kind=kind, version=version, proposer="a", share=0.5))


def report(state: NodeState, reason: str = "", change: str = "x") -> NodeReport:
    return NodeReport(change=change, state=state, reason=reason)


def finish(plan: VersionPlan) -> VersionPlan:
    """Let all nodes warm and switch."""
    for state in (NodeState.WARM, NodeState.SWITCHED):
        following = advance_change(plan, dict.fromkeys(NODES, report(state)), NODES, 0.0)
        assert following is not None
        plan = following
    assert plan.change is not None
    assert plan.change.phase is ChangePhase.DONE
    return plan


def test_all_switch_once_all_are_warm() -> None:
    plan = begin(VersionPlan(serving=ONE), TWO)
    some = {"a": report(NodeState.WARM), "b": report(NodeState.WARM)}
    assert advance_change(plan, some, NODES, 0.0) is None
    decided = advance_change(plan, {**some, "c": report(NodeState.WARM)}, NODES, 0.0)
    assert decided is not None
    assert decided.change is not None
    assert (decided.serving, decided.earlier, decided.change.phase) == (TWO, (ONE,), ChangePhase.SWITCHING)


def test_a_node_that_cannot_load_stops_the_change_everywhere_and_is_named() -> None:
    plan = begin(VersionPlan(serving=ONE), TWO)
    reports = {"a": report(NodeState.WARM), "b": report(NodeState.FAILED, "no folder")}
    stopped = advance_change(plan, reports, NODES, 0.0)
    assert stopped is not None
    assert stopped.change is not None
    assert (stopped.serving, stopped.earlier) == (ONE, ())
    assert (stopped.change.phase, stopped.change.reason) == (ChangePhase.STOPPED, "b: no folder")
    assert advance_change(stopped, reports, NODES, 0.0) is None
    assert (
        propose_change(stopped, VersionChange(id="y", kind=VersionChangeKind.PROMOTE, version=TWO)).change is not None
    )


def test_a_report_of_an_earlier_change_counts_for_nothing() -> None:
    plan = begin(VersionPlan(serving=ONE), TWO)
    assert advance_change(plan, dict.fromkeys(NODES, report(NodeState.WARM, change="w")), NODES, 0.0) is None
    assert advance_change(plan, dict.fromkeys(NODES, report(NodeState.FAILED, change="w")), NODES, 0.0) is None


def test_a_node_that_dies_is_not_waited_for_and_one_that_joins_is() -> None:
    plan = begin(VersionPlan(serving=ONE), TWO)
    reports = {"a": report(NodeState.WARM), "b": report(NodeState.WARM)}
    assert advance_change(plan, reports, ("a", "b"), 0.0) is not None
    assert advance_change(plan, reports, ("a", "b", "new"), 0.0) is None
    assert advance_change(plan, reports, (), 0.0) is None, "a node that hears no other one decides nothing"


def test_a_change_that_takes_too_long_stops_before_the_decision_and_ends_after_it() -> None:
    plan = begin(VersionPlan(serving=ONE), TWO)
    reports = {"a": report(NodeState.WARM), "b": report(NodeState.WARM)}
    assert advance_change(plan, reports, NODES, WARM_SECONDS) is None
    stopped = advance_change(plan, reports, NODES, WARM_SECONDS + 1)
    assert stopped is not None
    assert stopped.change is not None
    assert stopped.change.phase is ChangePhase.STOPPED
    assert stopped.change.reason.endswith(": c")
    decided = advance_change(plan, dict.fromkeys(NODES, report(NodeState.WARM)), NODES, 0.0)
    assert decided is not None
    switched = {"a": report(NodeState.SWITCHED), "b": report(NodeState.FAILED, "no lane"), "c": report(NodeState.WARM)}
    assert advance_change(decided, switched, NODES, SWITCH_SECONDS) is None
    done = advance_change(decided, switched, NODES, SWITCH_SECONDS + 1)
    assert done is not None
    assert done.change is not None
    assert (done.serving, done.change.phase) == (TWO, ChangePhase.DONE)
    assert done.change.reason == "without b: no lane; c: not switched within 60 s"


def test_a_second_change_is_refused_while_one_runs() -> None:
    plan = begin(VersionPlan(serving=ONE), TWO)
    with pytest.raises(ReloadError, match=r"v2 is being changed to.*promote at a, warming.*one change at a time"):
        begin(plan, THREE)


def test_rollbacks_undo_promotions_one_by_one() -> None:
    plan = finish(begin(finish(begin(VersionPlan(serving=ONE), TWO)), THREE))
    assert (plan.serving, plan.earlier) == (THREE, (ONE, TWO))
    plan = finish(begin(plan, TWO, VersionChangeKind.ROLLBACK))
    assert (plan.serving, plan.earlier) == (TWO, (ONE,))
    plan = finish(begin(plan, ONE, VersionChangeKind.ROLLBACK))
    assert (plan.serving, plan.earlier) == (ONE, ())


def test_a_promotion_of_what_serves_adds_nothing_to_undo_and_the_stack_is_bounded() -> None:
    plan = finish(begin(VersionPlan(serving=ONE), ONE))
    assert (plan.serving, plan.earlier) == (ONE, ())
    for number in range(MAX_UNDOABLE + 5):
        plan = finish(begin(plan, VersionRef(f"w{number}", "d")))
    assert len(plan.earlier) == MAX_UNDOABLE


def test_a_candidate_is_a_change_too_and_ends_when_it_is_promoted() -> None:
    plan = finish(begin(VersionPlan(serving=ONE), TWO, VersionChangeKind.CANDIDATE))
    assert (plan.serving, plan.candidate) == (ONE, CandidateRef(TWO, 0.5, False))
    assert finish(begin(plan, None, VersionChangeKind.END_CANDIDATE)).candidate is None
    assert finish(begin(plan, THREE)).candidate == plan.candidate
    assert finish(begin(plan, TWO)).candidate is None


def test_a_node_is_told_how_it_differs() -> None:
    plan = VersionPlan(serving=ONE)
    assert find_serving_problem(plan, ONE) == ""
    assert find_serving_problem(plan, TWO) == "v2 serves here, and v1 in the cluster"
    assert "another network" in find_serving_problem(plan, VersionRef("v1", "other"))


class Nodes:
    """Nodes that see the plan late, warm or fail, die, join, and all move the change on by compare-and-set."""

    def __init__(self) -> None:
        self.plan = begin(VersionPlan(serving=ONE), TWO)
        self.revision = 0
        self.reports: dict[str, NodeReport] = {}
        self.alive = set(NODES)
        self.seen: dict[str, tuple[int, VersionPlan, dict[str, NodeReport], set[str]]] = {}
        self.serving = dict.fromkeys((*NODES, "d"), ONE)
        self.warmed: set[str] = set()

    def look(self, node: str) -> None:
        self.seen[node] = (self.revision, self.plan, dict(self.reports), set(self.alive))

    def warm(self, node: str, state: NodeState) -> None:
        if node in self.alive and node in self.seen and node not in self.reports:
            self.reports[node] = report(state, "broken" if state is NodeState.FAILED else "")
            self.warmed |= {node} if state is NodeState.WARM else set()

    def follow(self, node: str) -> None:
        """Switch as the plan that the node has seen says."""
        if node in self.seen and node in self.alive:
            plan = self.seen[node][1]
            if plan.serving == TWO:
                self.serving[node] = TWO
                self.reports[node] = report(NodeState.SWITCHED)

    def move(self, node: str, seconds: float) -> None:
        if node not in self.seen or node not in self.alive:
            return
        revision, plan, reports, alive = self.seen[node]
        following = advance_change(plan, reports, alive, seconds)
        if following is not None and revision == self.revision:
            self._check_step(following)
            self.plan, self.revision = following, self.revision + 1

    def _check_step(self, following: VersionPlan) -> None:
        before, after = self.plan.change, following.change
        assert before is not None
        assert after is not None
        allowed: Mapping[ChangePhase, set[ChangePhase]] = {
            ChangePhase.WARMING: {ChangePhase.SWITCHING, ChangePhase.STOPPED},
            ChangePhase.SWITCHING: {ChangePhase.DONE},
        }
        assert after.phase in allowed[before.phase]
        if after.phase is ChangePhase.STOPPED:
            assert following.serving == ONE
        if before.phase is ChangePhase.SWITCHING:
            assert msgspec.structs.replace(following, change=None) == msgspec.structs.replace(self.plan, change=None)


steps = st.lists(
    st.tuples(
        st.sampled_from(("look", "warm", "fail", "follow", "move", "move late", "die", "join")),
        st.sampled_from((*NODES, "d")),
    ),
    max_size=60,
)


@given(steps)
def test_none_switches_without_the_decision_and_a_stop_changes_nothing(given_steps: list[tuple[str, str]]) -> None:
    nodes = Nodes()
    actions: Mapping[str, Callable[[str], object]] = {
        "look": nodes.look,
        "warm": lambda node: nodes.warm(node, NodeState.WARM),
        "fail": lambda node: nodes.warm(node, NodeState.FAILED),
        "follow": nodes.follow,
        "move": lambda node: nodes.move(node, 0.0),
        "move late": lambda node: nodes.move(node, WARM_SECONDS + 1),
        "die": nodes.alive.discard,
        "join": lambda node: nodes.alive.add("d"),
    }
    for step, node in given_steps:
        actions[step](node)
        change = nodes.plan.change
        assert change is not None
        if change.phase in (ChangePhase.WARMING, ChangePhase.STOPPED):
            assert set(nodes.serving.values()) == {ONE}
        else:
            assert nodes.plan.serving == TWO
            assert nodes.warmed, "somebody could load it"
