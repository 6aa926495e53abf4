"""What the event loop pays for one page that shows the fleet, in turns with and without it, in one run.

As in `alerts.py`: a `Service` with lanes that cost nothing, ten alert rules, and 20,000 servers that each get a row
every 5 s, 100 rows every 25 ms. A reader in another process opens a WebSocket and subscribes as the page does: to the
fleet, 100 servers worst first, and to the forecasts of 40 servers in batch frames, one target, three quantiles, every
fourth step. Microseconds of the loop's thread for a row each way, and how late the loop woke up.

Passes differ by more than a page costs on a machine that others use. So two parts of the cost are also measured by
themselves: the calls on the loop that exist for the page alone (`share_of_calls`), and how much longer frames take that
were handled beside the thread of the overview than those between (`ratio_of_frames`). Not measured: what the browser
does with the frames, taking samples, several processes.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import coroutine
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web

from benchmarks.alerts import FRAME_SECONDS, ROWS_A_FRAME, Fleet, Frame, compute_row_us, summarize
from streamd.core.access.access_list import AccessList
from streamd.http.access.origins import OriginPolicy
from streamd.http.app import make_http_app
from streamd.http.frame_pushing import FramePusher
from streamd.http.requests import TransportLimits
from streamd.http.routes.forecasts import SocketSubscriber
from streamd.runtime.fleet.overview import FleetOverview
from streamd.runtime.hub import Hub

SHOWN_SERVERS = 100
FOLLOWED_SERVERS = 40
SETTLING_FRAMES = 40
"""The first frames of a pass, a second, are left out: the page is opened, and rows were written before."""

ROOT = Path(__file__).resolve().parent.parent


class ServedFleet:
    """The fleet of `alerts.py` behind HTTP; the clock of the overview is shortly after the newest row."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        service, contract = fleet.service, fleet.contract
        service.fleet = FleetOverview(
            fleet.state, service.alerts, wall=lambda: contract.to_origin(fleet.step) + contract.step_seconds / 2
        )
        self.work: list[tuple[float, float]] = []
        """When the thread of the overview was at work (monotonic seconds)."""
        serve = service.fleet._serve

        def serve_timed(*arguments: Any) -> None:
            start = time.monotonic()
            serve(*arguments)
            self.work.append((start, time.monotonic()))

        service.fleet._serve = serve_timed  # type: ignore[method-assign, assignment]

    def is_beside(self, frame: Frame) -> bool:
        """Whether the thread worked while a frame was handled."""
        return any(start < frame.end and end > frame.start for start, end in self.work)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        """Serve, and yield the port."""
        app = make_http_app(self.fleet.service, TransportLimits(), access=AccessList(), origins=OriginPolicy())
        runner = app.make_runner(shutdown_timeout_seconds=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


class CountedCalls:
    """The time that the loop spends in the calls that exist for the page alone: posting by name, and sending frames."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def watch(self) -> None:
        """Count the time of all later calls."""
        publish, seconds = Hub.publish, self.seconds

        def publish_timed(*arguments: Any) -> None:
            start = time.perf_counter()
            publish(*arguments)
            seconds["publish"] += time.perf_counter() - start

        Hub.publish = publish_timed  # type: ignore[method-assign, assignment]
        for owner, name in ((SocketSubscriber, "_send_waiting"), (FramePusher, "_push")):
            setattr(owner, name, self._time_steps(getattr(owner, name), name))

    def _time_steps(self, method: Any, name: str) -> Any:
        """Return a coroutine method that counts the time of its steps, and not of its waits."""

        @coroutine
        def drive(running: Any) -> Generator[Any, Any, Any]:
            steps = running.__await__()
            proceed = steps.__next__
            while True:
                start = time.perf_counter()
                try:
                    waited_for = proceed()
                except StopIteration as end:
                    return end.value
                finally:
                    self.seconds[name] += time.perf_counter() - start
                try:
                    yield waited_for
                    proceed = steps.__next__
                except BaseException as exc:  # such as the end of the task
                    proceed = partial(steps.throw, exc)

        async def timed(*arguments: Any) -> Any:
            return await drive(method(*arguments))

        return timed


class PageProcess:
    """The reader, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, port: int) -> "PageProcess":
        """Start the process."""
        command = (sys.executable, "-m", "benchmarks.fleet_overview", "--page", str(port))
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe))

    async def tell(self, command: str) -> dict[str, float]:
        """Open or close the page; returns what it measured."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        answer: dict[str, float] = json.loads(await self._process.stdout.readline())
        return answer

    async def stop(self) -> None:
        """End the process."""
        self._process.kill()
        await self._process.wait()


async def run_page(port: int) -> None:
    """Be the page: obey the commands on the standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with aiohttp.ClientSession() as session:
        while await reader.readline():
            began = time.monotonic()
            async with session.ws_connect(f"http://127.0.0.1:{port}/v1/forecasts", max_msg_size=0) as socket:
                await socket.send_json({"type": "subscribe-fleet", "limit": SHOWN_SERVERS})
                shown = await _receive(socket, "fleet")
                seconds = time.monotonic() - began
                await socket.send_json(
                    {
                        "type": "subscribe",
                        "servers": shown["order"][:FOLLOWED_SERVERS],
                        "targets": [(await _get(session, port))["contract"]["targets"][0]],
                        "quantiles": [0.1, 0.5, 0.9],
                        "every": 4,
                        "batch": True,
                        "interval_seconds": 1,
                    }
                )
                _answer({"first_frame_ms": seconds * 1e3})
                counted = asyncio.create_task(_count(socket))
                await reader.readline()
                counted.cancel()
                _answer(await asyncio.wait_for(counted, 5))


