"""Tests `streamd/runtime/versions/candidate.py`.

A canary forecasts its share of the servers, a shadow is only scored, and servers of a failed one are still forecast.
"""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.supervisor import LaneSupervisor
from streamd.runtime.versions.candidate import Candidate
from streamd.runtime.versions.manager import DeploymentManager
from tests.support.fake_versions import VERSION_NAMES, VersionBackend, Versions, compute_version_forecast
from tests.support.frozen_garbage import frozen_garbage
from tests.support.pipeline_rig import Rig, running
from tests.support.state_files import window_of

LIMITS = LaneLimits(hang_seconds=60.0, rebuild_seconds=1.0, max_rebuilds=2)
MAIN, CANDIDATE, _ = VERSION_NAMES
SERVERS = ("a", "b", "c", "d")


class CandidateRig:
    """A rig with a version that serves and a candidate."""

    def __init__(self, rig: Rig, share: float, shadow: bool) -> None:
        self.rig = rig
        self.versions = Versions(rig.state.contract, LIMITS)
        self.scored: list[tuple[str, int, str]] = []
        rig.scores.insert(0, self)
        self.manager = DeploymentManager(rig.pipeline, keep_warm_seconds=3_600.0)
        self.candidate = Candidate(
            rig.state,
            rig.pipeline,
            rig.router,
            self.versions.make_spec(CANDIDATE),
            share=share,
            shadow=shadow,
            board=rig.board_sink,
            scores=[self],
            observer=rig,
        )

    @property
    def backend(self) -> VersionBackend:
        return self.versions.backends[0]

    def forecasts_posted(self, slots: Slots, steps: Numbers, model: bytes, forecasts: Float32) -> None:
        state = self.rig.state
        for slot, step, forecast in zip(slots.tolist(), steps.tolist(), forecasts, strict=True):
            server = state.directory.names[slot]
            assert server is not None
            expected = compute_version_forecast(state.contract, window_of(state, server), model.decode())
            np.testing.assert_array_equal(forecast, expected)
            self.scored.append((server, step, model.decode()))

    async def begin(self) -> None:
        self.manager.switch(await self.manager.load(self.versions.make_spec(MAIN)))
        await self.candidate.load()
        self.candidate.begin()

    async def wait_idle(self) -> None:
        await self.candidate.pipeline.wait_idle()
        await self.rig.wait_idle()
        await self.candidate.pipeline.wait_idle()  # a shadow runs after the version that serves

    def find_models(self) -> dict[str, str]:
        """Return the version of each server's forecast, whose values must be that version's."""
        found = {}
        for server, slot in self.rig.state.directory.slots.items():
            forecast = self.rig.state.board.get_forecast(slot)
            assert forecast is not None
            window = window_of(self.rig.state, server)
            np.testing.assert_array_equal(
                forecast.values, compute_version_forecast(self.rig.state.contract, window, forecast.model)
            )
            found[server] = forecast.model
        return found

    def find_included(self) -> set[str]:
        return {server for server in SERVERS if self.candidate.assignment.includes(server)}

    def check_accounted(self, rows: int) -> None:
        """Check that each of the `rows` that were sent ended once, in one of the two schedulers."""
        counts = self.rig.scheduler.row_counts()
        if not self.candidate.assignment.shadow:
            counts = {name: count + self.candidate.scheduler.row_counts()[name] for name, count in counts.items()}
        assert counts["due"] == rows
        assert rows == sum(counts[name] for name in ("delivered", "superseded", "failed", "forgotten"))
        assert counts["failed"] == 0
        assert len(self.rig.published) == counts["delivered"] == len(set(self.rig.published))


async def check_and_rebuild(deployment: Deployment) -> None:
    """Check the lanes as if an hour had passed, and wait until the due ones are rebuilt."""
    supervisor = deployment.supervisor
    assert isinstance(supervisor, LaneSupervisor)
    supervisor.check_lanes(time.monotonic() + 3_600.0)
    await supervisor.wait_rebuilt()


@asynccontextmanager
async def running_candidate(
    folder: Path, *, share: float = 1.0, shadow: bool = False, begun: bool = True
) -> AsyncIterator[CandidateRig]:
    async with running(folder, opened_later=True) as rig:
        world = CandidateRig(rig, share, shadow)
        if begun:
            await world.begin()
        try:
            yield world
        finally:
            for backend in world.versions.backends:
                backend.release_all()
            await world.candidate.end()
            world.candidate.close()
            world.manager.close()
            workers = [*rig.pipeline.lanes.all_workers, *world.candidate.pipeline.lanes.all_workers]
            workers += rig.pipeline.lanes.closing.workers
            rig.pipeline.stop()
            for worker in workers:
                assert await asyncio.to_thread(worker.join, 60.0)
            assert world.versions.live == []
            assert sorted(world.versions.released) == sorted(backend.model for backend in world.versions.backends)


