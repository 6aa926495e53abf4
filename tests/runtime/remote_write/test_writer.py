"""Tests `streamd/runtime/remote_write/writer.py` over a real socket.

What waits is the newest forecast of a server; what the store refuses is dropped, what it cannot take now is sent later.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from prometheus_client.core import Metric

from streamd.core.forecast_export.choice import ExportSettings, ForecastExport
from streamd.runtime.forecast_exports import ForecastExports
from streamd.runtime.outbound import RetryWaits
from streamd.runtime.remote_write.writer import RemoteWriter, RemoteWriteSettings, collect_remote_write_metrics
from streamd.runtime.state.state import State, WindowLimits
from streamd.server.outbound import OutboundClient
from tests.support.remote_write_store import RemoteWriteStore, run_remote_write_store
from tests.support.state_files import fill, opened

MODEL = b"patch_20260101_000000"
NOW = 31_000.0
LIMITS = WindowLimits(capacity=16, need=2, late_steps=8, grace_seconds=10.0)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with opened(tmp_path, limits=LIMITS) as each:
        yield each


class Rig:
    """A writer over a state, and a clock that only its sleeps move."""

    def __init__(
        self,
        state: State,
        store: RemoteWriteStore,
        client: OutboundClient,
        servers: tuple[str, ...] = ("web-*",),
        **settings: Any,
    ) -> None:
        choice = ExportSettings(servers=servers, horizons=("5m",), quantiles=(0.5,), targets=("cpu",))
        self.state, self.store, self.client = state, store, client
        self.now = 0.0
        self.sleeps: list[float] = []
        self.writer = RemoteWriter(
            ForecastExports(state, ForecastExport(choice, state.contract), lambda: NOW),
            RemoteWriteSettings(url=store.url, **settings),
            clock=lambda: self.now,
            waits=RetryWaits(draw=lambda: 1.0),
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    async def send(self, within: float = 60.0) -> None:
        await self.writer.send_round(self.client, self.now + within)

    def post(self, server: str, level: float) -> int:
        """Post a forecast of a server, from one more row than before."""
        slot = self.state.directory.slots.get(server)
        first = 100 if slot is None else self.state.windows.get_latest_step(slot) + 1
        slot = fill(self.state, server, 3 if slot is None else 1, first)
        step = self.state.windows.get_newest_step(slot)
        values = np.full(self.state.contract.forecast_shape, level, np.float32)
        self.state.board.post(slot, step, 3, MODEL, values)
        self.writer.forecasts_posted(np.array([slot]), np.array([step]), MODEL, values[None])
        return slot

    def list_levels(self, metric: str = "streamd_forecast") -> list[tuple[str, float]]:
        """Return the server and the value of the samples that came, without repetitions of neighbours."""
        found = [(labels["server"], value) for labels, _, value in self.store.list_samples(metric)]
        return [each for place, each in enumerate(found) if place == 0 or found[place - 1] != each]


@asynccontextmanager
async def start_rig(state: State, **settings: Any) -> AsyncIterator[Rig]:
    async with run_remote_write_store() as store:
        client = OutboundClient()
        try:
            yield Rig(state, store, client, **settings)
        finally:
            await client.close()


async def run_until_requested(rig: Rig) -> None:
    """Run the writer until the store has got a request."""
    running = asyncio.create_task(rig.writer.run(rig.client))
    async with asyncio.timeout(5):
        while not rig.store.requests:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_each_round_sends_the_newest_values_of_all_chosen_servers(state: State) -> None:
    async with start_rig(state) as rig:
        rig.post("web-01", 1.0)
        rig.post("db-01", 2.0)
        await rig.send()
        rig.post("web-01", 3.0)
        rig.post("web-02", 4.0)
        await rig.send()
        assert rig.list_levels() == [("web-01", 1.0), ("web-01", 3.0), ("web-02", 4.0)]
        assert {time for _, time, _ in rig.store.list_samples("streamd_forecast")} == {31_000_000}
        assert rig.writer.forecasts == {"sent": 3, "superseded": 0, "rejected": 0}
        assert (rig.writer.samples, rig.writer.last_success, rig.writer.waiting) == (6, NOW, 0)
        headers = rig.store.headers[0]
        assert headers["Content-Encoding"] == "snappy"
        assert headers["Content-Type"] == "application/x-protobuf"
        assert headers["X-Prometheus-Remote-Write-Version"] == "0.1.0"


async def test_a_curve_is_sent_once(state: State) -> None:
    async with start_rig(state, times="future") as rig:
        rig.post("web-01", 1.0)
        await rig.send()
        await rig.send()
        assert rig.list_levels("streamd_forecast") == []
        assert len(rig.store.list_samples("streamd_forecast_at")) == state.contract.horizon
        rig.post("web-01", 2.0)
        await rig.send()
        assert rig.list_levels("streamd_forecast_at") == [("web-01", 1.0), ("web-01", 2.0)]


async def test_costly_globs_are_decided_in_the_round(state: State) -> None:
    async with start_rig(state, servers=tuple(f"*{number}-*" for number in range(100)), times="future") as rig:
        for server in ("web-01", "x-7-y"):
            rig.post(server, 1.0)
        assert rig.writer.waiting == 0, "nothing is decided yet"
        await rig.send()
        assert rig.list_levels("streamd_forecast_at") == [("x-7-y", 1.0)]


async def test_both_times_are_sent_in_one_request(state: State) -> None:
    async with start_rig(state, times="both") as rig:
        rig.post("web-01", 1.0)
        await rig.send()
        assert len(rig.store.requests) == 1
        assert len(rig.store.list_samples("streamd_forecast")) == 1
        assert len(rig.store.list_samples("streamd_forecast_at")) == state.contract.horizon


async def test_forecasts_of_a_former_process_are_new(state: State) -> None:
    async with start_rig(state) as rig:
        rig.post("web-01", 1.0)
    async with start_rig(state, times="future") as rig:
        await rig.send()
        assert rig.list_levels("streamd_forecast_at") == [("web-01", 1.0)]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_the_store_cannot_take_now_is_sent_again_and_by_then_the_newest(state: State, status: int) -> None:
    async with start_rig(state, times="future") as rig:
        rig.post("web-01", 1.0)
        rig.store.answers = [(status, {}), (status, {})]

        def post_another() -> None:
            if not rig.store.refused:
                rig.post("web-01", 2.0)

        rig.store.on_request = post_another
        await rig.send()
        assert rig.list_levels("streamd_forecast_at") == [("web-01", 2.0)]
        assert rig.sleeps == [1.0, 2.0]
        assert rig.writer.requests == {"sent": 1, f"retried: {status}": 2}
        assert rig.writer.waiting == 0


async def test_a_forecast_that_is_replaced_before_it_was_sent_counts_as_superseded(state: State) -> None:
    async with start_rig(state, times="future") as rig:
        for level in (1.0, 2.0, 3.0):
            rig.post("web-01", level)
            rig.post("db-01", level)
        assert rig.writer.waiting == 1
        await rig.send()
        assert rig.list_levels("streamd_forecast_at") == [("web-01", 3.0)]
        assert rig.writer.forecasts == {"sent": 1, "superseded": 2, "rejected": 0}


async def test_a_wait_that_the_store_asks_for_is_kept_also_beyond_the_round(state: State) -> None:
    async with start_rig(state, interval_seconds=60.0) as rig:
        rig.post("web-01", 1.0)
        rig.store.answers = [(429, {"Retry-After": "7"}), (503, {"Retry-After": "100"})]
        await run_until_requested(rig)
        assert rig.sleeps[:2] == [7.0, 100.0]
        assert rig.writer.forecasts["superseded"] == 1, "the round at whose end the store had not answered"


@pytest.mark.parametrize("status", [302, 400, 401, 404, 413])
async def test_what_the_store_refuses_is_dropped_counted_and_logged_once(state: State, status: int) -> None:
    async with start_rig(state, times="future") as rig:
        with structlog.testing.capture_logs() as logs:
            for level in (1.0, 2.0):
                rig.post("web-01", level)
                rig.store.answers = [(status, {"Location": rig.store.url} if status == 302 else {})]
                await rig.send()
        assert rig.store.requests == []
        assert rig.writer.forecasts == {"sent": 0, "superseded": 0, "rejected": 2}
        assert rig.writer.requests == {"sent": 0, f"rejected: {status}": 2}
        assert [(each["event"], each["status"], each["reason"]) for each in logs] == [
            ("remote_write_rejected", status, "no such thing")
        ]


async def test_a_store_that_is_away_costs_no_memory_and_its_return_is_logged(state: State) -> None:
    async with start_rig(state, times="both") as rig:
        url, rig.writer._settings = rig.store.url, RemoteWriteSettings(url="http://127.0.0.1:1/", times="both")
        with structlog.testing.capture_logs() as logs:
            for level in range(20):
                rig.post("web-01", float(level))
                await rig.send(within=3.0)
            rig.writer._settings = RemoteWriteSettings(url=url, times="both")
            await rig.send()
        assert rig.list_levels() == [("web-01", 19.0)]
        assert rig.list_levels("streamd_forecast_at") == [("web-01", 19.0)]
        assert [each["event"] for each in logs] == ["remote_write_fails", "remote_write_works_again"]
        assert set(rig.writer.requests) == {"sent", "retried: no_answer"}


async def test_the_round_after_an_abandoned_one_begins_where_that_one_ended(state: State) -> None:
    async with start_rig(state) as rig:
        rig.writer._count_servers_of_request = lambda: 2  # type: ignore[method-assign]
        for number in range(6):
            rig.post(f"web-{number}", float(number))
        rig.store.answers = [(204, {}), (503, {"Retry-After": "90"})]
        await rig.send()
        assert [server for server, _ in rig.list_levels()] == ["web-0", "web-1"]
        await rig.send()
        assert [server for server, _ in rig.list_levels()][2:] == [f"web-{number}" for number in (2, 3, 4, 5, 0, 1)]
        assert rig.writer.forecasts["superseded"] == 4


async def test_a_server_that_is_forgotten_while_it_waits_is_not_sent(state: State) -> None:
    async with start_rig(state, times="both") as rig:
        slot = rig.post("web-01", 1.0)

        def forget() -> None:
            state.forget(slot)
            rig.writer.forget(slot)

        rig.store.answers = [(503, {})]
        rig.store.on_request = forget
        await rig.send()
        assert rig.store.requests == []
        assert rig.writer.waiting == 0


async def test_a_round_that_fails_by_a_defect_does_not_end_the_others(state: State) -> None:
    async with start_rig(state) as rig:
        rig.post("web-01", 1.0)
        maker, calls = rig.writer._maker.make_request, []

        def fail_once(part: Any) -> Any:
            calls.append(part)
            if len(calls) == 1:
                raise ZeroDivisionError
            return maker(part)

        rig.writer._maker.make_request = fail_once  # type: ignore[method-assign]
        with structlog.testing.capture_logs() as logs:
            await run_until_requested(rig)
        assert "remote_write_round_failed" in [each["event"] for each in logs]
        assert rig.sleeps[0] == 60.0


async def test_metrics_are_there_with_and_without_a_writer(state: State) -> None:
    async with start_rig(state) as rig:
        rig.post("web-01", 1.0)
        with_writer, without = read_samples(rig.writer), read_samples(None)
        assert with_writer["streamd_remote_write_waiting"] == 1
        assert with_writer["streamd_remote_write_forecasts_total{sent}"] == 0
        assert set(without) == {name for name in with_writer if "{" not in name}


def read_samples(writer: RemoteWriter | None) -> dict[str, float]:
    found: list[Metric] = list(collect_remote_write_metrics(writer))
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in found
        for sample in family.samples
    }
