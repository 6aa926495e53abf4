"""Tests `streamd/runtime/versions/manager.py`: versions change in any order while lanes run, fail and are rebuilt.

The machine is that of `tests/support/lane_machine.py`. Every forecast shows which version made it, so one under
another's name is found.
"""

import asyncio
from collections.abc import Callable, Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from streamd.core.arrays import Float32
from streamd.core.errors import BackendUnavailableError, BatchFailedError, InferenceError, LaneLostError
from streamd.inference.fake import FakeBackend
from streamd.runtime.lanes.deployment import Deployment, DeploymentState
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.supervisor import BackendChanged, LaneSupervisor
from streamd.runtime.versions.manager import DeploymentManager
from tests.support.fake_versions import VERSION_NAMES, VersionBackend, Versions, compute_version_forecast
from tests.support.lane_machine import CONTRACT, LIMITS, LaneMachine
from tests.support.pipeline_rig import make_fake_spec
from tests.support.stepped_lanes import SteppedSupervisor


class QuietSupervisor(SteppedSupervisor):
    """A supervisor that checks its lanes only when the test says so."""

    def watch(self) -> None:
        pass

    def _cancel_tasks(self) -> None:
        for coroutine in self.waiting:
            coroutine.close()
        self.waiting.clear()
        super()._cancel_tasks()


