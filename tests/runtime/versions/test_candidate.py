"""Tests `streamd/runtime/versions/candidate.py`.

A version on trial: its share of the servers, a shadow of all, and what becomes of them when it fails.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from streamd.core.arrays import Float32
from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.supervisor import LaneSupervisor
from streamd.runtime.versions.candidate import Candidate
from streamd.runtime.versions.manager import DeploymentManager
from tests.support.fake_versions import VERSION_NAMES, VersionBackend, Versions, compute_version_forecast
from tests.support.pipeline_rig import Rig, running
from tests.support.state_files import window_of

LIMITS = LaneLimits(hang_seconds=60.0, rebuild_seconds=1.0, max_rebuilds=2)
MAIN, TRIED, _ = VERSION_NAMES
SERVERS = ("a", "b", "c", "d")


class Trial:
    """A rig with a version that serves and one on trial."""

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
            self.versions.make_spec(TRIED),
            share=share,
            shadow=shadow,
            board=rig.board_sink,
            scores=[self],
            observer=rig,
        )

    @property
    def tried(self) -> VersionBackend:
        return self.versions.backends[0]

    def forecast_posted(self, slot: int, step: int, model: bytes, forecast: Float32) -> None:
        server = self.rig.state.directory.names[slot]
        assert server is not None
        expected = compute_version_forecast(self.rig.state.contract, window_of(self.rig.state, server), model.decode())
        np.testing.assert_array_equal(forecast, expected)
        self.scored.append((server, step, model.decode()))

    async def begin(self) -> None:
        self.manager.switch(await self.manager.load(self.versions.make_spec(MAIN)))
        await self.candidate.load()
        self.candidate.begin()

    async def settled(self) -> None:
        await self.candidate.pipeline.wait_idle()
        await self.rig.wait_idle()
        await self.candidate.pipeline.wait_idle()  # a shadow goes second

    def models(self) -> dict[str, str]:
        """Whose forecast each server has; its values must be that version's."""
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

    def ours(self) -> set[str]:
        return {server for server in SERVERS if self.candidate.assignment.includes(server)}

    def accounted(self, rows: int) -> None:
        """Every row that was sent ended in one place, in one of the two lines."""
        counts = self.rig.scheduler.row_counts()
        if not self.candidate.assignment.shadow:
            counts = {name: count + self.candidate.scheduler.row_counts()[name] for name, count in counts.items()}
        assert counts["due"] == rows
        assert rows == sum(counts[name] for name in ("delivered", "superseded", "failed", "forgotten"))
        assert counts["failed"] == 0
        assert len(self.rig.published) == counts["delivered"] == len(set(self.rig.published))


async def rebuilt(deployment: Deployment) -> None:
    """Check as if an hour had gone by, and wait for what is rebuilt by it."""
    supervisor = deployment.supervisor
    assert isinstance(supervisor, LaneSupervisor)
    supervisor.check_lanes(time.monotonic() + 3_600.0)
    await supervisor.wait_rebuilt()


@asynccontextmanager
async def trying(folder: Path, *, share: float = 1.0, shadow: bool = False, begun: bool = True) -> AsyncIterator[Trial]:
    async with running(folder, opened_later=True) as rig:
        trial = Trial(rig, share, shadow)
        if begun:
            await trial.begin()
        try:
            yield trial
        finally:
            for backend in trial.versions.backends:
                backend.release_all()
            await trial.candidate.end()
            trial.candidate.close()
            trial.manager.close()
            workers = [*rig.pipeline.lanes.all_workers, *trial.candidate.pipeline.lanes.all_workers]
            workers += rig.pipeline.lanes.closing.workers
            rig.pipeline.stop()
            for worker in workers:
                assert await asyncio.to_thread(worker.join, 60.0)
            assert trial.versions.live == []
            assert sorted(trial.versions.released) == sorted(backend.model for backend in trial.versions.backends)


async def test_a_canary_forecasts_its_share_and_no_other(tmp_path: Path) -> None:
    async with trying(tmp_path, share=0.5) as trial:
        assert 0 < len(trial.ours()) < len(SERVERS)
        for step in range(100, 105):
            for server in SERVERS:
                trial.rig.add_due_row(server, step)
            await trial.settled()
            assert trial.models() == {server: TRIED if server in trial.ours() else MAIN for server in SERVERS}
        trial.accounted(5 * len(SERVERS))
        assert {(server, model) for server, _, model in trial.scored} == set(trial.models().items())


async def test_a_shadow_is_scored_and_delivers_nothing(tmp_path: Path) -> None:
    async with trying(tmp_path, shadow=True) as trial:
        for step in range(100, 103):
            for server in SERVERS:
                trial.rig.add_due_row(server, step)
            await trial.settled()
            assert set(trial.models().values()) == {MAIN}
        trial.accounted(3 * len(SERVERS))
        both = [(server, step, model) for server in SERVERS for step in range(100, 103) for model in (MAIN, TRIED)]
        assert sorted(trial.scored) == sorted(both)
        assert trial.candidate.scheduler.row_counts()["delivered"] == 3 * len(SERVERS)


