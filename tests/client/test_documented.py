"""Tests `docs/client.md` and `examples/client.py`: what they show runs against a daemon, as it stands there."""

import ast
import asyncio
import importlib.util
import inspect
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import streamd.client
from streamd.client import Client
from streamd.core.contract import ModelContract
from tests.support.http_harness import NEED, HttpDaemon, HttpDaemonSettings, make_rows, run_http_daemon
from tests.support.made_alerts import ServedAlerts, make_alert

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/client.md").read_text(encoding="utf-8"), re.M | re.S)

HOURLY = ModelContract(
    features=("cpu_user", "net_in", "load_average"),
    targets=("cpu_user",),
    quantiles=(0.1, 0.5, 0.9),
    context_length=8,
    horizon=4,
    step_seconds=3600,
    units={"cpu_user": "percent", "net_in": "bytes/s", "load_average": "1"},
    architecture="fake",
)
"""A contract with a unit for each height of the example's load."""


async def feed(daemon: HttpDaemon) -> None:
    """Send rows of two servers, over and over, for readers that wait for forecasts."""
    step = NEED
    while True:
        for number, server in enumerate(("web-01", "web-02")):
            await daemon.accept(make_rows(server, number, [step]))
        await daemon.service.pipeline.wait_idle()
        step += 1


async def run_block(code: str, client: Client, url: str) -> list[tuple[Any, ...]]:
    """Run a block until it ends or, if it never would, until each of its loops has printed; returns what it printed."""
    printed: list[tuple[Any, ...]] = []
    enough = asyncio.Event()
    loops = code.count("async for") or 10**6

    def note(*values: Any) -> None:
        printed.append(values)
        if len(printed) >= loops:
            enough.set()

    names = {name: getattr(streamd.client, name) for name in streamd.client.__all__}
    names |= {"client": client, "np": np, "time": time, "print": note}
    program = compile(code, "docs/client.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(program, names)
    if not inspect.iscoroutine(running):
        running = names["push_one"](url)
    block = asyncio.ensure_future(running)
    waiting = asyncio.create_task(enough.wait())
    await asyncio.wait([block, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=20)
    waiting.cancel()
    if block.done():
        await block
    else:
        assert enough.is_set(), f"only {printed} was printed"
        block.cancel()
        await asyncio.wait([block])
    return printed


@pytest.mark.parametrize("number", range(len(BLOCKS)))
async def test_a_block_of_the_guide_runs(daemon: HttpDaemon, client: Client, number: int) -> None:
    code = BLOCKS[number]
    for place, server in enumerate(("web-01", "web-02")):
        await daemon.accept(make_rows(server, place, range(NEED)))
    await daemon.service.pipeline.wait_idle()
    ServedAlerts(daemon.service, make_alert(server="db-1"))
    feeding = asyncio.create_task(feed(daemon)) if "subscribe(" in code else None
    try:
        printed = await run_block(code, client, daemon.url)
    finally:
        if feeding is not None:
            feeding.cancel()
            await asyncio.wait([feeding])
    assert printed, "a block that prints nothing shows nothing"


def test_the_guide_has_blocks_for_each_kind_of_call() -> None:
    shown = "".join(BLOCKS)
    for call in ("push_samples", "push_columns", "open_ingest", "subscribe(", "list_alerts", "subscribe_alerts"):
        assert call in shown
    assert len(BLOCKS) >= 7


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_client", ROOT / "examples/client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def hourly_daemon(tmp_path: Path) -> AsyncIterator[HttpDaemon]:
    async with run_http_daemon(tmp_path / "hourly", HttpDaemonSettings(contract=HOURLY)) as daemon:
        yield daemon


async def test_the_example_prints_the_forecasts_of_the_rows_that_it_pushes(
    hourly_daemon: HttpDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    await load_example().run(hourly_daemon.url, None, "example-01", rows=3, pause_seconds=0.0)
    lines = [line for line in capsys.readouterr().out.splitlines() if "[debug" not in line]
    assert lines[0] == f"history: {NEED} rows accepted, 0 rejected"
    value = r"-?\d+\.\d"
    assert re.fullmatch(rf"\d\d:\d\d  example-01  cpu_user in 3\.0 h: {value} \({value} to {value}\)", lines[-1])


def test_the_load_of_the_example_is_above_zero_at_each_hour() -> None:
    example = load_example()
    contract = {"features": HOURLY.features, "units": dict(HOURLY.units)}
    rows = [example.make_row(contract, 1_700_000_000 + hour * 3600) for hour in range(24)]
    assert (np.min(rows, axis=0) > 0.1 * np.max(rows, axis=0)).all()
    assert np.ptp(rows, axis=0).min() > 0


def test_the_example_says_why_it_cannot_begin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load_example()
    monkeypatch.setattr(example, "Client", lambda url, token: Client(url, token, retry_seconds=0.0))
    assert example.main(["--url", "http://127.0.0.1:9"]) == 1
    assert "is the daemon running" in capsys.readouterr().err