class Changes(LaneMachine):
    """Servers, callers, and three versions of which at most two are loaded, beside those that retire."""

    def __init__(self) -> None:
        super().__init__()
        self.versions = Versions(CONTRACT, LIMITS, lanes=3)
        self.loads: list[Deployment] = []
        self.naive: list[Deployment] = []
        """The naive model: the deployment that serves, and after it the one that is kept warm."""
        self.run(self.start())

    async def start(self) -> None:
        self.pipeline = self.make_pipeline(Deployment(make_fake_spec("none_20260101_000000")))
        self.manager = DeploymentManager(
            self.pipeline,
            keep_warm_seconds=1e6,
            make_supervisor=self.make_supervisor,
            clock=lambda: self.now,
        )
        await self.load(VERSION_NAMES[0])

    def make_supervisor(
        self, pipeline: Pipeline, deployment: Deployment, listener: BackendChanged, *, clock: Callable[[], float]
    ) -> LaneSupervisor:
        supervisor = QuietSupervisor(pipeline, deployment, listener, clock=clock)
        self.supervisors[deployment] = supervisor
        return supervisor

    async def load(self, name: str, prepare: Callable[[VersionBackend], None] = lambda backend: None) -> None:
        loaded = await self.manager.load(self.versions.make_spec(name, prepare))
        self.loads.append(loaded)
        self.manager.switch(loaded)
        self.naive = [loaded, *self.naive[:1]]

    @property
    def all_backends(self) -> Sequence[FakeBackend]:
        return self.versions.backends

    def compute_forecast(self, window: Float32, model: str) -> Float32:
        return compute_version_forecast(CONTRACT, window, model)

    def find_supervisors(self) -> list[SteppedSupervisor]:
        return [self.supervisors[loaded] for loaded in self.find_loaded()]

    # ------------------------------------------------------------ versions
    @rule(name=st.sampled_from(VERSION_NAMES))
    def a_version_is_loaded_and_serves(self, name: str) -> None:
        former = self.manager.current
        self.run(self.load(name))
        assert self.manager.current is self.loads[-1]
        assert self.pipeline.serving.name == name
        assert self.manager.previous is former

    @rule(
        name=st.sampled_from(VERSION_NAMES),
        trouble=st.sampled_from(["no lane", "not all lanes", "no lane warms", "dies before it runs"]),
    )
    def a_load_fails(self, name: str, trouble: str) -> None:
        before = (self.manager.current, self.manager.previous, self.pipeline.serving, self.pipeline.lanes.all_workers)
        released = len(self.versions.released)

        def prepare(backend: VersionBackend) -> None:
            unavailable = BackendUnavailableError("scripted")
            made: dict[str, list[Exception | None]] = {
                "no lane": [unavailable],
                "not all lanes": [None, None, unavailable],
            }
            backend.script.make_errors.extend(made.get(trouble, []))
            backend.script.lost = trouble == "no lane warms"
            backend.dies_before_run = trouble == "dies before it runs"

        async def fail() -> None:
            try:
                await self.load(name, prepare)
            except BackendUnavailableError:
                return
            raise AssertionError("the load did not fail")

        self.run(fail())
        after = (self.manager.current, self.manager.previous, self.pipeline.serving, self.pipeline.lanes.all_workers)
        assert after == before, "a load that fails changes nothing"
        assert len(self.versions.released) == released + 1

    @precondition(lambda self: self.manager.previous is not None)
    @rule()
    def the_previous_version_serves_again(self) -> None:
        former, back, made = self.manager.current, self.manager.previous, len(self.versions.backends)
        assert back is not None

        async def switch() -> None:
            self.manager.switch(back)
            self.naive.reverse()

        self.run(switch())
        assert (self.manager.current, self.manager.previous) == (back, former)
        assert len(self.versions.backends) == made

    @precondition(lambda self: self.manager.previous is not None)
    @rule()
    def the_previous_version_expires(self) -> None:
        async def expire() -> None:
            self.manager._expire()
            del self.naive[1:]

        self.run(expire())
        assert self.manager.previous is None

    @precondition(lambda self: len(self.loads) > 1)
    @rule(name=st.sampled_from(VERSION_NAMES))
    def a_version_is_loaded_and_discarded(self, name: str) -> None:
        async def load_only() -> None:
            self.manager.discard(await self.manager.load(self.versions.make_spec(name)))
            await asyncio.sleep(0)

        self.run(load_only())

    # ------------------------------------------------------------ lanes
    @precondition(lambda self: self.busy())
    @rule(data=st.data(), make=st.sampled_from([BatchFailedError, LaneLostError]))
    def a_lane_fails(self, data: st.DataObject, make: Callable[[str], InferenceError]) -> None:
        worker = data.draw(st.sampled_from(self.busy()))
        self.finish_lane(worker, make("scripted"))

    @rule(seconds=st.sampled_from([0.0, 1.0, 8.0, 61.0, 400.0]))
    def the_lanes_are_checked(self, seconds: float) -> None:
        self.now += seconds
        self.check_and_rebuild()

    def find_loaded(self) -> list[Deployment]:
        return [loaded for loaded in self.loads if loaded in self.manager.loaded]

    # ------------------------------------------------------------ at all times
    @invariant()
    def a_retiring_deployment_gets_no_batch(self) -> None:
        for deployment in self.loads:
            assert deployment is self.pipeline.serving or not deployment.is_retiring or not deployment.idle
            assert set(deployment.idle) == {each for each in deployment.workers if each.running is None}
        assert not self.pipeline.serving.is_retiring
        if self.scheduler.waiting:
            assert not self.pipeline.serving.idle, "waiting windows run while a lane is idle"

    @invariant()
    def at_most_two_versions_are_loaded_beside_those_that_retire(self) -> None:
        staying = {loaded for loaded in (self.manager.current, self.manager.previous) if loaded is not None}
        retiring = {loaded for loaded in self.find_loaded() if loaded.is_retiring}
        assert set(self.find_loaded()) == staying | retiring
        assert all(loaded.workers for loaded in retiring), "a retired deployment without lanes is closed"

    @invariant()
    def each_deployment_is_in_the_state_of_the_naive_model(self) -> None:
        warm = [DeploymentState.WARM] * len(self.naive[1:])
        assert [each.state for each in self.naive] == [DeploymentState.SERVING, *warm]
        for each in self.supervisors:
            if each not in self.naive:
                ended = DeploymentState.RETIRING if each in self.manager.loaded else DeploymentState.CLOSED
                assert each.state is ended

    # ------------------------------------------------------------ the end
    def finish_lanes(self) -> None:
        """Check, beside the lanes, that each loaded version is released once."""
        if self.manager.previous is not None:
            self.the_previous_version_expires()
        self.run(self.manager.wait_retired())
        assert len(self.versions.live) == len(self.pipeline.workers)
        assert len(self.versions.released) == len(self.versions.backends) - 1
        self.manager.close()
        super().finish_lanes()
        assert self.versions.live == []
        assert len(self.versions.released) == len(self.versions.backends)
        assert self.callback_errors == []


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=settings().max_examples // 4, stateful_step_count=50)