@pytest.mark.parametrize("are_together", [False, True])
async def test_a_canary_forecasts_its_share_of_the_servers_only(tmp_path: Path, are_together: bool) -> None:
    async with running_candidate(tmp_path, share=0.5) as world:
        assert 0 < len(world.find_included()) < len(SERVERS)
        for step in range(100, 105):
            if are_together:
                world.rig.add_due_rows(SERVERS, step)
            else:
                for server in SERVERS:
                    world.rig.add_due_row(server, step)
            await world.wait_idle()
            assert world.find_models() == {
                server: CANDIDATE if server in world.find_included() else MAIN for server in SERVERS
            }
        world.check_accounted(5 * len(SERVERS))
        assert {(server, model) for server, _, model in world.scored} == set(world.find_models().items())


async def test_forecasts_of_a_shadow_are_scored_and_not_delivered(tmp_path: Path) -> None:
    async with running_candidate(tmp_path, shadow=True) as world:
        for step in range(100, 103):
            for server in SERVERS:
                world.rig.add_due_row(server, step)
            await world.wait_idle()
            assert set(world.find_models().values()) == {MAIN}
        world.check_accounted(3 * len(SERVERS))
        both = [(server, step, model) for server in SERVERS for step in range(100, 103) for model in (MAIN, CANDIDATE)]
        assert sorted(world.scored) == sorted(both)
        assert world.candidate.scheduler.row_counts()["delivered"] == 3 * len(SERVERS)


@pytest.mark.parametrize("shadow", [False, True])
async def test_a_candidate_that_fails_to_load_changes_nothing(tmp_path: Path, shadow: bool) -> None:
    async with running_candidate(tmp_path, shadow=shadow, begun=False) as world:
        world.backend.script.lost = True
        with pytest.raises(BackendUnavailableError, match="while warming"):
            await world.begin()
        world.rig.add_due_row("a", 100)
        await world.wait_idle()
        assert world.find_models() == {"a": MAIN}
        assert world.rig.router.candidate is None


@pytest.mark.parametrize("shadow", [False, True])
async def test_the_version_that_serves_forecasts_the_servers_of_a_candidate_without_lanes(
    tmp_path: Path, shadow: bool
) -> None:
    async with running_candidate(tmp_path, shadow=shadow) as world:
        world.backend.script.lost = True
        for server in SERVERS:
            world.rig.add_due_row(server, 100)
        while world.candidate.pipeline.is_ready:
            world.rig.add_due_row(
                "a", world.rig.state.windows.get_newest_step(world.rig.state.directory.slots["a"]) + 1
            )
            await world.wait_idle()
        await world.wait_idle()
        assert set(world.find_models().values()) == {MAIN}
        for server in SERVERS:
            world.rig.add_due_row(server, 104)
        await world.wait_idle()
        assert set(world.find_models().values()) == {MAIN}
        counts = world.rig.scheduler.row_counts()
        assert counts["due"] == counts["delivered"] + counts["superseded"]
        assert sorted(world.rig.published[-len(SERVERS) :]) == [(server, 104) for server in SERVERS]
        # 2. With rebuilt lanes, it has them again.
        world.backend.script.lost = False
        assert world.candidate.deployment is not None
        await check_and_rebuild(world.candidate.deployment)
        for server in SERVERS:
            world.rig.add_due_row(server, 105)
        await world.wait_idle()
        assert set(world.find_models().values()) == {MAIN if shadow else CANDIDATE}


@pytest.mark.parametrize("trouble", ["refused", "not finite"])
async def test_the_version_that_serves_forecasts_windows_that_the_canary_cannot(tmp_path: Path, trouble: str) -> None:
    async with running_candidate(tmp_path) as world:

        def is_bad(window: Float32) -> bool:
            return bool(window[-1, 0] == 7.0)

        setattr(world.backend.script, "poison" if trouble == "refused" else "not_finite", is_bad)
        for server in SERVERS:
            world.rig.add_due_row(server, 100, 7.0 if server == "b" else 1.0)
        await world.wait_idle()
        assert world.find_models() == {server: MAIN if server == "b" else CANDIDATE for server in SERVERS}
        world.check_accounted(len(SERVERS))


