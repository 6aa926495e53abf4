"""Tests `streamd/runtime/remote_write` against the stores themselves, where they are installed.

A query at any time shows the newest forecast of it, however many forecasts of that time there are.
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from streamd.core.forecast_export.choice import ExportSettings, ForecastExport
from streamd.runtime.forecast_exports import ForecastExports
from streamd.runtime.remote_write.writer import RemoteWriter, RemoteWriteSettings
from streamd.runtime.state.state import WindowLimits
from streamd.server.outbound import OutboundClient
from streamd.tools.scene.stores import MetricStore, make_prometheus, make_victoria_metrics
from tests.support.contracts import make_contract
from tests.support.state_files import fill, opened

CONTRACT = make_contract(horizon=6, step_seconds=60)
ROUNDS = 4
LIMITS = WindowLimits(capacity=4, need=2, late_steps=8, grace_seconds=10.0)
ODD = 'we"b\\1\nü☃'

MakeStore = Callable[[Path, Path], MetricStore]
STORES: dict[str, MakeStore] = {
    "prometheus": lambda root, folder: make_prometheus(root, folder, []),
    "victoria-metrics": make_victoria_metrics,
}


@pytest.mark.parametrize("name", STORES)
async def test_a_store_shows_the_newest_forecast_of_each_time(tmp_path: Path, name: str) -> None:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    store = STORES[name](Path(found).parents[2], tmp_path)
    async with AsyncExitStack() as stack:
        stack.callback(store.process.kill)
        store.process.start()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await store.wait_ready(session)
        client = OutboundClient()
        stack.push_async_callback(client.close)
        state = stack.enter_context(opened(tmp_path / "state", CONTRACT, LIMITS))
        first = CONTRACT.to_step(time.time()) - ROUNDS - 2
        slot = fill(state, ODD, 3, first - 2)
        choice = ExportSettings(servers=("*",), horizons=("1m", "6m"), targets=("cpu",))
        exports = ForecastExports(state, ForecastExport(choice, CONTRACT))
        writer = RemoteWriter(exports, RemoteWriteSettings(url=store.write_url, times="both"))
        expected: dict[int, float] = {}
        for number in range(ROUNDS):
            if number:
                fill(state, ODD, 1, first + number)
            values = np.full(CONTRACT.forecast_shape, 100.0 * number, np.float32)
            values += np.arange(CONTRACT.horizon, dtype=np.float32)[:, None]
            state.board.post(slot, first + number, 3, b"model", values)
            writer.forecasts_posted(np.array([slot]), np.array([first + number]), b"model", values[None])
            await writer.send_round(client, time.monotonic() + 10)
            for step in range(CONTRACT.horizon):
                expected[CONTRACT.to_origin(first + number) + 60 * step] = 100.0 * number + step
        assert writer.requests == {"sent": ROUNDS}
        await _check_queries(session, store, expected)


async def _check_queries(session: aiohttp.ClientSession, store: MetricStore, expected: dict[int, float]) -> None:
    expression = 'last_over_time(streamd_forecast_at{quantile="0.5"}[70s])'
    if store.name == "VictoriaMetrics":
        # It shows new series after a second; one that asks earlier gets the answer that there is none for 10 s.
        await asyncio.sleep(1.5)
    async with asyncio.timeout(20):
        while not await store.query(session, "streamd_forecast", time.time()):
            await asyncio.sleep(0.5)
    series = await store.query_range(session, expression, begin=min(expected), end=max(expected), step=60)
    ((labels, points),) = series.items()
    assert dict(labels)["server"] == ODD
    assert {int(at): value for at, value in points} == expected
    current = await store.query(session, 'streamd_forecast{quantile="0.5",horizon="6m"}', time.time())
    assert [points[0][1] for points in current.values()] == [100.0 * (ROUNDS - 1) + CONTRACT.horizon - 1]