async def _get(session: aiohttp.ClientSession, port: int) -> Any:
    async with session.get(f"http://127.0.0.1:{port}/v1/status") as response:
        return await response.json()


async def _receive(socket: aiohttp.ClientWebSocketResponse, kind: str) -> Any:
    while (message := await socket.receive_json())["type"] != kind:
        pass
    return message


async def _count(socket: aiohttp.ClientWebSocketResponse) -> dict[str, float]:
    """Count what comes until this is cancelled."""
    counts: dict[str, float] = {}
    try:
        async for message in socket:
            kind = json.loads(message.data)["type"]
            for name, more in ((f"{kind}_frames", 1), (f"{kind}_bytes", len(message.data))):
                counts[name] = counts.get(name, 0) + more
    except asyncio.CancelledError:
        return counts
    return counts


def _answer(measured: dict[str, float]) -> None:
    print(json.dumps(measured), flush=True)


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure passes over the fleet with and without a page, in turns."""
    frames: dict[str, list[list[Frame]]] = {"with": [], "without": []}
    pages: list[dict[str, float]] = []
    calls = CountedCalls()
    calls.watch()
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), arguments)
        served = ServedFleet(fleet)
        fleet.open_lanes()
        await fleet.service.start_alerts()
        overview, busy = fleet.service.fleet, 0.0
        counted: defaultdict[str, float] = defaultdict(float)
        async with served.serve() as port:
            page = await PageProcess.start(port)
            await fleet.run_turn(2)  # memory is touched for the first time, and alerts begin
            for number in range(arguments.turns):
                for name in ("with", "without") if number % 2 == 0 else ("without", "with"):
                    opened = await page.tell("open") if name == "with" else {}
                    before, counted_before = overview.busy_seconds, dict(calls.seconds)
                    frames[name].append((await fleet.run_turn(1))[SETTLING_FRAMES:])
                    for call, each in calls.seconds.items():
                        sign = 1.0 if name == "with" else -1.0
                        counted[call] += sign * (each - counted_before.get(call, 0.0))
                    if name == "with":
                        busy += overview.busy_seconds - before
                        pages.append(opened | await page.tell("close"))
            await page.stop()
        fleet.service.close()
    seconds = arguments.turns * fleet.servers / ROWS_A_FRAME * FRAME_SECONDS
    found = describe(arguments, served, frames, pages)
    more = {name: each / seconds for name, each in counted.items()}
    loop = found["without"]["loop_us"] * 1e-6 * ROWS_A_FRAME / FRAME_SECONDS
    return found | {
        "thread_ms_a_second": round(busy / seconds * 1e3, 2),
        "calls_ms_a_second": {name: round(each * 1e3, 3) for name, each in more.items()},
        "share_of_calls": round(sum(more.values()) / loop, 4),
    }


def describe(
    arguments: argparse.Namespace,
    served: ServedFleet,
    frames: dict[str, list[list[Frame]]],
    pages: list[dict[str, float]],
) -> dict[str, Any]:
    """Return the result of all passes."""
    every = {name: [frame for each in passes for frame in each] for name, passes in frames.items()}
    cost = {name: np.array([compute_row_us(each) for each in passes]) for name, passes in frames.items()}
    ratios = cost["with"] / cost["without"]
    beside = [frame for frame in every["with"] if served.is_beside(frame)]
    between = [frame for frame in every["with"] if not served.is_beside(frame)]
    return {
        **{name: {key: round(value, 3) for key, value in summarize(each).items()} for name, each in every.items()},
        "ratio_of_means": round(float(cost["with"].mean() / cost["without"].mean()), 4),
        "ratio_of_medians": round(float(np.median(cost["with"]) / np.median(cost["without"])), 4),
        "ratio_of_frame_medians": round(_find_median(every["with"]) / _find_median(every["without"]), 4),
        "median_of_ratios": round(float(np.median(ratios)), 4),
        "quartiles_of_ratios": np.percentile(ratios, [25, 75]).round(3).tolist(),
        "beside_us": round(compute_row_us(beside), 3),
        "between_us": round(compute_row_us(between), 3),
        "share_beside": round(len(beside) / len(every["with"]), 4),
        "ratio_of_frames": round(compute_row_us(every["with"]) / compute_row_us(between), 4),
        "first_frame_ms": [round(each["first_frame_ms"], 1) for each in pages],
        "last_page": pages[-1],
        "servers": arguments.servers,
        "rules": arguments.rules,
        "turns": arguments.turns,
    }


def _find_median(frames: list[Frame]) -> float:
    return float(np.median([frame.seconds for frame in frames]))


def main() -> int:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=20_000)
    parser.add_argument("--rules", type=int, default=10)
    parser.add_argument("--turns", type=int, default=20, help="pairs of passes over the fleet, 5 s each")
    parser.add_argument("--near", type=float, default=0.02, help="share of the forecasts near a threshold")
    parser.add_argument("--breaching", type=float, default=0.005, help="share of the forecasts that cross one")
    parser.add_argument("--page", type=int, help="the port of the daemon: be its reader")
    arguments = parser.parse_args()
    if arguments.page is not None:
        asyncio.run(run_page(arguments.page))
        return 0
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30), cache_logger_on_first_use=True)
    sys.setswitchinterval(1e-3)  # as the daemon does
    print(json.dumps(asyncio.run(measure(arguments)), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
