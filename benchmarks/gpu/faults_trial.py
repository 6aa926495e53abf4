"""A daemon in this process, callers who know the right answers, a fleet that reports, and a lane that crashes.

Measures what callers and probes see of it; not how the device recovers (see `faults_child`).
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import msgspec
import numpy as np

from benchmarks.gpu.correctness import Reference
from benchmarks.gpu.crashing import Crash, CrashingBackend, CrashingLane
from benchmarks.gpu.harness import ROOT
from benchmarks.harness import find_free_port
from streamd.http.wire.tensors import write_tensor
from streamd.inference.lane import Lane
from streamd.repository.versions import load_version
from streamd.server import daemon as daemon_module
from streamd.server.config import load_config
from streamd.server.version_control.specs import open_version

WINDOWS = 64
CALLERS = 8
BEFORE_SECONDS = 2.0
AFTER_SECONDS = {"once": 8.0, "always": 50.0}
ROWS_EVERY_SECONDS = 0.1
SERVERS = 50


@dataclass
class Seen:
    """What callers and probes saw; seconds are from the crash on."""

    answered: int = 0
    wrong: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    unready_seconds: float = 0.0
    first_unready: float | None = None
    ready_again: float | None = None
    longest_wait_seconds: float = 0.0


class Trial:
    """A daemon in this process, callers who know the right answers, a fleet that reports, and a crash."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.version = load_version(asked.engines / asked.version)
        self.reference = Reference.of(self.version, WINDOWS)
        self.crash = Crash()
        self.seen = Seen()
        self.url = f"http://127.0.0.1:{find_free_port()}"
        self.stopping = False
        self.first_backend = ""

    async def run(self) -> dict[str, Any]:
        """Serve, load, crash, and see what becomes of it."""
        self._wrap_backends()
        settings = {"engines": str(self.asked.engines), "engine": self.version.name, "backend": self.asked.backend}
        settings |= {"lanes": "4", "port": self.url.rpartition(":")[2], "state_dir": str(self.asked.folder / "state")}
        settings |= {"warmup_seconds": "1", "min_context_rows": "1", "log_level": "info", "log_format": "json"}
        daemon = daemon_module.Daemon(load_config(ROOT / "config.toml", {}, settings))
        serving = asyncio.create_task(daemon.run())
        async with aiohttp.ClientSession() as session:
            await self._until_ready(session, serving)
            tasks = [asyncio.create_task(self._call(session, number)) for number in range(CALLERS)]
            tasks += [asyncio.create_task(self._probe(session)), asyncio.create_task(self._report(session))]
            await asyncio.sleep(BEFORE_SECONDS)
            before = self.seen.answered
            self.first_backend = (await self._status(session))["backend"]
            self.crash.arm(1 if self.asked.how == "once" else 10**9)
            await self._until_over(session)
            self.stopping = True
            await asyncio.gather(*tasks)
            await asyncio.sleep(1.0)
            status = await self._status(session)
            ready = await self._ready(session)
        daemon.stop()
        await serving
        return self._finding(before, status, ready=ready)

    def _wrap_backends(self) -> None:
        real, crash = open_version, self.crash
        wrapped: set[str] = set()

        def opening(*arguments: Any, **more: Any) -> Any:
            opened = real(*arguments, **more)
            # Only the first backend crashes: what takes over from it must be left alone.
            if not wrapped or opened.backend.name in wrapped:
                wrapped.add(opened.backend.name)
                lanes: list[Lane] = [CrashingLane(lane, crash) for lane in opened.lanes]
                return replace(opened, backend=CrashingBackend(opened.backend, crash), lanes=lanes)
            return opened

        vars(daemon_module)["open_version"] = opening

    # ------------------------------------------------------------ load
    async def _call(self, session: aiohttp.ClientSession, number: int) -> None:
        random = np.random.default_rng(number)
        while not self.stopping:
            rows = random.integers(0, WINDOWS, int(random.integers(1, 17)))
            inputs = {name: write_tensor(value[rows]) for name, value in self.reference.inputs.first(WINDOWS).items()}
            body = msgspec.msgpack.encode({"inputs": inputs})
            began = time.monotonic()
            try:
                headers = {"Content-Type": "application/msgpack"}
                async with session.post(f"{self.url}/v1/predict", data=body, headers=headers) as answer:
                    given = msgspec.msgpack.decode(await answer.read())
                    self._take(answer.status, given, rows)
            except aiohttp.ClientError as error:
                self._refuse(type(error).__name__)
            self.seen.longest_wait_seconds = max(self.seen.longest_wait_seconds, time.monotonic() - began)
            await asyncio.sleep(0.002)

    def _take(self, status: int, given: dict[str, Any], rows: np.ndarray[Any, Any]) -> None:
        if status != 200:
            self._refuse(f"{status} {given.get('code') or given.get('error')}")
            return
        tensor = given["outputs"]["predictions"]
        forecasts = np.frombuffer(tensor["data"], np.float32).reshape(tensor["shape"])
        expected = self.reference.forecasts[rows].reshape(forecasts.shape)
        error = np.linalg.norm((forecasts - expected).astype(np.float64)) / np.linalg.norm(expected.astype(np.float64))
        self.seen.answered += 1
        self.seen.wrong += int(not error <= 5e-3)

    def _refuse(self, why: str) -> None:
        self.seen.refused[why] = self.seen.refused.get(why, 0) + 1

    async def _report(self, session: aiohttp.ClientSession) -> None:
        """A small fleet whose rows must not be lost."""
        step, number = self.version.contract.step_seconds, 0
        begin = int(time.time()) // step * step - 10_000 * step
        while not self.stopping:
            values = {name: float(number % 50) for name in self.version.contract.features}
            time_of_row = begin + number * step
            samples = [
                {"server": f"server-{each:02d}", "time": time_of_row, "values": values} for each in range(SERVERS)
            ]
            async with session.post(f"{self.url}/v1/samples", json={"samples": samples}) as answer:
                await answer.read()
            number += 1
            await asyncio.sleep(ROWS_EVERY_SECONDS)

    # ------------------------------------------------------------ probes
    async def _probe(self, session: aiohttp.ClientSession) -> None:
        seen, last = self.seen, time.monotonic()
        while not self.stopping:
            ready, now = await self._ready(session), time.monotonic()
            if self.crash.at is not None and not ready:
                seen.unready_seconds += now - last
                seen.first_unready = seen.first_unready if seen.first_unready is not None else now - self.crash.at
                seen.ready_again = None
            elif self.crash.at is not None and seen.first_unready is not None and seen.ready_again is None:
                seen.ready_again = now - self.crash.at
            last = now
            await asyncio.sleep(0.01)

    async def _ready(self, session: aiohttp.ClientSession) -> bool:
        async with session.get(f"{self.url}/readyz") as answer:
            return answer.status == 200

    async def _status(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        async with session.get(f"{self.url}/v1/status") as answer:
            status: dict[str, Any] = await answer.json()
            return status

    async def _until_ready(self, session: aiohttp.ClientSession, serving: "asyncio.Task[int]") -> None:
        while not serving.done():
            try:
                if await self._ready(session):
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
        serving.result()

    async def _until_over(self, session: aiohttp.ClientSession) -> None:
        """Until the time is over, or another backend has taken over and answered for two seconds."""
        began = time.monotonic()
        while time.monotonic() - began < AFTER_SECONDS[self.asked.how]:
            await asyncio.sleep(0.5)
            status = await self._status(session)
            if status["backend"] != self.first_backend and status["ready"]:
                await asyncio.sleep(2.0)
                return

    # ------------------------------------------------------------ the finding
    def _finding(self, before: int, status: dict[str, Any], *, ready: bool) -> dict[str, Any]:
        seen, rows = self.seen, status["rows"]
        left = rows["due"] - sum(rows[name] for name in ("delivered", "superseded", "failed", "forgotten"))
        after = seen.answered - before
        backend = status["backend"]
        sound = ready and after > 0 and not seen.wrong and self.crash.count > 0 and left == 0 and not rows["failed"]
        if self.asked.how == "always":
            sound = sound and backend != self.first_backend
        told = (
            f"{self.first_backend} to {backend}, unready {seen.unready_seconds:.2f} s, {after} calls answered after it"
        )
        return {
            "told": told,
            "passes": bool(sound),
            "crashes": self.crash.count,
            "calls_answered": {"before": before, "after": after},
            "calls_answered_wrongly": seen.wrong,
            "calls_refused": seen.refused,
            "longest_wait_seconds": round(seen.longest_wait_seconds, 3),
            "unready_seconds": round(seen.unready_seconds, 3),
            "first_unready_seconds_after": _rounded(seen.first_unready),
            "ready_again_seconds_after": _rounded(seen.ready_again),
            "rows": rows,
            "rows_unaccounted": left,
            "fallbacks": status["fallbacks"],
            "lanes_lost": status["lanes_lost"],
            "lanes": len(status["lanes"]),
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
