"""The price of forecasts as metrics: what a scrape and remote write keep the event loop from, for 20,000 servers.

Forecasts of 96 steps and three quantiles stand on the board, without a model. One process has the service, the HTTP
application, and the loop whose turns are measured; the scraper and the store that takes remote write are a process of
their own, which answers without looking at what it gets. `turn` is how much too late a task wakes that waits for 2 ms
again and again. Not measured: a store that stores, TLS, a loop that takes samples at the same time.
"""

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import uvloop
from aiohttp import web

from benchmarks.harness import describe_machine, print_table, write_result
from streamd.core.access.access_list import AccessList
from streamd.core.contract import ModelContract
from streamd.core.forecast_export.choice import ExportSettings
from streamd.core.state.forecast_seals import compute_checks
from streamd.http.access.origins import OriginPolicy
from streamd.http.app import make_http_app
from streamd.http.requests import TransportLimits
from streamd.runtime.remote_write.writer import RemoteWriteSettings, RemoteWriteTime
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import State, WindowLimits
from streamd.runtime.wiring import build_service
from streamd.server.outbound import OutboundClient

CONTRACT = ModelContract(
    features=("cpu_user", "disk_usage"),
    targets=("cpu_user",),
    quantiles=(0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98),
    context_length=288,
    horizon=96,
    step_seconds=300,
    units={"cpu_user": "percent"},
)
SERVERS = 20_000
SCRAPED_SERVERS = 7_692
"""With 12 series and an origin each, 100,000 series."""

WATCH_SECONDS = 0.002
"""The watching task wakes so often; by how much it wakes too late is how long others kept the loop."""

OTHER_SIDE = """
import sys, time, urllib.request
from aiohttp import web

async def take(request):
    await request.read()
    return web.Response(status=204)

if sys.argv[1] == "store":
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/api/v1/write", take)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None)
else:
    headers = {"Accept-Encoding": sys.argv[3]}
    for _ in range(int(sys.argv[4])):
        with urllib.request.urlopen(urllib.request.Request(sys.argv[2], headers=headers)) as answer:
            print(len(answer.read()), flush=True)
"""


def fill_state(state: State, servers: int) -> None:
    """Give each server a window with values in its newest row, and a forecast whose origin is now."""
    step = CONTRACT.to_step(time.time()) - 1
    random = np.random.default_rng(7)
    for number in range(servers):
        state.admit(f"server-{number:05}.example.org", time.time())
    slots = np.arange(servers)
    state.windows.arrays["newest"][slots] = step
    state.windows.arrays["values"][slots, step % CONTRACT.context_length] = 1.0
    post(state, slots, step, random)


def post(state: State, slots: "np.typing.NDArray[np.int64]", step: int, random: np.random.Generator) -> None:
    """Post forecasts in batches, as a lane does."""
    for begin in range(0, len(slots), 256):
        some = slots[begin : begin + 256]
        values = random.uniform(0, 100, (len(some), *CONTRACT.forecast_shape)).astype(np.float32)
        many = np.full(len(some), step)
        state.board.post_many(some, many, np.full(len(some), 288), b"bench", values, compute_checks(values))


@asynccontextmanager
async def running_service(servers: int, port: int, times: RemoteWriteTime = "now") -> AsyncIterator[Service]:
    """Run a service whose forecasts all leave as metrics, without its timers."""
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        limits = WindowLimits(capacity=servers, need=48, late_steps=288, grace_seconds=10.0)
        state = open_state(Path(folder), CONTRACT, limits, time.monotonic())
        fill_state(state, servers)
        settings = ServiceLimits(
            exports=ExportSettings(servers=("*",)),
            remote_write=RemoteWriteSettings(url=f"http://127.0.0.1:{port}/api/v1/write", times=times),
        )
        service = build_service(state, "bench", {}, settings)
        try:
            yield service
        finally:
            service.close()


