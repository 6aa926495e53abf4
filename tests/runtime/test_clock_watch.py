"""Tests `streamd/runtime/clock_watch.py`.

Rows of a clock that was ahead are reported, and dropped once the server's own samples contradict them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from streamd.core.accuracy.pending import AccuracyLimits
from streamd.core.scheduling.costs import CostTable
from streamd.core.state.samples import IngestResult, Sample
from streamd.core.state.window_columns import NO_STEP
from streamd.inference.fake import FakeBackend
from streamd.runtime.admission import EVICT_AFTER_SECONDS
from streamd.runtime.clock_watch import MAX_NAMED, SEEN_TOLERANCE_SECONDS
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.service_report import describe_status
from streamd.runtime.wiring import build_service
from tests.support.contracts import make_contract
from tests.support.state_files import LIMITS, NOW, opened, rows_of, whole

STEP = 300
DAY = 86_400
PRESENT = 1_700_000_100
RECOVERY = 60.0
MODEL = "patch_20260101_000000"


class World:
    """A service whose clocks the test sets."""

    def __init__(self, service: Service, clock: "Clock") -> None:
        self.service = service
        self.state = service.state
        self.clock = clock

    async def send(self, server: str, *times: float, values: Any = None) -> IngestResult:
        """Send whole rows of these times."""
        samples = [Sample(server, time, whole(1.0) if values is None else values) for time in times]
        return await self.service.ingest.take_samples(enumerate(samples))

    async def wait_idle(self) -> None:
        await self.service.pipeline.wait_idle()

    def pass_time(self, seconds: float) -> None:
        self.clock.wall += seconds
        self.clock.monotonic += seconds

    def sweep(self) -> None:
        self.service.clock_watch.sweep()

    def ahead(self) -> Any:
        return describe_status(self.service, lambda server: True)["ahead"]

    def origin(self, server: str) -> int:
        """Return the origin of a server's forecast; 0 if it has none."""
        step = self.state.board.get_step(self.state.directory.slots[server])
        return 0 if step == NO_STEP else self.state.contract.to_origin(step)


class Clock:
    def __init__(self, wall: float) -> None:
        self.wall = wall
        self.monotonic = 1_000.0


@asynccontextmanager
async def world(folder: Path, wall: float = PRESENT, recovery: float = RECOVERY, **limits: Any) -> AsyncIterator[World]:
    clock = Clock(wall)
    with opened(folder, make_contract()) as state:
        scored = AccuracyLimits(scored_servers=4, settle_steps=1, tolerance_steps=2, range_steps=3)
        service = build_service(
            state,
            MODEL,
            {},
            ServiceLimits(ahead_recovery_seconds=recovery, accuracy=scored, **limits),
            wall=lambda: clock.wall,
            clock=lambda: clock.monotonic,
        )
        loop = asyncio.get_running_loop()
        worker = LaneWorker(FakeBackend(state.contract, (1, 8)).make_lane(0), loop, service.pipeline.handle_result)
        service.pipeline.open_lanes([worker], CostTable({1: 1.0, 8: 1.0}, pads=False))
        service.begin()
        try:
            yield World(service, clock)
        finally:
            service.close()


async def leap(at: World, server: str, seconds: float) -> None:
    """Let every clock be ahead for a moment, in which a future row is accepted and forecast."""
    at.clock.wall += seconds
    assert (await at.send(server, at.clock.wall)).accepted == 1
    await at.wait_idle()
    at.clock.wall -= seconds
    at.sweep()