@pytest.mark.parametrize("error", [None, LaneLostError("gone"), BatchFailedError("refused")])
async def test_a_batch_that_runs_when_the_candidate_ends_is_delivered(tmp_path: Path, error: Exception | None) -> None:
    async with running_candidate(tmp_path) as world:
        warmed = len(world.backend.script.runs)
        world.backend.script.hold = True
        world.rig.add_due_row("a", 100)
        while len(world.backend.script.runs) == warmed:
            await asyncio.sleep(0)
        if error is not None:
            world.backend.script.errors.extend([error] * 2)
        ending = asyncio.create_task(world.candidate.end())
        await asyncio.sleep(0)
        world.rig.add_due_row("b", 100)
        world.backend.release_all()
        await ending
        await world.wait_idle()
        assert world.find_models() == {"a": CANDIDATE if error is None else MAIN, "b": MAIN}
        world.check_accounted(2)


async def test_a_promoted_candidate_serves_with_its_lanes(tmp_path: Path) -> None:
    async with running_candidate(tmp_path, share=0.5) as world:
        made = len(world.backend.lanes)
        warmed = len(world.backend.script.runs)
        world.backend.script.hold = True
        (first, *_) = sorted(world.find_included())
        world.rig.add_due_row(first, 100)
        while len(world.backend.script.runs) == warmed:
            await asyncio.sleep(0)
        transferring = asyncio.create_task(world.candidate.transfer(world.manager))
        await asyncio.sleep(0)
        world.backend.release_all()
        loaded = await transferring
        assert loaded is not None
        world.manager.switch(loaded)
        for server in SERVERS:
            world.rig.add_due_row(server, 101)
        await world.wait_idle()
        assert set(world.find_models().values()) == {CANDIDATE}
        world.check_accounted(1 + len(SERVERS))
        assert len(world.backend.lanes) == made
        # 2. Its lanes are supervised: a lost one is rebuilt.
        world.rig.pipeline.remove_lanes({world.rig.pipeline.workers[0]: LaneLostError("gone")})
        await check_and_rebuild(loaded)
        assert len(world.rig.pipeline.workers) == made
        world.rig.add_due_row("a", 102)
        await world.wait_idle()
        assert world.find_models()["a"] == CANDIDATE


@pytest.mark.parametrize("shadow", [False, True])
async def test_the_lanes_of_a_candidate_that_ended_are_freed_although_they_were_frozen(
    tmp_path: Path, shadow: bool
) -> None:
    """Reference counts have to free them then. The candidate itself, some 100 kB, stays until all is collected."""
    async with running_candidate(tmp_path) as world:
        spec = world.versions.make_spec(CANDIDATE)
        rig = world.rig
        other = Candidate(
            rig.state,
            rig.pipeline,
            rig.router,
            spec,
            share=1.0,
            shadow=shadow,
            board=rig.board_sink,
            scores=[],
            observer=rig,
        )
        await world.candidate.end()
        await other.load()
        other.begin()
        for step in range(100, 103):
            rig.add_due_row("a", step)
            await rig.wait_idle()
            await other.pipeline.wait_idle()
        ending = list(other.pipeline.lanes.all_workers)
        assert other.deployment is not None
        owned = [other.deployment, other.deployment.supervisor, *ending]
        references: list[weakref.ref[object]] = [weakref.ref(each) for each in owned]
        del owned
        with frozen_garbage():
            await other.end()
            other.close()
            while ending:
                assert await asyncio.to_thread(ending.pop().join, 60.0)
            await asyncio.to_thread(lambda: None)
            assert [each() for each in references if each() is not None] == []


async def test_a_forgotten_server_is_forgotten_by_the_candidate_too(tmp_path: Path) -> None:
    async with running_candidate(tmp_path) as world:
        world.backend.script.hold = True
        warmed = len(world.backend.script.runs)
        for step in (100, 101, 102):  # two lanes run, and one row waits
            world.rig.add_due_row("a", step)
            await asyncio.sleep(0)
        while len(world.backend.script.runs) < warmed + 2:
            await asyncio.sleep(0)
        world.rig.forget("a")
        world.backend.release_all()
        await world.wait_idle()
        assert world.rig.published == []
        assert world.candidate.scheduler.row_counts()["forgotten"] == 3