class LoopWatch:
    """Measures the turns of the running loop, and the CPU time of its thread."""

    def __init__(self) -> None:
        self._turns: list[float] = []
        self._task: asyncio.Task[None] | None = None
        self._cpu = 0.0

    async def measure(self, work: Callable[[], Awaitable[object]]) -> dict[str, float]:
        """Run work and return how long it took, what it took of the loop's thread, and its longest turns, in ms."""
        assert threading.current_thread() is threading.main_thread()
        began, cpu, all_cpu = time.perf_counter(), time.thread_time(), time.process_time()
        task = asyncio.create_task(self._watch())
        await work()
        task.cancel()
        seconds = time.perf_counter() - began
        turns = sorted(self._turns)
        return {
            "seconds": round(seconds, 3),
            "loop_cpu_ms": round((time.thread_time() - cpu) * 1e3, 1),
            "all_cpu_ms": round((time.process_time() - all_cpu) * 1e3, 1),
            "turn_p99_ms": round(turns[int(len(turns) * 0.99)] * 1e3, 2),
            "turn_max_ms": round(turns[-1] * 1e3, 2),
        }

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(WATCH_SECONDS)
            self._turns.append(max(time.perf_counter() - began - WATCH_SECONDS, 0.0))


async def start_other_side(*arguments: object) -> asyncio.subprocess.Process:
    """Start the scraper or the store."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_SIDE, *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )


async def measure_scrape(coding: str) -> dict[str, float]:
    """Measure one scrape of 100,000 series."""
    async with running_service(SCRAPED_SERVERS, 1) as service:
        http_app = make_http_app(service, TransportLimits(), access=AccessList(None, ""), origins=OriginPolicy())
        runner = http_app.make_runner(shutdown_timeout_seconds=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics/forecasts"
        try:
            for _ in range(3):  # the first decides which servers are chosen
                scraper = await start_other_side("scrape", url, coding, 1)

                found = await LoopWatch().measure(scraper.wait)
                assert scraper.stdout is not None
                found["bytes"] = int(await scraper.stdout.read())
            return found
        finally:
            await runner.cleanup()


async def measure_remote_write(times: RemoteWriteTime, port: int) -> dict[str, float]:
    """Measure one round of remote write of 20,000 servers, and the marks of as many new forecasts."""
    store = await start_other_side("store", port)
    await asyncio.sleep(2.0)
    client = OutboundClient()
    try:
        async with running_service(SERVERS, port, times) as service:
            writer = service.remote_write
            assert writer is not None
            await writer.send_round(client, time.monotonic() + 600)  # decides which servers are chosen
            slots = np.arange(SERVERS)
            began = time.perf_counter()
            for begin in range(0, SERVERS, 256):
                some = slots[begin : begin + 256]
                writer.forecasts_posted(some, some, b"", np.empty(0, np.float32))
            marks = time.perf_counter() - began
            before = writer.samples
            found = await LoopWatch().measure(lambda: writer.send_round(client, time.monotonic() + 600))
            if writer.forecasts["sent"] != 2 * SERVERS:
                raise SystemExit(f"not all was sent: {writer.requests}")
            return {"samples": writer.samples - before, "marks_ms": round(marks * 1e3, 2), **found}
    finally:
        await client.close()
        store.kill()
        await store.wait()


async def measure_idle() -> dict[str, float]:
    """Measure what the watching task takes by itself for a second."""
    return await LoopWatch().measure(lambda: asyncio.sleep(1.0))


async def measure() -> dict[str, dict[str, float]]:
    """Return the figures by what was measured."""
    figures = {"idle, 1 s": await measure_idle()}
    for coding in ("identity", "gzip"):
        figures[f"scrape, {coding}"] = await measure_scrape(coding)
    for port, times in enumerate(("now", "future"), 28_471):
        figures[f"remote write, {times}"] = await measure_remote_write(times, port)  # type: ignore[arg-type]
    return figures


def main() -> None:
    """Measure, print a table and write the result."""
    figures = uvloop.run(measure())
    names = ["bytes", "samples", "marks_ms", "seconds", "loop_cpu_ms", "all_cpu_ms", "turn_p99_ms", "turn_max_ms"]
    rows = [(name, *(str(each.get(column, "")) for column in names)) for name, each in figures.items()]
    print_table(f"{SERVERS} servers; a scrape has 100,000 series", ["", *names], rows)
    result = {
        "machine": describe_machine(),
        "servers": SERVERS,
        "not_measured": (__doc__ or "").split("Not measured: ")[1],
    }
    print(write_result("forecast_metrics", {**result, "figures": figures}))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