# ---------------------------------------------------------------- reports
async def test_a_server_ahead_is_counted_named_and_logged_once(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await at.send("good", PRESENT)
        with structlog.testing.capture_logs() as logs:
            await leap(at, "web-01", DAY)
            at.sweep()
            at.sweep()
        (line,) = [log for log in logs if log["event"] == "servers_ahead_of_clock"]
        assert (line["log_level"], line["count"], line["servers"]) == ("warning", 1, ["web-01"])
        assert "DELETE /v1/servers/{server}" in line["remedy"]
        assert "ahead_recovery_seconds" in line["remedy"]
        origin = (PRESENT + DAY) // STEP * STEP + STEP
        assert at.ahead() == {
            "servers": 1,
            "first": [{"server": "web-01", "origin": origin, "seconds": origin - PRESENT, "contradicted": False}],
            "rewound": 0,
            "dropped_rows": 0,
        }
        metrics = at.service.metrics.render().decode()
        assert "streamd_servers_ahead 1.0\n" in metrics
        assert "streamd_servers_rewound_total 0.0\n" in metrics


async def test_servers_that_are_ahead_at_a_restart_are_reported(tmp_path: Path) -> None:
    async with world(tmp_path, wall=PRESENT + DAY) as at:
        await at.send("web-01", PRESENT + DAY)
    with structlog.testing.capture_logs() as logs:
        async with world(tmp_path) as at:
            assert at.ahead()["servers"] == 1
    assert [log["servers"] for log in logs if log["event"] == "servers_ahead_of_clock"] == [["web-01"]]


async def test_an_open_row_may_be_ahead_too(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.clock.wall += DAY
        await at.send("web-01", at.clock.wall, values={"cpu": 1.0})
        at.clock.wall -= DAY
        at.sweep()
        assert at.ahead()["servers"] == 1
        result = await at.send("web-01", PRESENT)
        assert result.errors[0]["code"] == "too_old"
        assert "ahead of the clock" in result.errors[0]["message"]
        at.pass_time(RECOVERY)
        at.sweep()
        assert (await at.send("web-01", at.clock.wall, at.clock.wall + STEP)).accepted == 2
        await at.wait_idle()
        assert at.origin("web-01") > PRESENT


async def test_rows_within_the_limit_are_not_reported(tmp_path: Path) -> None:
    async with world(tmp_path, max_ahead_seconds=1_000.0) as at:
        await at.send("web-01", PRESENT + 1_000)
        at.clock.wall -= STEP  # a clock that is set back a little
        at.sweep()
        assert at.ahead()["servers"] == 0
        at.clock.wall -= 2 * STEP
        at.sweep()
        assert at.ahead()["servers"] == 1
        at.clock.wall += 2 * STEP
        at.sweep()
        assert at.ahead()["servers"] == 0, "the clock has reached its rows"


async def test_no_server_is_ahead_without_a_limit(tmp_path: Path) -> None:
    async with world(tmp_path, max_ahead_seconds=float("inf")) as at:
        await at.send("web-01", PRESENT + 1000 * DAY)
        at.sweep()
        assert at.ahead()["servers"] == 0


async def test_all_servers_ahead_are_counted_and_some_named(tmp_path: Path) -> None:
    many = MAX_NAMED + 5
    limits = LIMITS.__class__(capacity=many, need=2, late_steps=8, grace_seconds=10.0)
    with opened(tmp_path, limits=limits) as state:
        service = build_service(state, MODEL, {}, ServiceLimits(), wall=lambda: PRESENT)
        for number in range(many):
            slot, _ = state.admit(f"s{number}", NOW)
            state.windows.arrays["newest"][slot] = PRESENT // STEP + 10 + number
        with structlog.testing.capture_logs() as logs:
            service.clock_watch.sweep()
        (line,) = [log for log in logs if log["event"] == "servers_ahead_of_clock"]
        assert (line["count"], len(line["servers"])) == (many, MAX_NAMED)
        assert line["servers"][0] == f"s{many - 1}", "the furthest first"
        assert len(describe_status(service, lambda server: True)["ahead"]["first"]) == MAX_NAMED


# ---------------------------------------------------------------- recovery
async def test_present_samples_of_a_server_rewind_it(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await leap(at, "web-01", DAY)
        assert (await at.send("web-01", PRESENT)).rejected == 1
        assert at.ahead()["first"][0]["contradicted"]
        at.pass_time(RECOVERY - 1)
        at.sweep()
        assert at.ahead()["servers"] == 1, "not yet: a machine's clock may be behind for a moment after its start"
        at.pass_time(1)
        with structlog.testing.capture_logs() as logs:
            at.sweep()
        (line,) = [log for log in logs if log["event"] == "servers_rewound"]
        assert (line["count"], line["dropped_rows"], line["servers"]) == (1, 1, ["web-01"])
        assert at.ahead() == {"servers": 0, "first": [], "rewound": 1, "dropped_rows": 1}
        assert at.origin("web-01") == 0, "the future forecast was dropped"
        for time in (PRESENT + STEP, PRESENT + 2 * STEP):
            at.pass_time(STEP)
            assert (await at.send("web-01", time)).accepted == 1
        await at.wait_idle()
        assert at.origin("web-01") == (PRESENT + 3 * STEP) // STEP * STEP
        assert "streamd_servers_rewound_total 1.0\n" in at.service.metrics.render().decode()


async def test_rows_that_were_accepted_in_the_meantime_are_forecast_at_once(tmp_path: Path) -> None:
    """If a server is ahead by less than the tolerance, present rows were accepted as late ones and not forecast."""
    async with world(tmp_path) as at:
        await leap(at, "web-01", 6 * STEP)
        for _ in range(2):
            assert (await at.send("web-01", at.clock.wall)).accepted == 1
            at.pass_time(STEP)
        at.sweep()
        await at.wait_idle()
        assert at.origin("web-01") == (PRESENT + STEP) // STEP * STEP + STEP
        assert sorted(rows_of(at.state, "web-01")) == [PRESENT // STEP, PRESENT // STEP + 1]


async def test_with_no_recovery_time_the_contradicting_sample_is_accepted(tmp_path: Path) -> None:
    async with world(tmp_path, recovery=0.0) as at:
        await leap(at, "web-01", DAY)
        assert (await at.send("web-01", PRESENT - STEP, PRESENT)).accepted == 2
        await at.wait_idle()
        assert at.origin("web-01") == PRESENT // STEP * STEP + STEP


async def test_with_infinite_recovery_time_no_server_is_rewound(tmp_path: Path) -> None:
    async with world(tmp_path, recovery=float("inf")) as at:
        await leap(at, "web-01", DAY)
        for _ in range(3):
            await at.send("web-01", at.clock.wall)
            at.pass_time(10 * STEP)
            at.sweep()
        assert at.ahead()["servers"] == 1
        at.service.forget(at.state.directory.slots["web-01"])
        at.sweep()
        assert at.ahead()["servers"] == 0
        assert (await at.send("web-01", at.clock.wall - STEP, at.clock.wall)).accepted == 2
        await at.wait_idle()
        assert at.origin("web-01") > PRESENT


async def test_a_machine_whose_clock_is_behind_loses_nothing(tmp_path: Path) -> None:
    """The clocks of the agents are right: their samples are rejected, and do not contradict the stored rows."""
    async with world(tmp_path) as at:
        await at.send("web-01", PRESENT - STEP, PRESENT)
        await at.wait_idle()
    async with world(tmp_path, wall=PRESENT - DAY) as at:
        assert at.ahead()["servers"] == 1
        result = await at.send("web-01", PRESENT + STEP)
        assert result.errors[0]["code"] == "too_far_ahead"
        # 2. Neither does a backlog: its old rows do not show the sender's clock.
        await at.send("web-01", PRESENT - DAY - 10 * STEP)
        at.pass_time(10 * RECOVERY)
        at.sweep()
        assert not at.ahead()["first"][0]["contradicted"]
        # 3. The clock is adjusted.
        at.clock.wall = PRESENT + STEP
        at.sweep()
        assert at.ahead()["servers"] == 0
        assert (await at.send("web-01", PRESENT + STEP)).accepted == 1
        assert len(rows_of(at.state, "web-01")) == 3


async def test_a_clock_that_is_adjusted_within_the_recovery_time_drops_no_row(tmp_path: Path) -> None:
    """A machine without a battery-backed clock and an agent on it are both behind until the network sets the time."""
    async with world(tmp_path) as at:
        await at.send("web-01", PRESENT - STEP, PRESENT)
    async with world(tmp_path, wall=PRESENT - DAY) as at:
        await at.send("web-01", at.clock.wall)
        assert at.ahead()["first"][0]["contradicted"]
        at.clock.wall, at.clock.monotonic = PRESENT + 1, at.clock.monotonic + 2 * RECOVERY
        assert (await at.send("web-01", PRESENT + 1)).accepted == 1
        at.sweep()
        assert at.ahead()["rewound"] == 0
        assert len(rows_of(at.state, "web-01")) == 2


async def test_a_running_forecast_of_rows_ahead_is_not_posted(tmp_path: Path) -> None:
    async with world(tmp_path, recovery=0.0) as at:
        at.clock.wall += DAY
        await at.send("web-01", at.clock.wall - STEP, at.clock.wall)  # due, not run yet
        at.clock.wall -= DAY
        at.sweep()
        await at.send("web-01", PRESENT)
        await at.wait_idle()
        assert at.origin("web-01") == 0
        await at.send("web-01", PRESENT + STEP)
        await at.wait_idle()
        assert at.origin("web-01") == (PRESENT + STEP) // STEP * STEP + STEP


# ---------------------------------------------------------------- scores and last_seen
async def test_scores_restart_if_their_clock_is_ahead(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await leap(at, "web-01", 0)
        at.service.accuracy.follow("other_20260101_000000", share=0.5, shadow=True)
        scorer = at.service.accuracy.scorer
        at.clock.wall += DAY
        await at.send("web-02", at.clock.wall - STEP, at.clock.wall)
        await at.wait_idle()
        at.clock.wall -= DAY
        assert scorer.now_step == (PRESENT + DAY) // STEP
        at.sweep()
        at.pass_time(RECOVERY)
        at.sweep()
        scorer = at.service.accuracy.scorer
        assert scorer.now_step == NO_STEP
        versions = {name: (version.share, version.is_shadow) for name, version in scorer.versions.items()}
        assert versions == {MODEL: (1.0, False), "other_20260101_000000": (0.5, True)}
        await at.send("web-01", PRESENT + STEP)
        await at.wait_idle()
        assert at.service.accuracy.scorer.now_step == (PRESENT + STEP) // STEP


async def test_a_server_that_was_seen_ahead_can_be_evicted(tmp_path: Path) -> None:
    """The longest silent server is evicted, so a silent server must not look as if it had reported tomorrow."""
    async with world(tmp_path, wall=PRESENT + DAY) as at:
        await at.send("silent", PRESENT)
        at.clock.wall = PRESENT
        at.sweep()
        at.pass_time(RECOVERY)
        at.sweep()
        for number in range(LIMITS.capacity - 1):
            at.pass_time(1 + SEEN_TOLERANCE_SECONDS)
            await at.send(f"new-{number}", PRESENT)
        at.clock.wall = PRESENT + RECOVERY + EVICT_AFTER_SECONDS - 1
        assert (await at.send("newest", at.clock.wall)).rejected == 1
        at.pass_time(1)
        assert (await at.send("newest", at.clock.wall)).accepted == 1
        assert "silent" not in at.state.directory.slots
        assert len(at.state.directory) == LIMITS.capacity
