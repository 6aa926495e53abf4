"""This node's part in the changes of its cluster's version: warms, reports, switches, and gets there if it was away."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from streamd.cluster.log import LogAwayError
from streamd.cluster.versions.node_versions import NodeVersions
from streamd.cluster.versions.version_plans import VersionPlans
from streamd.core.cluster.rollout import (
    CandidateRef,
    ChangePhase,
    NodeReport,
    NodeState,
    VersionChange,
    VersionChangeKind,
    VersionPlan,
    find_serving_problem,
)
from streamd.core.errors import StreamdError

log = structlog.get_logger(__name__)

SERVE_RETRY_SECONDS = 30.0
"""The interval at which a node that cannot serve the cluster's version tries again."""

REPORT_RETRY_SECONDS = 0.5
CLUSTER = "the cluster"


class VersionFollower:
    """The follower of the plan at one node; `wall` returns epoch seconds."""

    def __init__(self, plans: VersionPlans, versions: NodeVersions, *, wall: Callable[[], float]) -> None:
        self.problem = "the version of the cluster is not known yet"
        """Why this node should own nothing; empty if it serves what the cluster does."""
        self._plans = plans
        self._versions = versions
        self._wall = wall
        self._taken_part_in = ""

    async def run(self) -> None:
        """Follow the plan until cancelled; what was warmed and not switched to is discarded then."""
        while True:
            self._plans.news.clear()
            try:
                await self._follow_plan()
            except LogAwayError as exc:
                log.debug("version_report_waits", error=str(exc))
                await asyncio.sleep(REPORT_RETRY_SECONDS)
                continue
            except Exception:  # a defect of one change must not end all later ones
                log.exception("version_change_failed")
            await self._plans.wait_news(SERVE_RETRY_SECONDS)

    async def _follow_plan(self) -> None:
        plan = self._plans.require_plan()
        change = plan.change
        if change is not None and change.phase is ChangePhase.WARMING:
            if change.id != self._taken_part_in:
                self._taken_part_in = change.id
                await self._take_part(change)
                self._plans.news.set()
            return
        await self._serve_plan(plan)

    async def _take_part(self, change: VersionChange) -> None:
        try:
            async with self._versions.prepare(change) as prepared:
                await self._insist_on_report(change.id, NodeState.WARM)
                while (plan := self._plans.require_plan()).change == change:
                    await self._plans.wait_news(SERVE_RETRY_SECONDS)
                if _is_decided(plan, change):
                    await prepared.switch()
        except StreamdError as exc:
            log.error("version_not_warmed", change=change.id, error=str(exc))
            await self._insist_on_report(change.id, NodeState.FAILED, str(exc))
        except Exception as exc:  # a defect must not let the others wait for this node
            log.exception("version_not_warmed", change=change.id, error=repr(exc))
            await self._insist_on_report(change.id, NodeState.FAILED, repr(exc))

    async def _serve_plan(self, plan: VersionPlan) -> None:
        """Serve what the cluster does, and report it; a node that joins, or was away, gets there by this."""
        problem = self._find_problem(plan)
        serving = self._versions.serving
        if problem and serving is not None and serving.name != plan.serving.name:
            self.problem = problem
            problem = await self._make_decided(
                plan, VersionChange(id="", kind=VersionChangeKind.PROMOTE, version=plan.serving)
            )
            problem = problem or self._find_problem(plan)
        self.problem = problem
        missing = await self._follow_candidate(plan)
        change = plan.change
        is_switched = not (problem or missing)
        await self._plans.put_report(
            NodeReport(
                change="" if change is None else change.id,
                state=NodeState.SWITCHED if is_switched else NodeState.FAILED,
                reason=problem or missing,
                serving=plan.serving.name if serving is None else self._name_serving(),
                candidate=None if self._versions.candidate is None else self._versions.candidate.version.name,
                problem=problem or missing,
            )
        )

    async def _follow_candidate(self, plan: VersionPlan) -> str:
        """Try the candidate of the cluster here too; returns why not. It does not keep a node from owning shards."""
        wanted, here = plan.candidate, self._versions.candidate
        if _name_candidate(wanted) == _name_candidate(here):
            return ""
        if wanted is None:
            return await self._make_decided(plan, VersionChange(id="", kind=VersionChangeKind.END_CANDIDATE))
        change = VersionChange(
            id="", kind=VersionChangeKind.CANDIDATE, version=wanted.version, share=wanted.share, shadow=wanted.shadow
        )
        return await self._make_decided(plan, change)

    async def _make_decided(self, plan: VersionPlan, change: VersionChange) -> str:
        """Make a change that the cluster has decided earlier; returns why not, empty if it is made."""
        decided = msgspec.structs.replace(change, who=CLUSTER, why="the other nodes serve it", when=self._wall())
        try:
            async with self._versions.prepare(decided) as prepared:
                if self._plans.require_plan() is plan:
                    await prepared.switch()
        except StreamdError as exc:
            log.error("cluster_version_not_served", serving=plan.serving.name, error=str(exc))
            return str(exc)
        return ""

    def _find_problem(self, plan: VersionPlan) -> str:
        serving = self._versions.serving
        return "no version serves here" if serving is None else find_serving_problem(plan, serving)

    def _name_serving(self) -> str:
        serving = self._versions.serving
        return "" if serving is None else serving.name

    async def _insist_on_report(self, change: str, state: NodeState, reason: str = "") -> None:
        report = NodeReport(
            change=change, state=state, reason=reason, serving=self._name_serving(), problem=self.problem
        )
        while True:
            try:
                await self._plans.put_report(report)
            except LogAwayError:
                await asyncio.sleep(REPORT_RETRY_SECONDS)
            else:
                return


def _name_candidate(candidate: CandidateRef | None) -> tuple[str, float, bool] | None:
    return None if candidate is None else (candidate.version.name, candidate.share, candidate.shadow)


def _is_decided(plan: VersionPlan, change: VersionChange) -> bool:
    """Whether a change that was warming was decided, and no later one has taken its place."""
    newest = plan.change
    return newest is not None and newest.id == change.id and newest.phase is not ChangePhase.STOPPED
