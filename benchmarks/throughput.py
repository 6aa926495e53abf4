"""Forecasts a second through the whole daemon, beside the same ONNX model called in-process.

The daemon: every server sends its next row as soon as its forecast is received, so there are always due rows; rows
and forecasts use real sockets. In-process: as many sessions as the daemon has lanes, one thread each, the same batch
size, nothing else. The two take turns in one run. The client shares the machine's cores with the daemon, and its cost
counts against the daemon here. Not measured: a network, JSON, latency.
"""

import asyncio
import os
import statistics
import threading
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.harness import ROOT, DaemonProcess, running_daemon
from benchmarks.ingest import FEATURES, START, STEP_SECONDS
from streamd.inference.lane import Inputs
from streamd.repository.versions import EngineRepository, EngineVersion
from streamd.runtime.lanes.warmup import fill_plausibly

SERVERS = 256
_VALUES = np.random.default_rng(1).random((SERVERS + 97, 14), np.float32)
ROUNDS = 3
SECONDS_A_TURN = 8.0


@dataclass
class Client:
    """A client that feeds the daemon in a closed loop over one ingest socket and one subscription."""

    session: aiohttp.ClientSession
    daemon: DaemonProcess
    latest: int = START
    """The newest row that any server has sent."""

    async def prefill(self, rows: int) -> None:
        """Send `rows` rows of every server and wait until nothing is due."""
        async with self.session.ws_connect(f"{self.daemon.url}/v1/ingest", max_msg_size=0) as socket:
            for row in range(rows):
                await socket.send_bytes(self._make_frame(range(SERVERS), [START + row * STEP_SECONDS] * SERVERS))
                await socket.receive()
        self.latest = START + (rows - 1) * STEP_SECONDS
        await self._wait_idle()

    async def run(self, seconds: float) -> tuple[float, float]:
        """Keep the daemon busy; returns forecasts a second, and the mean batch size."""
        before = await self._count_batches()
        ingest = await self.session.ws_connect(f"{self.daemon.url}/v1/ingest?ack=none", max_msg_size=0)
        forecasts = await self.session.ws_connect(f"{self.daemon.url}/v1/forecasts", max_msg_size=0)
        subscribe = {"type": "subscribe", "batch": True, "dtype": "float16"}
        await forecasts.send_bytes(msgspec.msgpack.encode(subscribe))
        await forecasts.receive()
        newest = [self.latest] * SERVERS
        await self._send_next_rows(ingest, list(range(SERVERS)), newest)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            message = msgspec.msgpack.decode((await forecasts.receive(timeout=60)).data)
            servers = [int(name[-4:]) for name in message["servers"]]
            count += len(servers)
            await self._send_next_rows(ingest, servers, newest)
        rate = count / (time.perf_counter() - began)
        await ingest.close()
        await forecasts.close()
        await self._wait_idle()
        self.latest = max(newest)
        windows, batches = (after - former for after, former in zip(await self._count_batches(), before, strict=True))
        return rate, windows / max(batches, 1)

    async def _send_next_rows(
        self, socket: aiohttp.ClientWebSocketResponse, servers: list[int], newest: list[int]
    ) -> None:
        for server in servers:
            newest[server] += STEP_SECONDS
        await socket.send_bytes(self._make_frame(servers, [newest[server] for server in servers]))

    def _make_frame(self, servers: "range | list[int]", times: list[int]) -> bytes:
        values = _VALUES[times[0] % 97 : times[0] % 97 + len(servers)]
        tensor = {"shape": list(values.shape), "dtype": "float32", "data": values.tobytes()}
        names = [f"server-{server:04d}" for server in servers]
        return msgspec.msgpack.encode(
            {"columns": {"servers": names, "time": times, "features": FEATURES, "values": tensor}}
        )

    async def _wait_idle(self) -> None:
        while (status := await self.daemon.fetch_status(self.session))["due"] or status["in_flight"]:
            await asyncio.sleep(0.1)

    async def _count_batches(self) -> tuple[int, int]:
        lanes = (await self.daemon.fetch_status(self.session))["lanes"]
        return sum(lane["windows"] for lane in lanes), sum(lane["batches"] for lane in lanes)


class InProcess:
    """The same model in sessions of this process, with the settings of the daemon's lanes."""

    def __init__(self, version: EngineVersion, lanes: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        make = onnxruntime.InferenceSession
        self._sessions: list[Any] = [
            make(str(version.onnx), options, providers=["CPUExecutionProvider"]) for _ in range(lanes)
        ]
        self._inputs = Inputs.allocate(version.contract, 256)
        fill_plausibly(self._inputs)

    def run(self, batch: int, seconds: float) -> float:
        """Run all sessions; returns forecasts a second at this batch size."""
        feed: dict[str, npt.NDArray[Any]] = self._inputs.view_first(batch)
        counts = [0] * len(self._sessions)
        began = time.perf_counter()

        def work(place: int) -> None:
            while time.perf_counter() - began < seconds:
                self._sessions[place].run(["predictions"], feed)
                counts[place] += batch

        threads = [threading.Thread(target=work, args=(place,)) for place in range(len(self._sessions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - began)


async def measure(engine: str = "") -> dict[str, Any]:
    """Measure the forecasts a second of both, turn by turn, and the median of their ratios."""
    repository = EngineRepository(ROOT / "engines")
    version = repository.load(engine) if engine else repository.choose()
    daemon_rates, in_process_rates, batches = [], [], []
    settings = {"engine": version.name} if engine else {}
    async with running_daemon(max_servers=SERVERS, **settings) as daemon, aiohttp.ClientSession() as session:
        client = Client(session, daemon)
        await client.prefill(60)
        lanes = len((await daemon.fetch_status(session))["lanes"])
        in_process = InProcess(version, lanes)
        client_seconds = 0.0
        for _ in range(ROUNDS):
            began = time.process_time()
            rate, batch = await client.run(SECONDS_A_TURN)
            client_seconds += time.process_time() - began
            daemon_rates.append(rate)
            batches.append(batch)
            size = max(1, round(batch))
            in_process_rates.append(await asyncio.to_thread(in_process.run, size, SECONDS_A_TURN))
    ratios = [ours / theirs for ours, theirs in zip(daemon_rates, in_process_rates, strict=True)]
    return {
        "engine": version.name,
        "lanes": lanes,
        "mean_batch": round(statistics.median(batches), 1),
        "client_share_of_machine": round(client_seconds / (ROUNDS * SECONDS_A_TURN * (os.cpu_count() or 1)), 3),
        "daemon_forecasts_per_second": [round(rate, 1) for rate in daemon_rates],
        "in_process_forecasts_per_second": [round(rate, 1) for rate in in_process_rates],
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


if __name__ == "__main__":
    print(asyncio.run(measure()))