@pytest.mark.parametrize("shadow", [False, True])
async def test_a_candidate_that_fails_to_load_changes_nothing(tmp_path: Path, shadow: bool) -> None:
    async with trying(tmp_path, shadow=shadow, begun=False) as trial:
        trial.tried.script.lost = True
        with pytest.raises(BackendUnavailableError, match="while warming"):
            await trial.begin()
        trial.rig.add_due_row("a", 100)
        await trial.settled()
        assert trial.models() == {"a": MAIN}
        assert trial.rig.router.candidate is None


@pytest.mark.parametrize("shadow", [False, True])
async def test_without_lanes_its_servers_are_forecast_by_the_one_that_serves(tmp_path: Path, shadow: bool) -> None:
    async with trying(tmp_path, shadow=shadow) as trial:
        trial.tried.script.lost = True
        for server in SERVERS:
            trial.rig.add_due_row(server, 100)
        while trial.candidate.pipeline.ready:
            trial.rig.add_due_row(
                "a", trial.rig.state.windows.get_newest_step(trial.rig.state.directory.slots["a"]) + 1
            )
            await trial.settled()
        await trial.settled()
        assert set(trial.models().values()) == {MAIN}
        for server in SERVERS:
            trial.rig.add_due_row(server, 104)
        await trial.settled()
        assert set(trial.models().values()) == {MAIN}
        counts = trial.rig.scheduler.row_counts()
        assert counts["due"] == counts["delivered"] + counts["superseded"]
        assert sorted(trial.rig.published[-len(SERVERS) :]) == [(server, 104) for server in SERVERS]
        # 2. Mended, it has them again.
        trial.tried.script.lost = False
        assert trial.candidate.deployment is not None
        await rebuilt(trial.candidate.deployment)
        for server in SERVERS:
            trial.rig.add_due_row(server, 105)
        await trial.settled()
        assert set(trial.models().values()) == {MAIN if shadow else TRIED}


@pytest.mark.parametrize("trouble", ["refused", "not finite"])
async def test_a_window_that_it_cannot_forecast_is_the_other_s(tmp_path: Path, trouble: str) -> None:
    async with trying(tmp_path) as trial:

        def is_bad(window: Float32) -> bool:
            return bool(window[-1, 0] == 7.0)

        setattr(trial.tried.script, "poison" if trouble == "refused" else "not_finite", is_bad)
        for server in SERVERS:
            trial.rig.add_due_row(server, 100, 7.0 if server == "b" else 1.0)
        await trial.settled()
        assert trial.models() == {server: MAIN if server == "b" else TRIED for server in SERVERS}
        trial.accounted(len(SERVERS))


@pytest.mark.parametrize("error", [None, LaneLostError("gone"), BatchFailedError("refused")])
async def test_what_runs_when_the_trial_ends_is_delivered_all_the_same(tmp_path: Path, error: Exception | None) -> None:
    async with trying(tmp_path) as trial:
        warmed = len(trial.tried.script.runs)
        trial.tried.script.hold = True
        trial.rig.add_due_row("a", 100)
        while len(trial.tried.script.runs) == warmed:
            await asyncio.sleep(0)
        if error is not None:
            trial.tried.script.errors.extend([error] * 2)
        ending = asyncio.create_task(trial.candidate.end())
        await asyncio.sleep(0)
        trial.rig.add_due_row("b", 100)
        trial.tried.release_all()
        await ending
        await trial.settled()
        assert trial.models() == {"a": TRIED if error is None else MAIN, "b": MAIN}
        trial.accounted(2)


async def test_a_candidate_that_is_promoted_serves_with_the_lanes_that_it_has(tmp_path: Path) -> None:
    async with trying(tmp_path, share=0.5) as trial:
        made = len(trial.tried.lanes)
        warmed = len(trial.tried.script.runs)
        trial.tried.script.hold = True
        (first, *_) = sorted(trial.ours())
        trial.rig.add_due_row(first, 100)
        while len(trial.tried.script.runs) == warmed:
            await asyncio.sleep(0)
        taking = asyncio.create_task(trial.candidate.transfer(trial.manager))
        await asyncio.sleep(0)
        trial.tried.release_all()
        loaded = await taking
        assert loaded is not None
        trial.manager.switch(loaded)
        for server in SERVERS:
            trial.rig.add_due_row(server, 101)
        await trial.settled()
        assert set(trial.models().values()) == {TRIED}
        trial.accounted(1 + len(SERVERS))
        assert len(trial.tried.lanes) == made
        # 2. It is kept as any other: a lane that it loses is mended.
        trial.rig.pipeline.remove_lanes({trial.rig.pipeline.workers[0]: LaneLostError("gone")})
        await rebuilt(loaded)
        assert len(trial.rig.pipeline.workers) == made
        trial.rig.add_due_row("a", 102)
        await trial.settled()
        assert trial.models()["a"] == TRIED


async def test_a_server_that_is_forgotten_is_forgotten_there_too(tmp_path: Path) -> None:
    async with trying(tmp_path) as trial:
        trial.tried.script.hold = True
        warmed = len(trial.tried.script.runs)
        for step in (100, 101, 102):  # two lanes run, and one row waits
            trial.rig.add_due_row("a", step)
            await asyncio.sleep(0)
        while len(trial.tried.script.runs) < warmed + 2:
            await asyncio.sleep(0)
        trial.rig.forget("a")
        trial.tried.release_all()
        await trial.settled()
        assert trial.rig.published == []
        assert trial.candidate.scheduler.row_counts()["forgotten"] == 3
