"""Changes of the version that a whole cluster serves, at one node: takes part, moves them on, and proposes them.

`core/cluster/rollout.py` decides.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.log import LogAwayError, SharedTable, WrongSequenceError
from streamd.cluster.versions.node_versions import NodeVersions
from streamd.cluster.versions.version_follower import VersionFollower
from streamd.cluster.versions.version_plans import VersionPlans
from streamd.core.cluster.rollout import (
    ChangePhase,
    NodeReport,
    VersionChange,
    VersionChangeKind,
    VersionPlan,
    VersionRef,
    advance_change,
    propose_change,
)
from streamd.core.errors import DrainingError, ReloadError, UnavailableError

ADVANCE_SECONDS = 0.2
"""The interval at which a node checks whether it can move a change on: nodes come and go meanwhile."""

PROPOSALS = 5
"""Attempts to propose a change, while others change the plan or the log is away."""


class Rollout:
    """This node's part in the versions of its cluster; also what the routes change versions by (`VersionChanges`).

    `list_nodes` returns the nodes that must take part in a change.
    """

    def __init__(
        self,
        control: SharedTable,
        node: str,
        list_nodes: Callable[[], Collection[str]],
        versions: NodeVersions,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._list_nodes = list_nodes
        self._versions = versions
        self._wall = wall
        self._clock = clock
        self._plans = VersionPlans(control, node, versions.note_plan, clock=clock)
        self._follower = VersionFollower(self._plans, versions, wall=wall)
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = False

    # ------------------------------------------------------------ life
    async def start(self) -> None:
        """Take part; call it when a version serves here, and the tables are there. Raises `LogAwayError`."""
        serving = self._versions.serving
        assert serving is not None, "a version serves"
        await self._plans.follow(serving)
        self._tasks = [start_task(self._follower.run()), start_task(self._advance_regularly())]

    async def close(self) -> None:
        """Take part no more; what this node has warmed is discarded. A second call does nothing."""
        self._is_closed = True
        async with self._changed:
            self._changed.notify_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._plans.close()

    @property
    def problem(self) -> str:
        """The reason why this node should own nothing; empty if it serves what the cluster does."""
        return self._follower.problem

    # ------------------------------------------------------------ moving on
    async def _advance_regularly(self) -> None:
        while True:
            await asyncio.sleep(ADVANCE_SECONDS)
            plans = self._plans
            if plans.plan is None:
                continue  # none that this release can read was there yet
            following = advance_change(plans.plan, plans.reports, self._list_nodes(), plans.seconds_in_phase)
            if following is not None:
                # Another node did it, or will.
                with contextlib.suppress(WrongSequenceError, LogAwayError):
                    await plans.put_plan(following)
            async with self._changed:
                self._changed.notify_all()

    # ------------------------------------------------------------ what operators want
    async def promote(self, version: str, who: str, why: str) -> dict[str, Any]:
        """Let all nodes serve a version; raises `ReloadError` with the reason of each node that cannot."""
        self._plans.require_plan()
        found = await self._versions.identify(version)
        return await self._change(self._make_change(VersionChangeKind.PROMOTE, found, who, why))

    async def rollback(self, who: str, why: str) -> dict[str, Any]:
        """Undo the last promotion at all nodes; raises as `promote`."""
        plan = self._plans.require_plan()
        if plan.earlier:
            target = plan.earlier[-1]
        else:
            target = await self._versions.identify(await self._versions.find_rollback_target())
        return await self._change(self._make_change(VersionChangeKind.ROLLBACK, target, who, why))

    async def start_candidate(self, version: str, share: float, shadow: bool) -> dict[str, Any]:
        """Try a version at all nodes; raises as `promote`."""
        self._plans.require_plan()
        change = self._make_change(VersionChangeKind.CANDIDATE, await self._versions.identify(version), "", "")
        report = await self._change(msgspec.structs.replace(change, share=share, shadow=shadow))
        return {"candidate": self._versions.describe_candidate(), "nodes": report["nodes"]}

    async def end_candidate(self) -> dict[str, Any]:
        """End the candidate at all nodes."""
        former = self._plans.require_plan().candidate
        if former is not None:
            await self._change(self._make_change(VersionChangeKind.END_CANDIDATE, None, "", ""))
        return {"ended": None if former is None else former.version.name}

    async def list_versions(self) -> dict[str, Any]:
        """Return the versions of this node, and what each node serves."""
        return {**await self._versions.list_versions(), "cluster": self.describe()}

    def _make_change(self, kind: VersionChangeKind, version: VersionRef | None, who: str, why: str) -> VersionChange:
        return VersionChange(
            id=secrets.token_hex(8),
            kind=kind,
            version=version,
            who=who,
            why=why,
            when=self._wall(),
            proposer=self._node,
        )

    async def _change(self, change: VersionChange) -> dict[str, Any]:
        before, began = self._plans.require_plan().serving.name, self._clock()
        await self._propose(change)
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_closed or not _is_running(self._plans.require_plan(), change))
        if self._is_closed:
            raise UnavailableError("this node is stopping; the change goes on at the others")
        plan = self._plans.require_plan()
        ended = plan.change
        assert ended is not None, "it was proposed"
        if ended.id == change.id and ended.phase is ChangePhase.STOPPED:
            raise ReloadError(f"nothing was changed at any node: {ended.reason}")
        report = {"engine": plan.serving.name, "before": before, "seconds": round(self._clock() - began, 3)}
        without = {"without": ended.reason} if ended.id == change.id and ended.reason else {}
        return {**report, "nodes": self._describe_nodes(), **without}

    async def _propose(self, change: VersionChange) -> None:
        if self._is_closed:
            raise DrainingError("the daemon is stopping")
        for _ in range(PROPOSALS):
            proposed = propose_change(self._plans.require_plan(), change)
            try:
                await self._plans.put_plan(proposed)
            except (WrongSequenceError, LogAwayError) as exc:
                error = exc
                await asyncio.sleep(ADVANCE_SECONDS)  # it is read meanwhile
                if _is_newest(self._plans.plan, change):
                    return  # the answer was lost, not the proposal
            else:
                return
        raise UnavailableError(f"the change was not proposed: {error}")

    # ------------------------------------------------------------ reports
    def describe(self) -> dict[str, Any]:
        """Return what the cluster serves, the newest change, and what each node says of itself."""
        plan = self._plans.plan
        return {
            "node": self._node,
            "serving": None if plan is None else plan.serving.name,
            "digest": None if plan is None else plan.serving.digest,
            "candidate": None if plan is None or plan.candidate is None else plan.candidate.version.name,
            "change": None if plan is None or plan.change is None else _describe_change(plan.change),
            "nodes": self._describe_nodes(),
        }

    def _describe_nodes(self) -> list[dict[str, Any]]:
        alive = set(self._list_nodes())
        known = self._plans.reports
        return [
            {
                "node": node,
                "serving": known[node].serving if node in known else None,
                "candidate": known[node].candidate if node in known else None,
                "state": _name_state(known.get(node)),
                "problem": known[node].problem or known[node].reason if node in known else "",
            }
            for node in sorted(alive | {self._node})
        ]


def _name_state(report: NodeReport | None) -> str | None:
    return None if report is None or report.state is None else report.state.value


def _is_newest(plan: VersionPlan | None, change: VersionChange) -> bool:
    return plan is not None and plan.change is not None and plan.change.id == change.id


def _is_running(plan: VersionPlan, change: VersionChange) -> bool:
    return plan.change is not None and plan.change.id == change.id and plan.change.is_running


def _describe_change(change: VersionChange) -> dict[str, Any]:
    return {
        "kind": change.kind.value,
        "version": None if change.version is None else change.version.name,
        "phase": change.phase.value,
        "reason": change.reason,
        "who": change.who,
        "why": change.why,
        "when": change.when,
        "node": change.proposer,
    }
