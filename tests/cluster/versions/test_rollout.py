"""Tests `streamd/cluster/versions/rollout.py`: nodes that change their versions together, over a made log in
virtual time.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamd.cluster.versions.rollout import Rollout
from streamd.cluster.versions.version_follower import SERVE_RETRY_SECONDS
from streamd.core.cluster.rollout import (
    WARM_SECONDS,
    CandidateRef,
    VersionChange,
    VersionChangeKind,
    VersionPlan,
    VersionRef,
)
from streamd.core.errors import BackendUnavailableError, ReloadError, RepositoryError, UnavailableError
from tests.support.alert_nodes import NAMES, make_log
from tests.support.made_log import MemoryLog
from tests.support.virtual_time import run_in_virtual_time

LOAD_SECONDS = 2.0


class MadeVersions:
    """The versions of one node; `digests` has those that are in its folder, `failures` why one cannot be loaded."""

    def __init__(self, serving: str = "v1", **digests: str) -> None:
        self.digests = {"v1": "one", "v2": "two", "v3": "three", **digests}
        self.failures: dict[str, Exception] = {}
        self.serving: VersionRef | None = VersionRef(serving, self.digests[serving])
        self.candidate: CandidateRef | None = None
        self.warmed: list[str] = []
        self.discarded: list[str] = []
        self.planned = ""
        self.record: list[str] = []

    async def identify(self, version: str) -> VersionRef:
        if version not in self.digests:
            raise RepositoryError(f"no engine version {version}")
        return VersionRef(version, self.digests[version])

    async def find_rollback_target(self) -> str:
        if not self.record:
            raise RepositoryError("there is nothing to roll back")
        return self.record[-1]

    @asynccontextmanager
    async def prepare(self, change: VersionChange) -> AsyncIterator["MadeVersions.Prepared"]:
        prepared = MadeVersions.Prepared(self, change)
        if change.version is not None:
            await asyncio.sleep(LOAD_SECONDS)
            if (failure := self.failures.get(change.version.name)) is not None:
                raise failure
            if await self.identify(change.version.name) != change.version:
                raise ReloadError("another network")
            self.warmed.append(change.version.name)
        try:
            yield prepared
        finally:
            if not prepared.is_used and change.version is not None:
                self.discarded.append(change.version.name)

    class Prepared:
        def __init__(self, versions: "MadeVersions", change: VersionChange) -> None:
            self.is_used = False
            self._versions, self._change = versions, change

        async def switch(self) -> None:
            self.is_used = True
            versions, change = self._versions, self._change
            if change.kind is VersionChangeKind.END_CANDIDATE:
                versions.candidate = None
            elif change.kind is VersionChangeKind.CANDIDATE:
                assert change.version is not None
                versions.candidate = CandidateRef(VersionRef(change.version.name, ""), change.share, change.shadow)
            else:
                versions.serving = change.version

    async def list_versions(self) -> dict[str, Any]:
        return {"serving": self.name}

    def describe_candidate(self) -> dict[str, Any] | None:
        candidate = self.candidate
        return None if candidate is None else {"version": candidate.version.name, "share": candidate.share}

    def note_plan(self, plan: VersionPlan) -> None:
        self.planned = plan.serving.name

    @property
    def name(self) -> str:
        return "" if self.serving is None else self.serving.name


class Nodes:
    """Nodes that a test starts; all that are alive must take part."""

    def __init__(self) -> None:
        self.log = make_log()
        self.loop = asyncio.get_running_loop()
        self.log.broker.monotonic = self.loop.time
        self.alive: set[str] = set()
        self.versions: dict[str, MadeVersions] = {}
        self.rollouts: dict[str, Rollout] = {}
        self.logs: dict[str, MemoryLog] = {}

    async def start(self, *names: str, versions: MadeVersions | None = None) -> None:
        for name in names:
            self.versions[name] = versions or MadeVersions()
            self.logs[name] = self.log.connect()
            rollout = self.rollouts[name] = Rollout(
                self.logs[name].table(NAMES.bucket("control")),
                name,
                lambda: self.alive,
                self.versions[name],
                clock=self.loop.time,
            )
            self.alive.add(name)
            await rollout.start()
        await asyncio.sleep(1.0)

    async def kill(self, name: str) -> None:
        self.alive.discard(name)
        self.logs[name].kill()
        await self.rollouts[name].close()

    def list_serving(self) -> list[str]:
        return [self.versions[name].name for name in sorted(self.alive)]

    async def close(self) -> None:
        for rollout in self.rollouts.values():
            await rollout.close()


def run(test: Callable[[Nodes], Awaitable[None]]) -> None:
    async def run_nodes() -> None:
        nodes = Nodes()
        try:
            await test(nodes)
        finally:
            await nodes.close()

    run_in_virtual_time(run_nodes())


# ---------------------------------------------------------------- all or none
def test_a_promotion_at_one_node_reaches_all_after_each_has_warmed() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c")
        answer = await nodes.rollouts["b"].promote("v2", "ann", "better")
        assert nodes.list_serving() == ["v2"] * 3
        assert all(each.warmed == ["v2"] and each.discarded == [] for each in nodes.versions.values())
        assert (answer["engine"], answer["before"]) == ("v2", "v1")
        assert [(each["node"], each["state"]) for each in answer["nodes"]] == [(name, "switched") for name in "abc"]
        assert LOAD_SECONDS < answer["seconds"] < LOAD_SECONDS + 2.0
        assert {each.planned for each in nodes.versions.values()} == {"v2"}, "a reload selects it"
        assert {each.problem for each in nodes.rollouts.values()} == {""}

    run(test)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda versions: versions.failures.update(v2=BackendUnavailableError("no lane")), "c: no lane"),
        (
            lambda versions: versions.failures.update(v2=ZeroDivisionError("a defect")),
            "c: ZeroDivisionError('a defect')",
        ),
        (lambda versions: versions.digests.pop("v2"), "c: no engine version v2"),
        (lambda versions: versions.digests.update(v2="other"), "c: another network"),
    ],
)
def test_a_node_that_cannot_load_stops_the_change_and_nothing_changes(
    prepare: Callable[[MadeVersions], object], reason: str
) -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c")
        prepare(nodes.versions["c"])
        with pytest.raises(ReloadError, match=re.escape(f"nothing was changed at any node: {reason}")):
            await nodes.rollouts["a"].promote("v2", "ann", "")
        await asyncio.sleep(5.0)
        assert nodes.list_serving() == ["v1"] * 3
        assert nodes.versions["a"].discarded == ["v2"]
        shown = nodes.rollouts["b"].describe()
        assert (shown["change"]["phase"], shown["change"]["reason"]) == ("stopped", reason)
        assert (await nodes.rollouts["a"].promote("v3", "ann", ""))["engine"] == "v3"
        assert nodes.list_serving() == ["v3"] * 3

    run(test)


def test_a_version_that_is_not_at_the_asked_node_is_refused_there() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        with pytest.raises(RepositoryError, match="no engine version v9"):
            await nodes.rollouts["a"].promote("v9", "ann", "")
        assert nodes.versions["b"].warmed == []

    run(test)


def test_a_second_change_is_refused_at_any_node_while_one_runs() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        first = asyncio.create_task(nodes.rollouts["a"].promote("v2", "ann", ""))
        await asyncio.sleep(1.0)
        with pytest.raises(ReloadError, match="one change at a time"):
            await nodes.rollouts["b"].promote("v3", "bob", "")
        await first
        assert nodes.list_serving() == ["v2", "v2"]

    run(test)


def test_two_nodes_that_are_asked_at_the_same_moment_make_one_change() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        results = await asyncio.gather(
            nodes.rollouts["a"].promote("v2", "ann", ""),
            nodes.rollouts["b"].promote("v3", "bob", ""),
            return_exceptions=True,
        )
        refused = [each for each in results if isinstance(each, ReloadError)]
        assert len(refused) == 1
        assert len(set(nodes.list_serving())) == 1
        assert nodes.list_serving()[0] in ("v2", "v3")

    run(test)


# ---------------------------------------------------------------- rollback and candidates
def test_a_rollback_undoes_the_last_promotion_everywhere() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        await nodes.rollouts["a"].promote("v2", "ann", "")
        await nodes.rollouts["a"].promote("v3", "ann", "")
        assert (await nodes.rollouts["b"].rollback("ann", ""))["engine"] == "v2"
        assert (await nodes.rollouts["a"].rollback("ann", ""))["engine"] == "v1"
        assert nodes.list_serving() == ["v1", "v1"]
        with pytest.raises(RepositoryError, match="nothing to roll back"):
            await nodes.rollouts["a"].rollback("ann", "")
        nodes.versions["b"].record.append("v3")  # promoted before the cluster was
        assert (await nodes.rollouts["b"].rollback("ann", ""))["engine"] == "v3"

    run(test)


def test_a_candidate_begins_and_ends_at_all_nodes() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        answer = await nodes.rollouts["a"].start_candidate("v2", 0.25, False)
        assert answer["candidate"] == {"version": "v2", "share": 0.25}
        assert [each.candidate for each in nodes.versions.values()] == [CandidateRef(VersionRef("v2", ""), 0.25)] * 2
        await nodes.start("late")
        await asyncio.sleep(LOAD_SECONDS + 1)
        assert nodes.versions["late"].candidate is not None
        assert await nodes.rollouts["b"].end_candidate() == {"ended": "v2"}
        assert [each.candidate for each in nodes.versions.values()] == [None] * 3
        assert await nodes.rollouts["b"].end_candidate() == {"ended": None}

    run(test)


# ---------------------------------------------------------------- nodes come and go
def test_a_node_that_dies_while_it_warms_is_not_waited_for_and_its_change_goes_on() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c")
        asked = asyncio.create_task(nodes.rollouts["a"].promote("v2", "ann", ""))
        await asyncio.sleep(LOAD_SECONDS / 2)
        await nodes.kill("a")
        with pytest.raises(UnavailableError, match="goes on at the others"):
            await asked
        await asyncio.sleep(LOAD_SECONDS)
        assert nodes.list_serving() == ["v2", "v2"]
        assert nodes.rollouts["b"].describe()["change"]["phase"] == "done"

    run(test)


def test_a_node_that_joins_serves_the_version_of_the_cluster_before_it_may_own() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a")
        await nodes.rollouts["a"].promote("v2", "ann", "")
        await nodes.start("b")
        assert nodes.rollouts["b"].problem == "v1 serves here, and v2 in the cluster"
        await asyncio.sleep(LOAD_SECONDS)
        assert (nodes.rollouts["b"].problem, nodes.list_serving()) == ("", ["v2", "v2"])

    run(test)


def test_a_node_that_cannot_serve_the_version_of_the_cluster_says_why_and_tries_again() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a")
        await nodes.rollouts["a"].promote("v2", "ann", "")
        versions = MadeVersions()
        del versions.digests["v2"]
        await nodes.start("b", versions=versions)
        await asyncio.sleep(LOAD_SECONDS)
        assert nodes.rollouts["b"].problem == "no engine version v2"
        (shown,) = [each for each in nodes.rollouts["a"].describe()["nodes"] if each["node"] == "b"]
        assert (shown["serving"], shown["problem"]) == ("v1", "no engine version v2")
        versions.digests["v2"] = "two"
        await asyncio.sleep(SERVE_RETRY_SECONDS + LOAD_SECONDS + 1)
        assert (nodes.rollouts["b"].problem, versions.name) == ("", "v2")

    run(test)


def test_a_node_with_other_bytes_under_the_same_name_may_not_own() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a")
        await nodes.start("b", versions=MadeVersions(v1="other"))
        assert "another network" in nodes.rollouts["b"].problem
        assert nodes.rollouts["a"].problem == ""

    run(test)


def test_a_node_that_was_cut_off_when_it_was_decided_switches_when_it_is_back() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        asked = asyncio.create_task(nodes.rollouts["a"].promote("v2", "ann", ""))
        await asyncio.sleep(LOAD_SECONDS / 2)
        nodes.logs["b"].cut()
        await asyncio.sleep(1.0)
        nodes.alive.discard("b")  # its heartbeats are missing
        assert (await asked)["engine"] == "v2"
        assert nodes.versions["b"].name == "v1"
        nodes.logs["b"].heal()
        nodes.alive.add("b")
        await asyncio.sleep(5.0)
        assert nodes.list_serving() == ["v2", "v2"]

    run(test)


def test_a_node_that_never_warms_stops_the_change_after_its_time() -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a")
        nodes.alive.add("mute")
        with pytest.raises(ReloadError, match="not warm within 600 s: mute"):
            await nodes.rollouts["a"].promote("v2", "ann", "")
        assert nodes.loop.time() > WARM_SECONDS
        assert nodes.versions["a"].name == "v1"

    run(test)


@pytest.mark.parametrize("fault", ["lose_answers", "refuse", "repeat"])
def test_lost_and_repeated_requests_change_nothing_of_it(fault: str) -> None:
    async def test(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        for log in nodes.logs.values():
            setattr(log, fault, 2)
        try:
            await nodes.rollouts["a"].promote("v2", "ann", "")
        except UnavailableError:
            await asyncio.sleep(10.0)
            if nodes.list_serving() != ["v2", "v2"]:  # the proposal itself was lost: asked again, it is made
                await nodes.rollouts["a"].promote("v2", "ann", "")
        await asyncio.sleep(5.0)
        assert nodes.list_serving() == ["v2", "v2"]
        assert [each.discarded for each in nodes.versions.values()] == [[], []]

    run(test)
