"""A crash of a lane under load: a daemon in this process, callers that know the right answers, and a fleet.

Measures the effect on callers and probes. Not measured: the recovery of the device (see `faults_child.py`).
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import numpy as np

from benchmarks.gpu.correctness import Reference
from benchmarks.gpu.crashing import Crash, crash_first_backend
from benchmarks.gpu.harness import ROOT
from benchmarks.harness import find_free_port
from streamd.http.wire.tensors import make_wire_tensor
from streamd.repository.versions import load_version
from streamd.server import daemon as daemon_module
from streamd.server.config import load_config

WINDOWS = 64
CALLERS = 8
BEFORE_SECONDS = 2.0
AFTER_SECONDS = {"once": 8.0, "always": 50.0}
ROWS_EVERY_SECONDS = 0.1
SERVERS = 50


@dataclass
class Observations:
    """The observations of callers and probes; seconds are counted from the crash."""

    answered: int = 0
    wrong: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    unready_seconds: float = 0.0
    first_unready: float | None = None
    ready_again: float | None = None
    longest_wait_seconds: float = 0.0


class CrashTest:
    """A daemon in this process with callers, a fleet and a crash."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.version = load_version(args.engines / args.version)
        self.reference = Reference.of(self.version, WINDOWS)
        self.crash = Crash()
        self.observed = Observations()
        self.url = f"http://127.0.0.1:{find_free_port()}"
        self.stopping = False
        self.first_backend = ""

    async def run(self) -> dict[str, Any]:
        """Serve under load, crash a lane, and return the finding."""
        crash_first_backend(self.crash)
        settings = {"engines": str(self.args.engines), "engine": self.version.name, "backend": self.args.backend}
        settings |= {"lanes": "4", "port": self.url.rpartition(":")[2], "state_dir": str(self.args.folder / "state")}
        settings |= {"warmup_seconds": "1", "min_context_rows": "1", "log_level": "info", "log_format": "json"}
        daemon = daemon_module.Daemon(load_config(ROOT / "config.toml", {}, settings))
        serving = asyncio.create_task(daemon.run())
        async with aiohttp.ClientSession() as session:
            await self._wait_ready(session, serving)
            tasks = [asyncio.create_task(self._send_calls(session, number)) for number in range(CALLERS)]
            tasks += [asyncio.create_task(self._poll_readiness(session)), asyncio.create_task(self._send_rows(session))]
            await asyncio.sleep(BEFORE_SECONDS)
            before = self.observed.answered
            self.first_backend = (await self._fetch_status(session))["backend"]
            self.crash.arm(1 if self.args.how == "once" else 10**9)
            await self._wait_outcome(session)
            self.stopping = True
            await asyncio.gather(*tasks)
            await asyncio.sleep(1.0)
            status = await self._fetch_status(session)
            ready = await self._is_ready(session)
        daemon.stop()
        await serving
        return self._make_finding(before, status, ready=ready)

    # ------------------------------------------------------------ load
    async def _send_calls(self, session: aiohttp.ClientSession, number: int) -> None:
        random = np.random.default_rng(number)
        while not self.stopping:
            rows = random.integers(0, WINDOWS, int(random.integers(1, 17)))
            inputs = {
                name: make_wire_tensor(value[rows]) for name, value in self.reference.inputs.view_first(WINDOWS).items()
            }
            body = msgspec.msgpack.encode({"inputs": inputs})
            began = time.monotonic()
            try:
                headers = {"Content-Type": "application/msgpack"}
                async with session.post(f"{self.url}/v1/predict", data=body, headers=headers) as response:
                    given = msgspec.msgpack.decode(await response.read())
                    self._check_answer(response.status, given, rows)
            except aiohttp.ClientError as error:
                self._count_refusal(type(error).__name__)
            self.observed.longest_wait_seconds = max(self.observed.longest_wait_seconds, time.monotonic() - began)
            await asyncio.sleep(0.002)

    def _check_answer(self, status: int, given: dict[str, Any], rows: np.ndarray[Any, Any]) -> None:
        if status != 200:
            self._count_refusal(f"{status} {given.get('code') or given.get('error')}")
            return
        tensor = given["outputs"]["predictions"]
        forecasts = np.frombuffer(tensor["data"], np.float32).reshape(tensor["shape"])
        expected = self.reference.forecasts[rows].reshape(forecasts.shape)
        error = np.linalg.norm((forecasts - expected).astype(np.float64)) / np.linalg.norm(expected.astype(np.float64))
        self.observed.answered += 1
        self.observed.wrong += int(not error <= 5e-3)

    def _count_refusal(self, why: str) -> None:
        self.observed.refused[why] = self.observed.refused.get(why, 0) + 1

    async def _send_rows(self, session: aiohttp.ClientSession) -> None:
        """Send the rows of a small fleet, which must not be lost."""
        step, number = self.version.contract.step_seconds, 0
        begin = int(time.time()) // step * step - 10_000 * step
        while not self.stopping:
            values = {name: float(number % 50) for name in self.version.contract.features}
            time_of_row = begin + number * step
            samples = [
                {"server": f"server-{each:02d}", "time": time_of_row, "values": values} for each in range(SERVERS)
            ]
            async with session.post(f"{self.url}/v1/samples", json={"samples": samples}) as response:
                await response.read()
            number += 1
            await asyncio.sleep(ROWS_EVERY_SECONDS)

    # ------------------------------------------------------------ probes
    async def _poll_readiness(self, session: aiohttp.ClientSession) -> None:
        observed, last = self.observed, time.monotonic()
        while not self.stopping:
            ready, now = await self._is_ready(session), time.monotonic()
            if self.crash.at is not None and not ready:
                observed.unready_seconds += now - last
                observed.first_unready = (
                    observed.first_unready if observed.first_unready is not None else now - self.crash.at
                )
                observed.ready_again = None
            elif self.crash.at is not None and observed.first_unready is not None and observed.ready_again is None:
                observed.ready_again = now - self.crash.at
            last = now
            await asyncio.sleep(0.01)

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        async with session.get(f"{self.url}/readyz") as response:
            return response.status == 200

    async def _fetch_status(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        async with session.get(f"{self.url}/v1/status") as response:
            status: dict[str, Any] = await response.json()
            return status

    async def _wait_ready(self, session: aiohttp.ClientSession, serving: "asyncio.Task[int]") -> None:
        while not serving.done():
            try:
                if await self._is_ready(session):
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
        serving.result()

    async def _wait_outcome(self, session: aiohttp.ClientSession) -> None:
        """Wait until the time is over, or another backend has replaced the first and answered for two seconds."""
        began = time.monotonic()
        while time.monotonic() - began < AFTER_SECONDS[self.args.how]:
            await asyncio.sleep(0.5)
            status = await self._fetch_status(session)
            if status["backend"] != self.first_backend and status["ready"]:
                await asyncio.sleep(2.0)
                return

    # ------------------------------------------------------------ the finding
    def _make_finding(self, before: int, status: dict[str, Any], *, ready: bool) -> dict[str, Any]:
        observed, rows = self.observed, status["rows"]
        left = rows["due"] - sum(rows[name] for name in ("delivered", "superseded", "failed", "forgotten"))
        after = observed.answered - before
        backend = status["backend"]
        sound = ready and after > 0 and not observed.wrong and self.crash.count > 0 and left == 0 and not rows["failed"]
        if self.args.how == "always":
            sound = sound and backend != self.first_backend
        unready = f"unready {observed.unready_seconds:.2f} s"
        told = f"{self.first_backend} to {backend}, {unready}, {after} calls answered after it"
        return {
            "told": told,
            "passes": bool(sound),
            "crashes": self.crash.count,
            "calls_answered": {"before": before, "after": after},
            "calls_answered_wrongly": observed.wrong,
            "calls_refused": observed.refused,
            "longest_wait_seconds": round(observed.longest_wait_seconds, 3),
            "unready_seconds": round(observed.unready_seconds, 3),
            "first_unready_seconds_after": _round(observed.first_unready),
            "ready_again_seconds_after": _round(observed.ready_again),
            "rows": rows,
            "rows_unaccounted": left,
            "fallbacks": status["fallbacks"],
            "lanes_lost": status["lanes_lost"],
            "lanes": len(status["lanes"]),
        }


def _round(seconds: float | None) -> float | None:
    return round(seconds, 3) if seconds is not None else None
